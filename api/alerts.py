"""What operators should look at, from the audit log: moves that nobody asked for, and work that came to nothing."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from store.db import Store
from store.records import AdapterStatus, AuditEntry

#: Action -> whether something went wrong (bad), or somebody has to decide (wait).
LOOKS = {
    "rollback": "bad",
    "failed": "bad",
    "reject": "bad",
    "judging failed": "bad",
    "contest failed": "bad",
    "one of two failed": "bad",
    "licence lost": "bad",
    "hold": "wait",
    "quarantine": "wait",
    "aborted": "wait",
}


@dataclass(frozen=True, slots=True)
class Alert:
    """One entry of the log; `page`: where more of it is told, if anywhere."""

    at: float
    look: str
    action: str
    subject: str
    actor: str
    reason: str
    page: str | None


def named(action: str) -> str:
    """As a sentence goes on with the subject: of a rollback that is where it went."""
    return "rollback to" if action == "rollback" else action


def page_of(entry: AuditEntry) -> str | None:
    """The page of what an entry is about."""
    if entry.subject.startswith("iteration ") and entry.subject[10:].isdigit():
        return f"/ops/iterations/{entry.subject[10:]}"
    if "iteration" in entry.details and isinstance(entry.details["iteration"], int):
        return f"/ops/iterations/{entry.details['iteration']}"
    if entry.action in ("licence lost", "licensed"):
        return "/ops/judges"
    if entry.subject.startswith("it") and "-" in entry.subject:
        return f"/ops/adapters/{entry.subject}"
    if entry.subject.startswith("answer "):
        return f"/ops/completions/{entry.subject[7:]}"
    return None


def alerts_of(entries: Sequence[AuditEntry], held: Collection[str]) -> list[Alert]:
    """What of the log is an alert, in its order. `held`: versions that wait for a person now; others need none."""
    return [
        Alert(one.at, LOOKS[one.action], named(one.action), one.subject, one.actor, one.reason, page_of(one))
        for one in entries
        if one.action in LOOKS and (one.action != "hold" or one.subject in held)
    ]


def latest(store: Store, limit: int = 6) -> list[Alert]:
    held = {one.version for one in store.adapters.list() if one.status is AdapterStatus.HELD}
    return alerts_of(store.audit.list(4 * limit, actions=sorted(LOOKS)), held)[:limit]
