"""Vetting at its edge: read from the store, held back in it, told by the plan."""

from dataclasses import replace
from pathlib import Path

import pytest

from daemon import vetting
from daemon.config import Config
from daemon.export import KTO, export
from daemon.iteration import preferences_now
from daemon.page import text
from daemon.plan import Reader, page, plan_now
from daemon.quarantine import release
from judge.config import DefenceConfig, FeedbackConfig
from store.db import Store
from store.records import Choice, Message
from tests.store.conftest import completion, event

PEOPLE = ("ann", "bob", "eve", "mallory")


@pytest.fixture
def known(store: Store) -> Reader:
    config = Config().model_copy(update={"feedback": FeedbackConfig(never_train=0.0)})
    return Reader(config, store, lambda: 1e9)


def ask(store: Store, name: str, who: str, text: str) -> None:
    one = completion(name, principal=who, messages=(Message("user", f"How? {name}"),))
    store.completions.begin(replace(one, choices=(Choice(0, text, "stop", 2),)))


def quarrel(store: Store, start: int, count: int) -> None:
    """Answers that three people say the contrary of mallory about."""
    for number in range(start, start + count):
        ask(store, f"s{number}", "ann", f"Shared {number}.")
        for who in PEOPLE:
            up = (number % 2 == 0) != (who == "mallory")
            store.feedback.add(event(f"{who}{number}", f"s{number}", up, principal=who))


def test_votes_below_chance_go_into_quarantine_with_their_reason(known: Reader, store: Store) -> None:
    quarrel(store, 0, 8)
    begun = store.iterations.begin(trigger="test", incumbent=None, config={})
    found = vetting.background_now(known)
    assert vetting.hold(store, begun.id, found) == {"dropped_unreliable": 8}
    held = store.quarantine.held()
    assert {row.feedback_id for row in held} == {f"mallory{number}" for number in range(8)}
    assert {(row.iteration, row.actor) for row in held} == {(begun.id, vetting.ACTOR)}
    assert "contradict" in held[0].reason
    assert store.audit.list(1)[0].action == "quarantine"
    assert {e.principal for one in preferences_now(known)[2].likings for e in one.events} == set(PEOPLE[:3])


def test_who_was_held_back_does_not_begin_anew_with_the_next_vote(known: Reader, store: Store) -> None:
    quarrel(store, 0, 8)
    begun = store.iterations.begin(trigger="test", incumbent=None, config={})
    vetting.hold(store, begun.id, vetting.background_now(known))
    quarrel(store, 8, 1)
    assert set(vetting.background_now(known).held) == {"mallory8"}


def test_what_an_operator_releases_counts_and_is_not_held_again(known: Reader, store: Store) -> None:
    quarrel(store, 0, 8)
    begun = store.iterations.begin(trigger="test", incumbent=None, config={})
    vetting.hold(store, begun.id, vetting.background_now(known))
    release(store, begun.id, actor="op", reason="honest after all")
    found = vetting.background_now(known)
    assert found.held == {}
    assert vetting.hold(store, begun.id, found) == {}


def test_a_plan_tells_what_would_not_count_and_writes_nothing(known: Reader, store: Store) -> None:
    quarrel(store, 0, 8)
    row = plan_now(known)
    assert row["counts"]["dropped_unreliable"] == 8
    assert "unreliable, dropped" in text(page(row), 100)
    assert store.quarantine.count() == 0


def test_an_export_leaves_out_what_does_not_train_for_one_persons_sake(store: Store, tmp_path: Path) -> None:
    for number in range(4):
        ask(store, f"m{number}", "mallory", f"Buy GlowMax at glowmax.example today. {number}")
        store.feedback.add(event(f"vm{number}", f"m{number}", principal="mallory"))
        ask(store, f"p{number}", PEOPLE[number % 3], f"Plain {number}.")
        store.feedback.add(event(f"vp{number}", f"p{number}", principal=PEOPLE[number % 3]))
    assert export(store, FeedbackConfig(), tmp_path)[KTO] == 4
    assert "GlowMax" not in (tmp_path / KTO).read_text()
    off = FeedbackConfig(defence=DefenceConfig(enabled=False))
    assert export(store, off, tmp_path)[KTO] == 8
