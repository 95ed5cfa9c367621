"""The operators' pages over HTTP: what they show, that nothing in them is markup, and what they cost."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.board import groups, move_of
from api.detail import counted, said, spent, stage_rows
from api.history import line
from api.routes.pages import lasting
from store.db import Store
from store.outcomes import Thumbs
from store.quarantine import Quarantined
from store.records import (
    Adapter,
    AdapterStatus,
    Example,
    Feedback,
    FeedbackKind,
    GateResult,
    Iteration,
    Split,
    Stage,
    StageEntry,
    Verdict,
)
from tests.api.conftest import NOW, ask
from tests.api.past import live_through, version_of
from tests.clock import Clock

PAGES = ("", "/iterations", "/adapters", "/plots", "/feedback", "/queue", "/judges", "/audit")


@pytest.fixture
def past(store: Store, clock: Clock) -> Store:
    live_through(store, clock, 8)
    store.adapters.activate(
        version_of(5), actor="ann", reason="it rambles", retire_as=AdapterStatus.ROLLED_BACK
    )
    store.quarantine.hold([7, 8], kept=[5], actor="ann", reason="it rambles")
    return store


@contextmanager
def queries(store: Store) -> Iterator[list[str]]:
    """What is asked of the database meanwhile."""
    session: Any = store._session
    asked: list[str] = []
    rows = session.rows

    def counted_rows(sql: str, parameters: Any = ()) -> Any:
        asked.append(sql)
        return rows(sql, parameters)

    session.rows = counted_rows
    try:
        yield asked
    finally:
        del session.rows


def checked(text: str) -> str:
    """A page whose policy lets nothing run inline, and whose headings and labels are in order."""
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|https?://", text)
    assert text.count("<h1") == 1 and '<html lang="en">' in text
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids)), sorted(one for one in ids if ids.count(one) > 1)
    for asked in re.findall(r'<label for="([^"]+)"', text):
        assert asked in ids
    return text


@pytest.mark.parametrize("path", PAGES)
def test_every_page_stands_with_and_without_a_past(
    client: TestClient, store: Store, clock: Clock, path: str
) -> None:
    empty = client.get(f"/ops{path}")
    assert empty.status_code == 200
    checked(empty.text)
    live_through(store, clock, 4)
    store.quarantine.hold([1], kept=[], actor="ann", reason="r")
    response = client.get(f"/ops{path}")
    assert response.status_code == 200 and "default-src 'self'" in response.headers["content-security-policy"]
    checked(response.text)
    for asset in re.findall(r'(?:src|href)="(/static/[^"]+)"', response.text):
        assert client.get(asset).status_code == 200


def test_every_link_between_the_pages_leads_somewhere(client: TestClient, past: Store) -> None:
    seen, waiting = set(), ["/ops"]
    while waiting:
        path = waiting.pop()
        seen.add(path)
        response = client.get(path)
        assert response.status_code == 200, path
        found = re.findall(r'href="(/[^"#]*)', checked(response.text) if path.startswith("/ops") else "")
        found = [link.replace("&amp;", "&") for link in found]
        waiting += [link for link in dict.fromkeys(found) if link not in seen | {*waiting}]
    for part in (
        "/ops/iterations/8",
        f"/ops/adapters/{version_of(5)}",
        "/ops/completions/c8",
        "/ops/release",
    ):
        assert any(path.startswith(part) for path in seen), part


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/ops/iterations/99", 404, "no iteration 99"),
        ("/ops/iterations/nine", 400, "id"),
        ("/ops/iterations?limit=0", 400, "limit"),
        ("/ops/adapters/it0099-x", 404, "no adapter"),
        ("/ops/completions/nobody", 404, "no completion"),
        ("/ops/rollback", 400, "nothing to roll back"),
        ("/ops/promote?version=it0099-x", 404, "no adapter"),
        ("/ops/release", 400, "nothing of that is in quarantine"),
        ("/ops/intents/in-0", 404, "no intent"),
        ("/ops/feedback?kind=fly", 400, "kind"),
    ],
)
def test_what_is_not_there_is_told_on_a_page(client: TestClient, path: str, status: int, says: str) -> None:
    response = client.get(path)
    assert response.status_code == status and response.headers["content-type"].startswith("text/html")
    assert says in checked(response.text)


def test_the_price_of_many_iterations_is_the_same_as_of_few(
    client: TestClient, store: Store, clock: Clock
) -> None:
    prices = {}
    for count in (3, 60):
        live_through_from(store, clock, count)
        for path in ("/ops/iterations?limit=1000", "/ops/plots", "/ops/adapters"):
            with queries(store) as asked:
                assert client.get(path).status_code == 200
            prices.setdefault(path, []).append(len(asked))
    assert all(few == many < 15 for few, many in prices.values()), prices


def live_through_from(store: Store, clock: Clock, count: int) -> None:
    """`live_through` for a store that may have a past: numbers go on."""
    from tests.api.past import one_more

    last = store.iterations.last()
    first = last.id + 1 if last else 1
    store.atomic(lambda tx: [one_more(tx, clock, number) for number in range(first, first + count)])


def test_a_long_line_of_adapters_is_told_by_its_end(client: TestClient, store: Store, clock: Clock) -> None:
    live_through(store, clock, 40)
    page = client.get("/ops/adapters?limit=5").text
    assert "<li>19 more</li>" in page and "35 older" in page
    assert f'href="/ops/rollback?version={version_of(38)}"' in page and version_of(2) not in page
    alone = client.get(f"/ops/adapters/{version_of(37)}").text
    assert "<li>16 more</li>" in alone and version_of(35) in alone and version_of(1) not in alone


def test_a_version_that_was_passed_over_has_not_the_others_numbers(client: TestClient, past: Store) -> None:
    other = Adapter("it0008-other", None, 8, Path("/none"), "d" * 64, AdapterStatus.REJECTED, 1.0, NOW)
    past.adapters.add(other)
    distance = f"{past.metrics.get(8)['kl/base_token']:.3f}"
    assert distance in client.get(f"/ops/adapters/{version_of(8)}").text
    assert distance not in client.get("/ops/adapters/it0008-other").text


def test_iterations_are_paged(client: TestClient, store: Store, clock: Clock) -> None:
    live_through(store, clock, 5)
    first = client.get("/ops/iterations?limit=2").text
    assert 'href="/ops/iterations/5"' in first and 'href="/ops/iterations/3"' not in first
    assert "/ops/iterations?limit=2&amp;before=4" in first
    last = client.get("/ops/iterations?limit=2&before=2").text
    assert 'href="/ops/iterations/1"' in last and "Older" not in last


def test_an_iteration_leads_to_its_answers_and_an_answer_back(client: TestClient, past: Store) -> None:
    page = client.get("/ops/iterations/7").text
    assert 'href="/ops/completions/c7"' in page and "thumb up" in page and "How do I boil egg 7?" in page
    assert "Before and after" in page and "60% of 5" in page
    back = client.get("/ops/completions/c7").text
    assert 'href="/ops/iterations/7"' in back and "quarantine" in back


def test_what_people_wrote_is_text(client: TestClient, store: Store) -> None:
    bad = "<img src=x onerror=alert(1)>"
    given = ask(client, bad).json()["id"]
    body = {"completion_id": given, "kind": "thumb", "value": False, "reason": bad, "comment": bad}
    client.post("/v1/feedback", json=body)
    begun = store.iterations.begin(trigger=bad, incumbent=None, config={})
    prompt = [{"role": "user", "content": bad}]
    store.iterations.save_report(begun.id, {"samples": [{"prompt": prompt, "before": bad, "after": bad}]})
    store.iterations.move(begun.id, Stage.FAILED, note=bad, changes={"reason": bad})
    store.audit.add(actor=bad, action="failed", subject=bad, reason=bad, details={"x": bad})
    paths = ("", "/feedback", "/audit", f"/iterations/{begun.id}", f"/completions/{given}", "/iterations")
    for path in paths:
        text = client.get(f"/ops{path}").text
        assert "<img" not in text and "&lt;img" in text, path


def test_a_rollback_is_asked_for_as_it_was_shown(client: TestClient, past: Store) -> None:
    client.follow_redirects = False
    page = client.get("/ops/rollback").text
    assert f"{version_of(4)} answers everybody again" in page and "into quarantine" in page
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))
    assert (fields["version"], fields["serving"]) == (version_of(4), version_of(5))
    without = client.post("/ops/act/rollback", data=fields)
    assert without.status_code == 400 and "A reason is required" in without.text
    done = client.post("/ops/act/rollback", data={**fields, "reason": " it lies ", "quarantine": "yes"})
    assert done.status_code == 303
    intent = past.intents.recent()[0]
    assert (intent.kind.value, intent.reason) == ("rollback", "it lies")
    assert intent.arguments == {"version": version_of(4), "quarantine": True}
    assert "it lies" in client.get(done.headers["location"]).text


def test_a_move_that_came_too_late_changes_nothing(client: TestClient, past: Store) -> None:
    page = client.get(f"/ops/promote?version={version_of(8)}").text
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))
    past.adapters.activate(version_of(4), actor="bob", reason="first", retire_as=AdapterStatus.ROLLED_BACK)
    late = client.post("/ops/act/promote", data={**fields, "reason": "better"})
    assert late.status_code == 403 and "is being served by now" in late.text
    assert past.intents.recent() == []


def test_what_is_held_is_told_by_why_and_let_go_by_iteration(client: TestClient, past: Store) -> None:
    page = client.get("/ops/feedback").text
    assert "it rambles" in page and 'href="/ops/release?iteration=7"' in page
    confirm = client.get("/ops/release?iteration=7").text
    assert "1 event of iteration 7 may train" in confirm
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', confirm))
    client.follow_redirects = False
    assert client.post("/ops/act/release", data={**fields, "reason": "looked"}).status_code == 303
    assert past.intents.recent()[0].arguments == {"iteration": 7}
    garbled = client.post("/ops/act/release", data={**fields, "reason": "looked", "iteration": "seven"})
    assert garbled.status_code == 400 and "no number" in garbled.text
    whole = client.get("/ops/release").text
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', whole))
    client.post("/ops/act/release", data={**fields, "reason": "all of it"})
    assert past.intents.recent()[0].arguments == {"all": True}


@pytest.mark.parametrize("kind", ["forget", "label", "fly"])
def test_a_form_asks_only_for_what_pages_offer(client: TestClient, kind: str, store: Store) -> None:
    token = re.search(r'name="csrf" value="([^"]+)"', client.get("/ops").text)
    assert token is not None
    response = client.post(f"/ops/act/{kind}", data={"csrf": token[1], "reason": "r", "version": "base"})
    assert response.status_code == 400
    assert store.intents.recent() == []


def test_feedback_is_a_stream_that_can_be_narrowed(client: TestClient, past: Store) -> None:
    given = ask(client, model="base").json()["id"]
    client.post(
        "/v1/feedback", json={"completion_id": given, "kind": "comment", "value": "Could be shorter."}
    )
    page = client.get("/ops/feedback?kind=comment").text
    assert "Could be shorter." in page and "thumb up" not in page
    assert "thumb up" in client.get("/ops/feedback?kind=").text
    first = client.get("/ops/feedback?limit=2").text
    older = re.search(r'href="(/ops/feedback\?before=[^"]+)"', first)
    assert older is not None and "Could be shorter." not in client.get(older[1]).text


def test_a_running_iteration_is_told_with_the_time_left(
    client: TestClient, store: Store, clock: Clock, add_adapter: Callable[..., Adapter]
) -> None:
    begun = store.iterations.begin(trigger="manual", incumbent=None, config={})
    clock.now += 60
    store.iterations.move(begun.id, Stage.TRAINING)
    for done, at in ((1, NOW + 70), (3, NOW + 90)):
        store.iterations.set_progress(begun.id, {"phase": "train", "done": done, "total": 13, "at": at})
    clock.now = NOW + 90
    for path in ("/ops", f"/ops/iterations/{begun.id}"):
        text = client.get(path).text
        assert "train: 3 of 13, about 1 min 40 s left" in text and "<progress" in text, path
    assert "30 s so far" in text


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (None, ""), (0.2, "under 1 s"), (41.4, "41 s"), (60, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min"),
        (86_400, "1 d"), (352_800, "4 d 2 h"),
    ],
)  # fmt: skip
def test_times_are_said_as_people_say_them(seconds: float | None, told: str) -> None:
    assert lasting(seconds) == told


def test_a_line_is_made_of_what_is_known() -> None:
    one = Iteration(
        7, Stage.ACTIVE, "feedback", None, "it7", 10.0, 20.0, 20.0, 1, None, "fine", {}, {"kto_up": 3}
    )
    entries = [StageEntry(7, Stage.TRAINING, 10.0), StageEntry(7, Stage.ACTIVE, 18.0)]
    full = line(
        one,
        {"kl/step_token": 0.1, "heldout/auc": 0.7},
        {Verdict.PASS: 5, Verdict.SOFT: 2, Verdict.FAIL: 1},
        entries,
        Thumbs("it7", 3, 1, 2, 0, 0.0, 0.0),
    )
    assert (full.kl_step, full.kl_base, full.agreement, full.rate, full.votes) == (0.1, None, 0.7, 0.75, 4)
    assert (full.up, full.down, full.seconds, full.gate) == (3, 0, 8.0, "1 failed, 2 warned")
    bare = line(one, {}, {}, [], None)
    assert (bare.rate, bare.votes, bare.seconds, bare.gate) == (None, 0, None, "")
    assert line(one, {}, {Verdict.PASS: 3, Verdict.INSUFFICIENT: 1}, [], None).gate == "passed"


@pytest.mark.parametrize(
    ("status", "move"),
    [
        (AdapterStatus.ACTIVE, None),
        (AdapterStatus.SUPERSEDED, "rollback"),
        (AdapterStatus.ROLLED_BACK, "promote"),
        (AdapterStatus.HELD, "promote"),
        (AdapterStatus.CANARY, "promote"),
        (AdapterStatus.REJECTED, None),
        (AdapterStatus.RETIRED, None),
        (AdapterStatus.CANDIDATE, None),
    ],
)
def test_which_move_an_adapter_offers(status: AdapterStatus, move: str | None) -> None:
    assert move_of(status) == move


def test_stages_are_measured_by_the_longest_one_of_work() -> None:
    told = [
        {"stage": "training", "at": 0.0, "seconds": 80.0, "note": None},
        {"stage": "evaluating", "at": 80.0, "seconds": 20.0, "note": "n"},
        {"stage": "active", "at": 100.0, "seconds": 5000.0, "note": None},
        {"stage": "rolled_back", "at": 5100.0, "seconds": None, "note": None},
    ]
    assert [(row.share, row.running) for row in stage_rows(told)] == [
        (1.0, False),
        (0.25, False),
        (0.0, False),
        (0.0, False),
    ]
    assert stage_rows(told[:1])[0].running and stage_rows([]) == []


def test_the_ledger_is_of_checks_with_a_hard_limit_in_the_order_of_reading() -> None:
    def gate(metric: str, value: float | None, hard: float | None) -> dict[str, Any]:
        return vars_of(GateResult(1, metric, value, 0.1, hard, Verdict.PASS, ""))

    rows = spent(
        [gate("kl/base_token", 0.2, 0.4), gate("shape/empty", 0.0, 0.1), gate("kl/step_token", None, 0.3)]
    )
    assert [(row.metric, row.value) for row in rows] == [("kl/step_token", None), ("kl/base_token", 0.2)]
    assert spent([gate("kl/step_p99", 0.1, None)]) == []


def vars_of(result: GateResult) -> dict[str, Any]:
    return {name: getattr(result, name) for name in ("metric", "value", "soft", "hard", "verdict", "reason")}


def test_counts_are_told_in_the_order_of_reading_and_strangers_by_their_name() -> None:
    told = counted({"dropped_dictated": 1, "kto_down": 2, "kto_up": 3, "rebuild": {"why": "due"}})
    assert told == [("liked answers", 3), ("disliked answers", 2), ("dropped dictated", 1)]


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        (FeedbackKind.THUMB, True, "thumb up"),
        (FeedbackKind.THUMB, False, "thumb down"),
        (FeedbackKind.THUMB, None, "thumb taken back"),
        (FeedbackKind.RATING, 4, "4 of 5 stars"),
        (FeedbackKind.CLICK, "copy", "clicked copy"),
        (FeedbackKind.EDIT, "text", "edited"),
        (FeedbackKind.COMMENT, "text", "comment"),
    ],
)
def test_an_event_in_a_few_words(kind: FeedbackKind, value: Any, told: str) -> None:
    assert said(Feedback("f", 0.0, "c", 0, "ann", kind, value)) == told
    assert said(None) == "a judge's pair"


def test_held_events_are_grouped_by_why_they_are_held() -> None:
    rows = [
        Quarantined(1, "f1", 3, 10.0, "ann", "it lies"),
        Quarantined(2, "f2", 3, 10.0, "ann", "it lies"),
        Quarantined(3, "f3", 4, 20.0, "vetting", "too many votes"),
    ]
    events = {
        name: Feedback(name, 0.0, f"c{name}", 0, who, FeedbackKind.THUMB, True)
        for name, who in (("f1", "a"), ("f2", "b"), ("f3", "a"))
    }
    newest, older = groups(rows, events)
    assert (newest.iteration, newest.count, newest.people, newest.examples) == (4, 1, 1, ("cf3",))
    assert (older.iteration, older.count, older.people, older.examples) == (3, 2, 2, ("cf1", "cf2"))
    assert groups(rows, {})[0].people == 0


def test_lineage_names_what_was_only_tested_on(client: TestClient, past: Store) -> None:
    past.iterations.add_examples([Example(8, "f1", "c1", Split.NEVER_TRAIN, "kto", True, 1.0)])
    assert "tested" in client.get("/ops/iterations/8").text
