"""A canary: a version that passed the gate answers some people first, and their votes decide what becomes of it.

Who answers whom is `store.canaries.in_canary`; here is what is made of it. `decide` is pure; `begin` and `end` are
halves of transactions that `promote` completes. Each step is judged by itself, because within a step nobody changes
sides; the probability of a false alarm is shared out among the steps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from daemon import evidence
from daemon.evidence import Arm, Finding
from daemon.rollout import CanaryConfig
from store.canaries import in_canary
from store.db import Store
from store.outcomes import Span
from store.records import BASE, AdapterStatus, Canary, CanaryOutcome, Stage

#: Who ends canaries by themselves, in the audit log.
ACTOR = "canary"
#: Where the loop leaves what status pages show of a canary.
STATE = "canary"
#: Where the loop keeps for how long a step was looked at.
CLOCK = "canary_clock"
#: Seconds of that between two writes, and a silence that is longer does not count: honed was off, or paused.
TICK, LONGEST_GAP = 60.0, 600.0
#: Wealth against "no worse" above which a step is not passed yet, though it is far from harm.
SUSPICIOUS = 2.0

STAGES = {CanaryOutcome.ROLLED_BACK: Stage.ROLLED_BACK, CanaryOutcome.HELD: Stage.HELD}
STATUSES = {
    CanaryOutcome.ROLLED_BACK: AdapterStatus.ROLLED_BACK,
    CanaryOutcome.HELD: AdapterStatus.HELD,
}
ACTIONS = {CanaryOutcome.ROLLED_BACK: "rollback", CanaryOutcome.HELD: "hold"}


class Action(StrEnum):
    PROMOTE = "promote"
    WIDEN = "widen"
    ROLL_BACK = "roll_back"
    WAIT = "wait"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do and why; `share` is the next step's where it is `WIDEN`."""

    action: Action
    reasons: tuple[str, ...]
    share: float | None = None

    @property
    def reason(self) -> str:
        return "; ".join(self.reasons)


def next_share(canary: Canary, config: CanaryConfig) -> float | None:
    """The next larger share; None when everybody is next. A share no longer in the configuration counts as passed."""
    return min((share for share in config.steps if share > canary.share), default=None)


def looked_at(told: Mapping[str, Any] | None, canary: Canary, now: float, *, paused: bool) -> dict[str, Any]:
    """The clock of a step moved on from what was `told` last: `seconds` that it was looked at, up to `at`.

    Time that honed was off or paused is no time in which people could have decided.
    """
    if told is None or (told["canary"], told["step"]) != (canary.id, canary.step):
        return {"canary": canary.id, "step": canary.step, "seconds": 0.0, "at": now, "paused": paused}
    gap = now - told["at"]
    counts = 0 <= gap <= LONGEST_GAP and not told["paused"]
    return {**told, "seconds": told["seconds"] + (gap if counts else 0.0), "at": now, "paused": paused}


def hours(store: Store, canary: Canary, now: float, *, paused: bool) -> float:
    """How long the step was looked at, this look included; written down once a minute, and when a pause begins or
    ends.
    """
    told = store.state.get(CLOCK)
    found = looked_at(told, canary, now, paused=paused)
    kept = ("canary", "step", "paused")
    if told is None or any(told[name] != found[name] for name in kept) or abs(now - told["at"]) >= TICK:
        store.state.set(CLOCK, found)
    return float(found["seconds"]) / 3600


def waits_for(findings: Sequence[Finding], hours: float, config: CanaryConfig) -> tuple[str, ...]:
    """What a step that was looked at for so long still lacks to be passed."""
    thumbs = next(one for one in findings if one.metric == evidence.THUMBS)
    missing = []
    for side, name in ((thumbs.treated, "canary"), (thumbs.control, "incumbent")):
        if side.count < config.votes:
            missing.append(f"{side.count} of {config.votes} votes on the {name}'s answers")
    if hours < config.min_hours:
        missing.append(f"{hours:.1f} of {config.min_hours:g} hours")
    missing += [
        f"it leans to harm: {one.reason}" for one in findings if one.harm.log_now > math.log(SUSPICIOUS)
    ]
    return tuple(missing)


def decide(
    canary: Canary, findings: Sequence[Finding], hours: float, config: CanaryConfig, *, paused: bool = False
) -> Verdict:
    """Harm rolls back at once; a step is passed with enough votes and nothing that leans to harm; one that drags on
    is held (`hours` it was looked at). While an operator has paused honed, only harm moves anything.
    """
    harmed = evidence.harms(findings)
    if harmed:
        return Verdict(Action.ROLL_BACK, harmed)
    if paused:
        return Verdict(Action.WAIT, ("paused by an operator",))
    missing = waits_for(findings, hours, config)
    if not missing:
        share = next_share(canary, config)
        reasons = (f"no evidence of harm at {canary.share:.0%} of people", findings[0].reason)
        return Verdict(Action.PROMOTE if share is None else Action.WIDEN, reasons, share)
    if hours >= config.max_hours:
        return Verdict(Action.HOLD, (f"undecided for {config.max_hours:g} hours", *missing))
    return Verdict(Action.WAIT, missing)


def arms(store: Store, canary: Canary, config: CanaryConfig) -> tuple[Arm, Arm]:
    """Both sides since the step began. Whoever the hash gives to the other side is left out: the incumbent answers
    the canary's people too when the canary is away.
    """

    def arm(version: str | None, *, treated: bool) -> Arm:
        def own(principal: str) -> bool:
            return in_canary(principal, canary.version, canary.share) is treated

        most = evidence.allowed(config.votes_per_person, 1)
        votes = store.outcomes.votes(Span(version, canary.step_at, limit=evidence.MOST_VOTES, most=most))
        answers = store.outcomes.answers(evidence.hourly(version, canary.step_at, config.votes_per_person))
        return Arm(
            tuple(vote for vote in votes if own(vote.principal)),
            tuple(answer for answer in answers if own(answer.principal)),
        )

    treated, control = arm(canary.version, treated=True), arm(canary.incumbent, treated=False)
    people = {vote.principal for vote in (*treated.votes, *control.votes)}

    def limited(side: Arm) -> Arm:
        return replace(side, votes=evidence.limited(side.votes, config.votes_per_person, people))

    return limited(treated), limited(control)


def findings(store: Store, canary: Canary, config: CanaryConfig) -> tuple[Finding, ...]:
    """Every metric of the step as it stands.

    The two sides are different people, of whom some are stricter: with few of them each is bet on for no more votes
    than with many.
    """
    trial = evidence.Trial(
        harm=config.harm / max(len(config.steps), 1),
        share=canary.share,
        length_margin=config.length_margin,
        latency_margin=config.latency_margin,
        votes_each=config.votes_per_person,
    )
    return evidence.weigh(*arms(store, canary, config), trial)


def shown(canary: Canary, found: Sequence[Finding], verdict: Verdict) -> dict[str, Any]:
    """What status pages and the audit log tell of a step."""
    return {
        "version": canary.version,
        "incumbent": canary.incumbent or BASE,
        "step": canary.step + 1,
        "share": canary.share,
        "action": verdict.action.value,
        "reasons": list(verdict.reasons),
        "metrics": evidence.details(found),
    }


def begin(tx: Store, version: str, *, incumbent: str | None, iteration: int, share: float) -> Canary:
    """Open a canary, in the transaction that settles its iteration."""
    return tx.canaries.begin(version=version, incumbent=incumbent, iteration=iteration, share=share)


def end(tx: Store, canary: Canary, outcome: CanaryOutcome, *, actor: str, reason: str) -> None:
    """Close a canary: its row, and unless it is promoted (then the pointer's move does the rest) status, stage and
    audit row with the evidence as it was last looked at.
    """
    tx.canaries.end(canary.id, outcome, reason)
    if outcome is CanaryOutcome.PROMOTED:
        return
    tx.adapters.mark(canary.version, STATUSES[outcome])
    if canary.iteration is not None:
        tx.iterations.move(canary.iteration, STAGES[outcome], note=reason, changes={"reason": reason})
    details = {"canary": canary.id, "iteration": canary.iteration, "evidence": last_evidence(tx, canary)}
    tx.audit.add(actor=actor, action=ACTIONS[outcome], subject=canary.version, reason=reason, details=details)


def last_evidence(tx: Store, canary: Canary) -> dict[str, Any] | None:
    """What was last shown of this canary."""
    state = tx.state.get(STATE)
    return state if state is not None and state["version"] == canary.version else None


def end_with_move(tx: Store, to: str | None, otherwise: CanaryOutcome, *, actor: str, reason: str) -> bool:
    """The pointer moves: an open canary is promoted if it is the target; else it ends with the outcome given, for
    what it was compared with is gone. Returns whether there was one.
    """
    canary = tx.canaries.open()
    if canary is None:
        return False
    promoted = canary.version == to
    if not promoted:
        reason = f"{canary.incumbent or BASE}, which it was compared with, is no longer served: {reason}"
    outcome = CanaryOutcome.PROMOTED if promoted else otherwise
    end(tx, canary, outcome, actor=actor, reason=reason)
    return True
