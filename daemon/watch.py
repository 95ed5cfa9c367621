"""The live watch: after a promotion, what people say of the new version is held against what they said before.

Everything is computed anew from the store, so a restart changes nothing. Not watched is a version that came by a
rollback: it was served before, and going to and fro between two versions helps nobody.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from daemon import evidence
from daemon.evidence import Arm, Finding
from daemon.rollout import WatchConfig
from store.db import Store
from store.outcomes import Span
from store.records import BASE, SERVABLE

#: Who rolls back, in the audit log and in the history of the pointer.
ACTOR = "watch"
#: Where the loop leaves what status pages show of the watch.
STATE = "watch"
#: Answers looked at for every vote: errors and retries are rarer than answers, votes rarer still.
ANSWERS_A_VOTE = 5


@dataclass(frozen=True, slots=True)
class Watched:
    """The version being watched since `at`, and the one before it (None: the base). `id` of its activation."""

    id: int
    version: str
    previous: str | None
    at: float

    @property
    def seed(self) -> str:
        return f"{self.id}/{self.version}"


def watched(store: Store) -> Watched | None:
    """What is watched now: the newest move of the pointer, if it was a promotion."""
    recent = store.adapters.activations(limit=1)
    if not recent or recent[0].version is None or recent[0].backwards:
        return None
    move = recent[0]
    return Watched(move.id, recent[0].version, move.previous, move.at)


def history(store: Store, one: Watched, config: WatchConfig) -> Arm:
    """The last votes and answers of the version before, up to the promotion, shuffled: they have no order of arrival
    beside what came after. Never changes afterwards.
    """
    each = config.votes_per_person
    span = Span(one.previous, before=one.at, limit=config.votes, newest=True)
    span = replace(span, most=evidence.allowed(each, store.outcomes.voters(span)))
    answers = replace(span, limit=ANSWERS_A_VOTE * config.votes)
    most = evidence.allowed(evidence.ANSWERS_A_VOTE * each, store.outcomes.askers(answers))
    answers = replace(answers, most=most)
    return Arm(tuple(store.outcomes.votes(span)), tuple(store.outcomes.answers(answers))).shuffled(one.seed)


def since(store: Store, one: Watched, before: Arm, config: WatchConfig) -> Arm:
    """The first votes and answers of the watched version; as many of each person as the people of the history, and
    those who came until then, leave to one.
    """
    end, each = one.at + 3600 * config.hours, config.votes_per_person
    span = Span(one.version, one.at, end, limit=evidence.MOST_VOTES, most=evidence.allowed(each, 1))
    known = {vote.principal for vote in before.votes}
    votes = evidence.limited(store.outcomes.votes(span), each, known)[: config.votes]
    return Arm(votes, tuple(store.outcomes.answers(evidence.hourly(one.version, one.at, each, end))))


def findings(store: Store, one: Watched, before: Arm, config: WatchConfig) -> tuple[Finding, ...]:
    """Every metric as it stands; `before` is what `history` returned."""
    trial = evidence.Trial(
        harm=config.harm,
        share=None,
        length_margin=config.length_margin,
        latency_margin=None,
    )
    return evidence.weigh(since(store, one, before, config), before, trial)


def over(one: Watched, now: float, config: WatchConfig) -> bool:
    """Whether the window has passed."""
    return not config.enabled or now >= one.at + 3600 * config.hours


def way_back(store: Store, one: Watched) -> str:
    """The version to return to: the one before, or the base where that may not be served."""
    if one.previous is None or store.adapters.get(one.previous).status not in SERVABLE:
        return BASE
    return one.previous


def shown(one: Watched, found: Sequence[Finding], config: WatchConfig) -> dict[str, Any]:
    """What status pages and the audit log tell of a watch."""
    thumbs = found[0]
    waiting = [] if thumbs.control.count else [f"no votes on {one.previous or BASE} to compare with"]
    return {
        "version": one.version,
        "previous": one.previous or BASE,
        "until_at": one.at + 3600 * config.hours,
        "reasons": [*evidence.harms(found), *waiting],
        "metrics": evidence.details(found),
    }
