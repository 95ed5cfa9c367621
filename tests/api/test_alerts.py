"""What operators are told to look at."""

from typing import Any

import pytest

from api.alerts import alerts_of, page_of
from store.records import AuditEntry

VERSION = "it0003-00000003"


def entry(action: str, subject: str = VERSION, **details: Any) -> AuditEntry:
    return AuditEntry(1, 5.0, "gate", action, subject, "why", details)


@pytest.mark.parametrize(
    ("one", "held", "look"),
    [
        (entry("reject"), set(), "bad"),
        (entry("rollback", "base"), set(), "bad"),
        (entry("licence lost", "relevance"), set(), "bad"),
        (entry("hold"), {VERSION}, "wait"),
        (entry("hold"), set(), None),
        (entry("quarantine", "iteration 3"), set(), "wait"),
        (entry("promote"), set(), None),
        (entry("label", "answer c1"), set(), None),
    ],
)
def test_what_went_wrong_or_waits_for_somebody(one: AuditEntry, held: set[str], look: str | None) -> None:
    assert [alert.look for alert in alerts_of([one], held)] == ([look] if look else [])


@pytest.mark.parametrize(
    ("one", "page"),
    [
        (entry("reject", iteration=3), "/ops/iterations/3"),
        (entry("failed", "iteration 12"), "/ops/iterations/12"),
        (entry("rollback"), f"/ops/adapters/{VERSION}"),
        (entry("rollback", "base"), None),
        (entry("label", "answer c1"), "/ops/completions/c1"),
        (entry("licensed", "relevance"), "/ops/judges"),
        (entry("release", "everything"), None),
        (entry("release", "iteration x"), None),
    ],
)
def test_where_more_of_it_is_told(one: AuditEntry, page: str | None) -> None:
    assert page_of(one) == page
