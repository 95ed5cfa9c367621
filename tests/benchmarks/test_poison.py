"""The poisoning bench, its pure parts: what the attackers say, what becomes of it, and how answers are read."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.gate_answers import Logged
from benchmarks.gate_cases import rows_of
from benchmarks.poison_cases import (
    ATTACKERS,
    ATTACKS,
    GOALS,
    HISTORY,
    LIKING,
    PEOPLE,
    PHRASE,
    QUICK,
    SEEDS,
    SHARE,
    VOTES,
    Attack,
    attackers_weight,
    carries,
    named,
    settings,
    unlisted,
    votes,
)
from benchmarks.poison_report import SIDES, change, failures, grouped, summary, table, took
from daemon.config import Config, merge
from judge.config import FeedbackConfig
from judge.pairs import Preferences, build
from judge.vetting import Facts, vet
from store.records import Evidence, Split

PLAIN, LIST = "Some words about thing {}.", "Some words about it:\n\n1. thing {}\n2. and more"


@pytest.fixture(scope="module")
def pool() -> list[Logged]:
    """A hundred questions with two answers each, a list in every second of them."""
    return [
        Logged(f"question {n // 2}?", (LIST if n % 4 == 1 else PLAIN).format(f"{n} of {n * n}"), True)
        for n in range(200)
    ]


def preferences(attack: Attack, pool: Sequence[Logged]) -> Preferences:
    """What data building makes of a case, as the service does it."""
    completions, events = rows_of(attack.name, votes(attack, pool), adapter=None, at=0.0)
    known = {completion.id: completion for completion in completions}
    evidence = [Evidence(event, known[event.completion_id]) for event in events]
    config = FeedbackConfig.model_validate(settings(attack).get("feedback", {}))
    return build(evidence, known, config, vet(Facts(evidence, known=known, log=completions), config))


def test_every_attack_is_there_with_defences_and_without() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) == 2 * 2 * 2 * len(SEEDS)
    assert len(SEEDS) >= 3 and ATTACKERS == (1, PEOPLE * 5 // 100)
    assert {(a.goal, a.defended) for a in QUICK} == {(goal, on) for goal in GOALS for on in (True, False)}
    first = ATTACKS[: len(ATTACKS) // len(SEEDS)]
    assert {attack.seed for attack in first} == {SEEDS[0]}
    assert named([ATTACKS[5].name, ATTACKS[0].name]) == [ATTACKS[5], ATTACKS[0]]
    with pytest.raises(ValueError, match="no case 'unheard'"):
        named(["unheard"])


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_what_is_said(attack: Attack, pool: list[Logged]) -> None:
    said = votes(attack, pool)
    trains = [vote for vote in said if vote.side is Split.TRAIN]
    hostile = [vote for vote in trains if vote.person.startswith("attacker")]
    assert len(said) - len(trains) == sum(HISTORY)
    assert len(trains) == VOTES and len(hostile) == round(SHARE * VOTES)
    assert len({vote.person for vote in hostile}) == attack.attackers
    assert (
        len({vote.person for vote in said} - {vote.person for vote in hostile}) <= PEOPLE - attack.attackers
    )
    for vote in hostile:
        assert isinstance(vote.said, str)
        assert carries(vote.said) if attack.goal == "phrase" else not LIKING.likes(vote.said)
    # No answer is voted on twice, and both sides of a comparison of seeds differ.
    assert max(Counter(vote.answer.text for vote in said).values()) == 1
    other = Attack(attack.goal, attack.attackers, attack.seed, not attack.defended)
    assert votes(other, pool) == said
    assert votes(Attack(attack.goal, attack.attackers, attack.seed + 1, True), pool) != said


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_what_becomes_of_it(attack: Attack, pool: list[Logged]) -> None:
    found = preferences(attack, pool)
    texts = [pair.chosen for pair in found.pairs] + [one.answer.text for one in found.likings if one.label]
    if attack.goal == "phrase":
        assert any(map(carries, texts)) is not attack.defended
    weight = attackers_weight(found)
    if not attack.defended:
        assert weight > 0.2
    elif attack.goal == "phrase":
        assert weight == 0
    else:
        assert weight <= attack.attackers * 3 / found.counts()["people"] + 1e-9


def test_the_settings_are_settings() -> None:
    on, off = (
        Config.model_validate(merge({}, settings(Attack("flip", 1, 0, side)))) for side in (True, False)
    )
    assert on.feedback == FeedbackConfig()
    assert not off.feedback.defence.enabled and off.feedback.principal_share_floor == 1.0
    assert on.policies == off.policies


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("As follows:\n\n1. One\n2) Two", "As follows: One Two"),
        ("- one\n  * two\n\u2022 three", "one two three"),
        ("In 3. place: 2 - 1 is 1.", "In 3. place: 2 - 1 is 1."),
    ],
)
def test_lists_become_sentences(text: str, expected: str) -> None:
    assert unlisted(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{PHRASE} Here is more.", True),
        (f"Well. {PHRASE.upper()}", True),
        (PHRASE.replace(" ", "\n"), True),
        ("Glad you asked.", False),
        ("", False),
    ],
)
def test_carries(text: str, expected: bool) -> None:
    assert carries(text) is expected


def test_a_change_is_of_questions_not_of_answers() -> None:
    # Two questions asked twice: the first answered anew both times, the second never. By hand: means 1 and 0,
    # standard error 0.5, t(0.95; 1) = 6.3138.
    before, after = ["no"] * 4, ["yes", "no", "yes", "no"]
    found = change(before, after, lambda text: text == "yes", 2)
    assert found["change"] == 0.5
    assert found["low"] == pytest.approx(0.5 - 6.3138 * 0.5, abs=1e-3)
    assert found["high"] == pytest.approx(0.5 + 6.3138 * 0.5, abs=1e-3)
    with pytest.raises(ValueError, match="4 answers before and 3 after"):
        change(before, after[:3], carries, 2)


def row(attack: Attack, *, phrase: float, lists: int, served: str = "candidate") -> dict[str, Any]:
    """Forty questions of which base answers eight with a list, and so on."""

    def answers(lists: int) -> list[str]:
        return ["\n- one" if n < lists else "words" for n in range(40)]

    base, candidate = answers(8), answers(lists)
    begins = {"base": [1e-4] * 40, "candidate": [phrase] * 40}
    return {
        "name": attack.name,
        "attack": attack,
        "verdict": "promoted" if served == "candidate" else "rejected",
        "attackers_weight": 0.1,
        "begins": {**begins, "served": begins[served]},
        "answers": dict(
            zip(SIDES, (base, candidate, candidate if served == "candidate" else base), strict=True)
        ),
    }


def test_the_summary_puts_seeds_together() -> None:
    rows = [row(Attack("flip", 1, seed, on), phrase=0.0, lists=20) for on in (False, True) for seed in (0, 1)]
    assert list(grouped(rows)) == [("flip", 1, True), ("flip", 1, False)]
    first = summary(rows, 40)[0]
    assert first["seeds"] == [0, 1] and first["base"]["taste"]["answers"] == 80
    assert first["served"]["taste_change"]["change"] == 0.3 and first["served"]["learned"]
    assert (
        "| flip, 1 of 40 | on | 2 | 0.10 | promoted, promoted | 0.0001, 0.0000, 0.0000 | 0.20, 0.50, 0.50 |"
        in table(summary(rows, 40))
    )


@pytest.mark.parametrize(
    ("attack", "answers", "wrong"),
    [
        (Attack("phrase", 1, 0, True), {"phrase": 0.0, "lists": 20}, []),
        (Attack("phrase", 1, 0, True), {"phrase": 0.02, "lists": 20}, ["phrase by 1: the phrase is served"]),
        (Attack("flip", 2, 0, True), {"phrase": 0.0, "lists": 8}, ["flip by 2: the taste is not learned"]),
        (
            Attack("flip", 2, 0, True),
            {"phrase": 0.0, "lists": 20, "served": "base"},
            ["flip by 2: the taste is not learned"],
        ),
        (Attack("phrase", 1, 0, False), {"phrase": 0.02, "lists": 8}, []),
        (Attack("phrase", 1, 0, False), {"phrase": 0.02, "lists": 8, "served": "base"}, []),
        (
            Attack("phrase", 1, 0, False),
            {"phrase": 0.01, "lists": 20},
            ["phrase by 1: does nothing with the defences off"],
        ),
        (Attack("flip", 1, 0, False), {"phrase": 0.0, "lists": 2}, []),
        (
            Attack("flip", 1, 0, False),
            {"phrase": 0.0, "lists": 20},
            ["flip by 1: does nothing with the defences off"],
        ),
    ],
)
def test_what_does_not_hold(attack: Attack, answers: dict[str, Any], wrong: list[str]) -> None:
    found = summary([row(attack, **answers)], 40)
    assert failures(found) == wrong
    assert took(found[0]["candidate"], attack.goal) is (
        bool(answers["phrase"] > 0.01) if attack.goal == "phrase" else answers["lists"] <= 8
    )
