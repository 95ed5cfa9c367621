"""What the operators' pages read of many iterations at once: a fixed number of queries, however many there are."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from store.records import Stage, StageEntry, Verdict
from store.session import Session

#: Answers around each of the newest moves of the pointer, the moves in the order they were made; of a busy time those
#: nearest to the move, on both sides.
AROUND = """
    select move, offset, first_token_s, latency_s, completion_tokens from (
        select a.id as move, c.created_at - a.at as offset, c.first_token_s, c.latency_s, c.completion_tokens,
            row_number() over (partition by a.id, c.created_at < a.at order by abs(c.created_at - a.at)) as place
        from (select id, at from activations order by id desc limit :moves) a
        join completions c on c.created_at >= a.at - :seconds and c.created_at < a.at + :seconds
        where c.source = 'chat' and c.status = 'done' and c.latency_s is not null
    ) where place <= :each order by move, offset
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a metric was held against; None where there was no such limit."""

    soft: float | None
    hard: float | None


@dataclass(frozen=True, slots=True)
class Near:
    """An answer near a move of the pointer. `offset`: seconds from the move to the request; before it below 0.

    `first_token` and `latency` in seconds, None where nobody measured.
    """

    move: int
    offset: float
    first_token: float | None
    latency: float
    tokens: int


class History:
    """`among` is always the iterations asked about."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def metrics(self, among: Iterable[int], names: Iterable[str]) -> dict[int, dict[str, float]]:
        """Measurements by iteration and name, those that are numbers."""
        rows = self._session.rows(
            "select iteration, name, value from metrics where value is not null "
            "and iteration in (select value from json_each(:among)) "
            "and name in (select value from json_each(:names))",
            {"among": listed(among), "names": json.dumps(sorted(set(names)))},
        )
        found: dict[int, dict[str, float]] = {}
        for row in rows:
            found.setdefault(row["iteration"], {})[row["name"]] = row["value"]
        return found

    def candidates(self, among: Iterable[int]) -> dict[int, str]:
        """The version that each iteration ended with: its measurements are of that one, whatever else it trained."""
        sql = (
            "select id, candidate from iterations where candidate is not null "
            "and id in (select value from json_each(?))"
        )
        return {row["id"]: row["candidate"] for row in self._session.rows(sql, [listed(among)])}

    def verdicts(self, among: Iterable[int]) -> dict[int, dict[Verdict, int]]:
        """How many checks of each iteration ended how."""
        rows = self._session.rows(
            "select iteration, verdict, count(*) as n from gate_results "
            "where iteration in (select value from json_each(?)) group by iteration, verdict",
            [listed(among)],
        )
        found: dict[int, dict[Verdict, int]] = {}
        for row in rows:
            found.setdefault(row["iteration"], {})[Verdict(row["verdict"])] = row["n"]
        return found

    def limits(self, among: Iterable[int], metrics: Iterable[str]) -> dict[int, dict[str, Limits]]:
        """The limits that these metrics were held against, by iteration."""
        rows = self._session.rows(
            "select iteration, metric, soft, hard from gate_results "
            "where iteration in (select value from json_each(:among)) "
            "and metric in (select value from json_each(:names))",
            {"among": listed(among), "names": json.dumps(sorted(set(metrics)))},
        )
        found: dict[int, dict[str, Limits]] = {}
        for row in rows:
            found.setdefault(row["iteration"], {})[row["metric"]] = Limits(row["soft"], row["hard"])
        return found

    def stages(self, among: Iterable[int]) -> Mapping[int, Sequence[StageEntry]]:
        """Every move of these iterations, oldest first."""
        rows = self._session.rows(
            "select iteration, stage, at, note from iteration_stages "
            "where iteration in (select value from json_each(?)) order by id",
            [listed(among)],
        )
        found: dict[int, list[StageEntry]] = {}
        for row in rows:
            entry = StageEntry(row["iteration"], Stage(row["stage"]), row["at"], row["note"])
            found.setdefault(entry.iteration, []).append(entry)
        return found

    def around_moves(self, *, moves: int, seconds: float, each: int = 1000) -> list[Near]:
        """People's answers around the newest moves of the pointer, at most `each` on either side of one."""
        values = {"moves": moves, "seconds": seconds, "each": each}
        return [
            Near(row["move"], row["offset"], row["first_token_s"], row["latency_s"], row["completion_tokens"])
            for row in self._session.rows(AROUND, values)
        ]


def listed(ids: Iterable[int]) -> str:
    return json.dumps(sorted(set(ids)))
