"""How a version's answers fared with people: votes, and what can be counted without asking anybody.

Only answers that a person asked for. Texts are left out: whoever decides by these rows needs no content, and
answers that were asked with `store: false` count too.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from store.session import Session

#: The latest thumb on every answer, whoever gave it; `nth` of its person, from the span's beginning or its end.
LATEST = """
    select f.principal, f.created_at, f.value, f.seq,
      row_number() over (partition by f.principal order by f.seq {direction}) as nth
    from completions c join feedback f on f.completion_id = c.id
    where c.adapter is :version and c.source = 'chat' and f.kind = 'thumb'
      and c.created_at >= :since and f.created_at < :before and f.value != 'null'
      and not exists (
        select 1 from feedback later
        where later.completion_id = f.completion_id and later.choice_index = f.choice_index
          and later.kind = 'thumb' and later.seq > f.seq and later.created_at < :before)
"""
VOTES = f"""
    select principal, created_at, value from ({LATEST})
    where nth <= :most order by seq {{direction}} limit :limit
"""
VOTERS = f"select count(distinct principal) from ({LATEST})"
#: A failed answer without a latency was cut off, by a stop of the service or because the engine went away under it:
#: not the version's doing.
ENDED = """
    select c.id, c.rowid as number, c.principal, c.created_at, c.status, c.completion_tokens, c.latency_s,
      row_number() over (
        partition by c.principal, cast(c.created_at / :period as integer)
        order by c.created_at {direction}, c.rowid {direction}) as nth
    from completions c
    where c.adapter is :version and c.source = 'chat' and c.created_at >= :since and c.created_at < :before
      and (c.status in ('done', 'cancelled') or (c.status = 'failed' and c.latency_s is not null))
"""
ANSWERS = f"""
    select c.principal, c.created_at, c.status, c.completion_tokens, c.latency_s,
      (select count(*) from completion_choices o where o.completion_id = c.id) as choices,
      exists (select 1 from feedback f where f.completion_id = c.id and f.kind = 'regenerate'
        and f.created_at < :before) as regenerated
    from ({ENDED}) c
    where c.nth <= :most order by c.created_at {{direction}}, c.number {{direction}} limit :limit
"""
ASKERS = f"select count(distinct principal) from ({ENDED})"
#: The latest thumb of everybody on every answer, by who gave the answer.
THUMBS = """
    select c.adapter as version, sum(f.value = 'true') as up, sum(f.value = 'false') as down,
      count(distinct f.principal) as people, sum(q.id is not null) as quarantined,
      min(f.created_at) as first_at, max(f.created_at) as last_at
    from latest_feedback f join completions c on c.id = f.completion_id
    left join quarantined q on q.feedback_id = f.id
    where f.kind = 'thumb' and f.value in ('true', 'false') and c.source = 'chat'
    group by c.adapter order by min(f.seq)
"""


@dataclass(frozen=True, slots=True)
class Thumbs:
    """All votes on one version's answers (None: the base); `quarantined` of them are held back. Times as ever."""

    version: str | None
    up: int
    down: int
    people: int
    quarantined: int
    first_at: float
    last_at: float


@dataclass(frozen=True, slots=True)
class Vote:
    """What counts about an answer: the latest thumb, whoever gave it. `at`: seconds since the epoch."""

    principal: str
    at: float
    up: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """One request as it ended. `length` is tokens per choice, `pace` seconds per token; None where it has none."""

    principal: str
    at: float
    failed: bool
    regenerated: bool
    length: float | None
    pace: float | None


@dataclass(frozen=True, slots=True)
class Span:
    """Answers of one version (None: the base) in [since, before), from its end if `newest`.

    Of each person at most `most` (of answers, in every `period` seconds), of these at most `limit`: whoever is busy
    takes nobody else's place.
    """

    version: str | None
    since: float = 0.0
    before: float = float("inf")
    limit: int = 1000
    newest: bool = False
    most: int = sys.maxsize
    period: float = float("inf")


class Outcomes:
    def __init__(self, session: Session) -> None:
        self._session = session

    def votes(self, span: Span) -> Sequence[Vote]:
        """Votes given before the span's end on answers given in it, in the order they were given."""
        rows = [
            Vote(row["principal"], row["created_at"], row["value"] == "true")
            for row in self._session.rows(VOTES.format(direction=direction(span)), values(span))
        ]
        return rows[::-1] if span.newest else rows

    def voters(self, span: Span) -> int:
        """People who voted on answers of the span, however many votes the span is limited to."""
        return int(self._session.rows(VOTERS.format(direction="asc"), values(span))[0][0])

    def askers(self, span: Span) -> int:
        """People who asked for answers of the span, likewise."""
        return int(self._session.rows(ASKERS.format(direction="asc"), values(span))[0][0])

    def thumbs(self) -> Sequence[Thumbs]:
        """How every version fared, in the order they were first voted on."""
        return [Thumbs(**dict(row)) for row in self._session.rows(THUMBS)]

    def answers(self, span: Span) -> Sequence[Answer]:
        """Answers of the span, in the order they were asked for."""
        found = []
        for row in self._session.rows(ANSWERS.format(direction=direction(span)), values(span)):
            whole = row["status"] == "done" and row["completion_tokens"] > 0
            tokens, latency = row["completion_tokens"], row["latency_s"]
            found.append(
                Answer(
                    row["principal"],
                    row["created_at"],
                    failed=row["status"] == "failed",
                    regenerated=bool(row["regenerated"]),
                    length=tokens / max(row["choices"], 1) if whole else None,
                    pace=latency / tokens if whole and latency is not None else None,
                )
            )
        return found[::-1] if span.newest else found


def direction(span: Span) -> str:
    return "desc" if span.newest else "asc"


def values(span: Span) -> dict[str, str | float | int | None]:
    return {
        "version": span.version,
        "since": span.since,
        "before": span.before,
        "limit": span.limit,
        "most": span.most,
        "period": span.period,
    }
