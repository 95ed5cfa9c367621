"""The gate: numbers and limits in, a verdict with reasons out. Pure, so that every edge is in a table of tests.

Four outcomes: promote, try on some people (canary), hold for a person, reject. A metric that a limit needs and
nobody measured, or that is not finite, fails: absence of evidence never promotes. A candidate is called *improved*
only by evidence it was not trained on; that it may be served says no more than that nothing was seen to be lost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from daemon.checks import checks
from daemon.limits import GateConfig
from daemon.weighing import Check
from store.records import Verdict

#: Never-train votes on either side from which agreement with them may be called an improvement.
IMPROVED_VOTES = 10
#: Said of a candidate that warns and has nothing to say for itself.
SUSPECTED = (
    "inconclusive: it warns, and what it was not trained on does not show that it is better all the same"
)
#: What can show it.
EVIDENCE = frozenset({"heldout/auc_low", "contest/win_low"})


class Outcome(StrEnum):
    """From the most careful to the least."""

    REJECT = "reject"
    HOLD = "hold"
    CANARY = "canary"
    PROMOTE = "promote"


class Claim(StrEnum):
    """What evidence the candidate was not trained on says of it."""

    IMPROVED = "improved"
    NO_WORSE = "no worse"
    UNPROVEN = "unproven"


@dataclass(frozen=True, slots=True)
class Decision:
    outcome: Outcome
    checks: tuple[Check, ...]
    reasons: tuple[str, ...]
    claim: Claim = Claim.UNPROVEN

    @property
    def reason(self) -> str:
        return "; ".join(self.reasons)


def claim_of(found: Sequence[Check], metrics: Mapping[str, float], floor: float) -> tuple[Claim, str]:
    """The strongest claim there is evidence for, and what says so.

    Two kinds of evidence count: agreement with never-train votes, and a contest while no judged pair trained this
    candidate, plain and at equal lengths. Lower ends above one half say improved, above `floor` no worse; fewer than
    `IMPROVED_VOTES` votes on either side say no more than no worse. A candidate that failed any check claims nothing.
    """
    bounds = {check.metric: check for check in found if check.verdict is Verdict.PASS}
    evidence: list[tuple[float, str]] = []
    votes = bounds.get("heldout/auc_low")
    if votes is not None and votes.value is not None:
        few = min(metrics.get(f"heldout/{side}", 0.0) for side in ("n_up", "n_down")) < IMPROVED_VOTES
        evidence.append((min(votes.value, 0.5) if few else votes.value, votes.reason))
    plain, equal = bounds.get("contest/win_low"), bounds.get("contest/win_lc_low")
    independent = metrics.get("contest/independent") == 1.0
    if independent and plain is not None and equal is not None:
        lower = min(check.value or 0.0 for check in (plain, equal))
        evidence.append((lower, plain.reason))
    least, reason = max(evidence, default=(0.0, ""))
    if any(check.verdict is Verdict.FAIL for check in found) or least <= floor:
        return Claim.UNPROVEN, "unproven: nothing it was not trained on shows that it is better, or no worse"
    best = Claim.IMPROVED if least > 0.5 else Claim.NO_WORSE
    return best, f"{best}: {reason}"


def heard(found: Sequence[Check]) -> bool:
    """Whether there was evidence enough that the candidate was not trained on, whatever it said."""
    return any(check.metric in EVIDENCE and (check.verdict is Verdict.PASS or check.holds) for check in found)


def decide(metrics: Mapping[str, float], limits: GateConfig, *, canary: bool = False) -> Decision:
    """Any hard failure rejects; uncertain evidence and soft breaches do what is configured, the more careful of both.

    A soft breach is a suspicion. Where enough votes or judgements are there to say that the candidate is better all
    the same and do not, it is inconclusive too.

    Too *few* never-train votes only hold when `heldout_required`; an interval that is too *wide* always counts as
    uncertain. Where steps of a canary are configured (`canary`), whatever may be promoted goes through it first;
    where none are, what was to go there is held.
    """
    found = checks(metrics, limits)
    claim, said = claim_of(found, metrics, limits.win_floor)
    failed = tuple(check.reason for check in found if check.verdict is Verdict.FAIL)
    if failed:
        return Decision(Outcome.REJECT, found, failed, claim)
    uncertain = tuple(f"inconclusive: {check.reason}" for check in found if check.holds)
    soft = tuple(check.reason for check in found if check.verdict is Verdict.SOFT)
    if soft and claim is not Claim.IMPROVED and heard(found):
        uncertain += (SUSPECTED,)
    outcome = Outcome.CANARY if canary else Outcome.PROMOTE
    wanted = [outcome]
    if uncertain:
        wanted.append(Outcome(limits.on_inconclusive))
    if soft:
        wanted.append(Outcome(limits.on_soft))
    outcome = min(wanted, key=list(Outcome).index)
    reasons = (*uncertain, *soft) or ("every limit is kept",)
    if outcome is Outcome.CANARY and not canary:
        outcome, reasons = Outcome.HOLD, (*reasons, "held, for no steps of a canary are configured")
    return Decision(outcome, found, (*reasons, said), claim)
