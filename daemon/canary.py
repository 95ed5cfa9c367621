"""A canary: a version that passed the gate answers some people first, and their votes decide what becomes of it.

Who answers whom is `store.canaries.in_canary`; here is what is made of it. `decide` is pure; `begin` and `end` are
halves of transactions that `promote` completes. Each step is judged by itself, because within a step nobody changes
sides; the probability of a false alarm is shared out among the steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
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
#: Votes and answers of a step that are looked at, of either side.
MOST_VOTES, MOST_ANSWERS = 1000, 2000
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


def waits_for(
    canary: Canary, findings: Sequence[Finding], now: float, config: CanaryConfig
) -> tuple[str, ...]:
    """What a step still lacks to be passed."""
    thumbs = next(one for one in findings if one.metric == evidence.THUMBS)
    missing = []
    for side, name in ((thumbs.treated, "canary"), (thumbs.control, "incumbent")):
        if side.count < config.votes:
            missing.append(f"{side.count} of {config.votes} votes on the {name}'s answers")
    hours = (now - canary.step_at) / 3600
    if hours < config.min_hours:
        missing.append(f"{hours:.1f} of {config.min_hours:g} hours")
    missing += [
        f"it leans to harm: {one.reason}" for one in findings if one.harm.log_now > math.log(SUSPICIOUS)
    ]
    return tuple(missing)


def decide(
    canary: Canary, findings: Sequence[Finding], now: float, config: CanaryConfig, *, paused: bool = False
) -> Verdict:
    """Harm rolls back at once; a step is passed with enough votes and nothing that leans to harm; one that drags on
    is held. While an operator has paused honed, only harm moves anything.
    """
    harmed = evidence.harms(findings)
    if harmed:
        return Verdict(Action.ROLL_BACK, harmed)
    if paused:
        return Verdict(Action.WAIT, ("paused by an operator",))
    missing = waits_for(canary, findings, now, config)
    if not missing:
        share = next_share(canary, config)
        reasons = (f"no evidence of harm at {canary.share:.0%} of people", findings[0].reason)
        return Verdict(Action.PROMOTE if share is None else Action.WIDEN, reasons, share)
    if now - canary.step_at >= 3600 * config.max_hours:
        return Verdict(Action.HOLD, (f"undecided for {config.max_hours:g} hours", *missing))
    return Verdict(Action.WAIT, missing)


def arms(store: Store, canary: Canary, config: CanaryConfig) -> tuple[Arm, Arm]:
    """Both sides since the step began. Whoever the hash gives to the other side is left out: the incumbent answers
    the canary's people too when the canary is away.
    """

    def arm(version: str | None, *, treated: bool) -> Arm:
        def own(principal: str) -> bool:
            return in_canary(principal, canary.version, canary.share) is treated

        votes = store.outcomes.votes(Span(version, canary.step_at, limit=MOST_VOTES))
        answers = store.outcomes.answers(Span(version, canary.step_at, limit=MOST_ANSWERS))
        return Arm(
            tuple(vote for vote in votes if own(vote.principal)),
            tuple(answer for answer in answers if own(answer.principal)),
        )

    treated, control = arm(canary.version, treated=True), arm(canary.incumbent, treated=False)
    return evidence.limit_arms(treated, control, config.votes_per_person)


def findings(store: Store, canary: Canary, config: CanaryConfig) -> tuple[Finding, ...]:
    """Every metric of the step as it stands."""
    trial = evidence.Trial(
        harm=config.harm / max(len(config.steps), 1),
        shape=evidence.side_by_side(canary.share),
        length_margin=config.length_margin,
        latency_margin=config.latency_margin,
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
