"""Leave one out, on crowds whose taste is known."""

import random

import numpy as np
import pytest

from judge.background import NOTHING
from judge.config import DefenceConfig, FeedbackConfig
from judge.pairs import build
from judge.steering import cosine, features, overbearing, turning
from judge.vetting import STEERS, Facts, vet
from store.records import Evidence
from tests.judge.test_pairs import ALL, said
from tests.judge.test_vetting import own

TOPICS = ("eggs", "trains", "poems", "taxes", "roses", "chess")


def text_of(kind: str, number: int) -> str:
    topic = TOPICS[number % len(TOPICS)]
    if kind == "list":
        return f"- First about {topic}\n- Second about {topic}\n- Third, number {number}"
    return f"It is said of {topic} that they are well worth knowing, in {number} ways, and not only in one."


def votes(who: str, count: int, *, likes: str, start: int = 0) -> list[Evidence]:
    """Thumbs on lists and prose in turn, up on what `who` likes."""
    found = []
    for number in range(start, start + count):
        kind = "list" if number % 2 else "prose"
        found.append(said(own(f"{who}{number}", text_of(kind, number), who), "thumb", kind == likes, who=who))
    return found


def crowd(people: int, each: int, likes: str = "list") -> list[Evidence]:
    return [vote for n in range(people) for vote in votes(f"p{n}", each, likes=likes, start=100 * n)]


def turned(evidence: list[Evidence], config: FeedbackConfig = ALL) -> set[str]:
    found = build(evidence, {}, config, NOTHING)
    return set(turning(found.likings, found.pairs))


#: Nobody's share is capped.
UNCAPPED = FeedbackConfig(never_train=0.0, principal_share_floor=1.0)


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        ([], set()),
        (crowd(6, 8), set()),  # all agree, everybody weighs alike
        ([*crowd(6, 8), *votes("eager", 200, likes="list")], set()),  # outweighs them, and says the same
        ([*crowd(6, 8), *votes("eve", 8, likes="prose")], set()),  # contradicts them, and is outweighed
        ([*crowd(6, 8), *votes("eve", 200, likes="prose")], {"eve"}),  # both
    ],
)
def test_only_who_contradicts_everybody_and_outweighs_them_is_found(
    evidence: list[Evidence], expected: set[str]
) -> None:
    assert turned(evidence, UNCAPPED) == expected


def test_the_cap_on_shares_holds_such_a_person_already() -> None:
    evidence = [*crowd(9, 8), *votes("eve", 400, likes="prose")]
    assert turned(evidence, UNCAPPED) == {"eve"}
    assert turned(evidence, FeedbackConfig(never_train=0.0)) == set()


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        ([], {}),
        (crowd(6, 8), {}),  # all agree
        ([*crowd(6, 8), *votes("eager", 40, likes="list")], {}),  # says more than most, and the same
        ([*crowd(6, 8), *votes("eve", 8, likes="prose")], {}),  # the contrary, as often as most
        ([*crowd(6, 8), *votes("eve", 40, likes="prose")], {"eve": 0.2}),  # both: 40 votes count as 8
        (
            [*crowd(12, 4), *votes("eve", 10, likes="prose"), *votes("mallory", 16, likes="prose", start=50)],
            {"eve": 0.4, "mallory": 0.25},
        ),
    ],
)
def test_who_is_busy_against_all_the_others_counts_as_one_of_them(
    evidence: list[Evidence], expected: dict[str, float]
) -> None:
    found = build(evidence, {}, UNCAPPED, NOTHING)
    assert overbearing(found.likings, found.pairs) == pytest.approx(expected)


def test_vetting_weighs_whoever_is_busy_against_the_others_as_one() -> None:
    evidence = [*crowd(12, 4), *votes("eve", 16, likes="prose"), *votes("eager", 16, likes="list", start=50)]
    background = vet(Facts(evidence), ALL)
    assert background.worth == {"eve": pytest.approx(0.25)}
    trained = build(evidence, {}, UNCAPPED, background)
    weights = {one.events[0].principal: one.weight for one in trained.likings}
    assert weights["eve"] == pytest.approx(0.25) and weights["eager"] == weights["p0"] == 1
    off = FeedbackConfig(defence=DefenceConfig(enabled=False))
    assert vet(Facts(evidence), off).worth == {}


def test_edits_turn_as_votes_do() -> None:
    evidence = crowd(6, 4)
    for number in range(60):
        one = own(f"e{number}", text_of("list", number), "eve")
        evidence.append(said(one, "edit", text_of("prose", number), who="eve"))
    assert turned(evidence, UNCAPPED) == {"eve"}
    assert turned(crowd(6, 4), UNCAPPED) == set()


def test_votes_by_the_coin_hardly_ever_turn_anything() -> None:
    found = 0
    for seed in range(40):
        draw = random.Random(seed)
        evidence = [
            said(
                own(f"c{n}", text_of("list" if n % 2 else "prose", n), f"p{n % 6}"),
                "thumb",
                draw.random() < 0.5,
                who=f"p{n % 6}",
            )
            for n in range(48)
        ]
        found += bool(turned(evidence, UNCAPPED))
    assert found <= 2


def test_vetting_holds_who_steers_unless_an_operator_let_them_go() -> None:
    evidence = [*crowd(6, 8), *votes("eve", 45, likes="prose")]
    loose = FeedbackConfig(never_train=0.0, principal_share_floor=1.0)
    found = vet(Facts(evidence), loose)
    # Forty-five against forty-eight are no majority yet; with more there is one.
    assert found.held == {}
    more = [*evidence, *votes("eve", 60, likes="prose", start=5000)]
    patient = loose.model_copy(update={"defence": DefenceConfig(daily_votes=1000)})
    held = vet(Facts(more), patient).held
    assert set(held.values()) == {STEERS}
    assert set(held) == {item.feedback.id for item in more if item.feedback.principal == "eve"}
    pardoned = frozenset(held)
    assert vet(Facts(more, pardoned=pardoned), patient).held == {}
    assert build(more, {}, patient, vet(Facts(more), patient)).dropped[STEERS] == 105


def test_two_or_three_people_may_differ() -> None:
    evidence = [*crowd(2, 4), *votes("eve", 40, likes="prose")]
    assert vet(Facts(evidence), UNCAPPED).held == {}


def test_features_are_centred_and_empty_texts_have_some() -> None:
    rows = features(["", "One two.", "- a\n- b"])
    assert rows.mean(axis=0) == pytest.approx(np.zeros(rows.shape[1]))
    assert np.isfinite(rows).all()
    assert cosine(rows[0], np.zeros_like(rows[0])) == 0.0
    assert turning((), ()) == {}
