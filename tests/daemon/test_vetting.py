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
from judge.config import DefenceConfig, FeedbackConfig, PropensityConfig
from store.db import Store
from store.records import Choice, Example, FeedbackKind, Message, Split
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


def test_the_log_tells_what_is_seldom_spoken_of_and_the_plan_says_so(known: Reader, store: Store) -> None:
    for number in range(120):
        who = f"p{number // 4 % 8}"
        for kind, said in (("long", "word " * 60), ("short", "Yes.")):
            ask(store, f"{kind}{number}", who, said)
            # Long answers are spoken of each time, of the short ones every fourth.
            if kind == "long" or number % 4 == 0:
                store.feedback.add(
                    event(f"v-{kind}{number}", f"{kind}{number}", number % 8 < 4, principal=who)
                )
    propensity = PropensityConfig(least=80)
    found = vetting.background_of(store, known.config.feedback.model_copy(update={"propensity": propensity}))
    assert set(found.propensity) == {
        f"{kind}{n}" for kind, every in (("long", 1), ("short", 4)) for n in range(0, 120, every)
    }
    assert found.propensity["short0"] > 2 * found.propensity["long0"]
    # 150 votes; of the shipped hundred answers that nobody spoke of there are 90.
    assert vetting.background_now(known).propensity == {}
    config = known.config.model_copy(
        update={"feedback": known.config.feedback.model_copy(update={"propensity": propensity})}
    )
    told = text(page(plan_now(Reader(config, store, known.clock))), 100)
    assert "What is seldom voted on counts for more" in told


def test_the_plan_tells_what_weak_signals_were_found_to_weigh(known: Reader, store: Store) -> None:
    for number in range(160):
        ask(store, f"a{number}", "ann", f"Text {number}.")
        up = number % 2 == 0
        store.feedback.add(event(f"t{number}", f"a{number}", up, principal="ann"))
        if number % 8 in (0, 2, 4, 1):  # three of four liked answers are copied, one of four others
            store.feedback.add(
                event(f"k{number}", f"a{number}", "copy", kind=FeedbackKind.CLICK, principal="ann")
            )
    row = plan_now(known)
    assert row["signals"]["copy_click"] == {"weight": pytest.approx(0.8, abs=0.1), "seen": 80}
    assert "copy_click weighs 0.7" in text(page(row), 100)


def test_what_is_made_new_again_when_somebody_is_forgotten_is_nobodys_pardon(
    known: Reader, store: Store
) -> None:
    quarrel(store, 0, 8)
    begun = store.iterations.begin(trigger="test", incumbent=None, config={})
    votes = [item.feedback for item in store.feedback.live() if item.feedback.principal == "mallory"]
    rows = [Example(begun.id, one.id, one.completion_id, Split.TRAIN, "kto", True, 1.0) for one in votes]
    store.iterations.add_examples(rows)
    assert store.quarantine.renew([begun.id], kept=(), actor="forget", reason="they asked for it") == 8
    assert set(vetting.background_now(known).held) == {one.id for one in votes}
