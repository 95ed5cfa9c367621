"""The live watch: after a promotion, what people say of the new version is held against what they said before.

Everything is computed anew from the store, so a restart changes nothing. Not watched is a version that came by a
rollback: it was served before, and going to and fro between two versions helps nobody.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from daemon import evidence
from daemon.evidence import Arm, Finding
from daemon.rollout import WatchConfig
from store.db import Store
from store.outcomes import Span
from store.records import BASE, SERVABLE, AdapterStatus

#: Who rolls back, in the audit log and in the history of the pointer.
ACTOR = "watch"
#: Where the loop leaves what status pages show of the watch.
STATE = "watch"
#: Answers looked at for every vote: errors and retries are rarer than answers, votes rarer still.
ANSWERS_A_VOTE = 5
#: Actors whose moves of the pointer went back: nobody chose these versions for being better.
BACKWARDS = frozenset({ACTOR, "start"})
LEFT_BEHIND = frozenset({AdapterStatus.ROLLED_BACK, AdapterStatus.RETIRED})


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
    if not recent or recent[0].version is None or recent[0].actor in BACKWARDS:
        return None
    move = recent[0]
    if move.previous is not None and store.adapters.get(move.previous).status in LEFT_BEHIND:
        return None
    return Watched(move.id, recent[0].version, move.previous, move.at)


def history(store: Store, one: Watched, config: WatchConfig) -> Arm:
    """The last votes and answers of the version before, up to the promotion, shuffled: they have no order of arrival
    beside what came after. Never changes afterwards.
    """
    span = Span(one.previous, before=one.at, limit=config.votes, newest=True)
    answers = Span(one.previous, before=one.at, limit=ANSWERS_A_VOTE * config.votes, newest=True)
    return Arm(tuple(store.outcomes.votes(span)), tuple(store.outcomes.answers(answers))).shuffled(one.seed)


def since(store: Store, one: Watched, config: WatchConfig) -> Arm:
    """The first votes and answers of the watched version."""
    end = one.at + 3600 * config.hours
    votes = store.outcomes.votes(Span(one.version, one.at, end, limit=config.votes))
    answers = store.outcomes.answers(Span(one.version, one.at, end, limit=ANSWERS_A_VOTE * config.votes))
    return Arm(tuple(votes), tuple(answers))


def findings(store: Store, one: Watched, before: Arm, config: WatchConfig) -> tuple[Finding, ...]:
    """Every metric as it stands; `before` is what `history` returned."""
    trial = evidence.Trial(
        harm=config.harm,
        shape=evidence.from_history,
        length_margin=config.length_margin,
        latency_margin=None,
    )
    treated, control = evidence.limit_arms(since(store, one, config), before, config.votes_per_person)
    return evidence.weigh(treated, control, trial)


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
