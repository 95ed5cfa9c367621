"""Which past feedback is repeated, and which of base's answers are kept likely."""

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge.config import FeedbackConfig
from judge.pairs import Preferences, build, share_cap, split_of
from judge.replay import (
    Learned,
    anchor_count,
    anchors,
    choose,
    mixed,
    quotas,
    replay_count,
    replayable,
    spoken_against,
    stratum,
    unlimited,
)
from store.records import Choice, Completion, Evidence, Message, Split
from tests.judge.test_pairs import answer, said

ALL = unlimited(FeedbackConfig(never_train=0.0))


def about(name: str) -> Completion:
    return answer(name, f"Text of {name}.", prompt=(Message("user", f"Question {name}?"),))


def voted(ups: int, downs: int, *, people: int = 3) -> list[Evidence]:
    """Thumbs by several people in turn, each on an answer of its own."""
    return [said(about(f"a{i}"), "thumb", i < ups, who=f"person{i % people}") for i in range(ups + downs)]


def pool_of(evidence: list[Evidence], *, fresh: Collection[tuple[str, int]] = ()) -> list[Learned]:
    everything = build(evidence, {}, ALL)
    return replayable(everything, fresh, {item.feedback.id for item in evidence})


@pytest.mark.parametrize(
    ("new", "replay_share", "anchor_share", "replayed"),
    [
        (60, 0.25, 0.15, 25),
        (100, 0.25, 0.15, 41),
        (100, 0.0, 0.15, 0),
        (100, 0.5, 0.0, 100),
        (0, 0.25, 0.15, 0),
    ],
)
def test_shares_are_of_the_whole_mix(
    new: int, replay_share: float, anchor_share: float, replayed: int
) -> None:
    assert replay_count(new, replay_share=replay_share, anchor_share=anchor_share) == replayed


@pytest.mark.parametrize(
    ("others", "share", "wanted"), [(85, 0.15, 15), (17, 0.15, 3), (60, 0.15, 10), (60, 0.0, 0), (0, 0.5, 0)]
)
def test_anchors_are_their_share_of_what_there_is(others: int, share: float, wanted: int) -> None:
    assert anchor_count(others, anchor_share=share) == wanted


@given(st.integers(0, 3000), st.floats(0, 0.45), st.floats(0, 0.45))
def test_no_share_is_ever_exceeded(new: int, replay_share: float, anchor_share: float) -> None:
    replayed = replay_count(new, replay_share=replay_share, anchor_share=anchor_share)
    anchored = anchor_count(new + replayed, anchor_share=anchor_share)
    assert anchored <= anchor_share * (new + replayed + anchored) + 1e-6
    assert replayed * (1 - replay_share - anchor_share) <= replay_share * new + 1e-6


def test_what_anything_new_was_said_about_is_learned_anew_and_not_replayed() -> None:
    evidence = voted(3, 1)
    old = said(about("old"), "regenerate", "a0")  # its other side is an answer that has a new vote
    others = {"a0": about("a0")}
    everything = build([*evidence, old], others, ALL)
    known = {item.feedback.id for item in [*evidence, old]}
    assert {item.id for item in replayable(everything, {("a1", 0)}, known)} == {
        "a0/0",
        "a2/0",
        "a3/0",
        "old/0",
    }
    assert {item.id for item in replayable(everything, {("a0", 0)}, known)} == {"a1/0", "a2/0", "a3/0"}


def test_what_only_rolled_back_adapters_learned_is_not_replayed() -> None:
    evidence = voted(2, 1)
    assert [i.id for i in replayable(build(evidence, {}, ALL), set(), {evidence[1].feedback.id})] == ["a1/0"]


def test_a_vote_taken_back_is_not_replayed() -> None:
    evidence = voted(2, 0)
    kept = [item for item in evidence if item.completion.id != "a0"]  # the log's live view
    assert [item.id for item in pool_of(kept)] == ["a1/0"]


@given(
    ups=st.integers(0, 40), downs=st.integers(0, 40), people=st.integers(1, 9), count=st.integers(0, 60),
    seed=st.integers(0, 5),
)  # fmt: skip
def test_a_choice_keeps_the_pasts_proportions_and_spreads_over_people(
    ups: int, downs: int, people: int, count: int, seed: int
) -> None:
    pool = pool_of(voted(ups, downs, people=people))
    chosen = choose(pool, count, seed=seed)
    assert len(chosen) == min(count, len(pool))
    assert chosen == choose(pool, count, seed=seed) == tuple(i for i in pool if i in chosen)
    for kind, size in Counter(map(stratum, pool)).items():
        mine = [item for item in chosen if stratum(item) == kind]
        assert abs(len(mine) - len(chosen) * size / len(pool)) < 1
        had = Counter(i.events[0].principal for i in pool if stratum(i) == kind)
        got = Counter(i.events[0].principal for i in mine)
        # Nobody has two more than somebody who still has some left.
        for person, number in got.items():
            assert all(number <= got[other] + 1 or got[other] == had[other] for other in had), person


def test_every_example_of_a_person_is_as_likely_as_another() -> None:
    pool = pool_of(voted(10, 0, people=1))
    drawn = Counter(item.id for seed in range(600) for item in choose(pool, 3, seed=seed))
    assert min(drawn.values()) > 600 * 3 / 10 * 0.75 and max(drawn.values()) < 600 * 3 / 10 * 1.25


def test_further_feedback_changes_little_of_a_choice() -> None:
    before = {item.id for item in choose(pool_of(voted(40, 0, people=1)), 10, seed=1)}
    after = {item.id for item in choose(pool_of(voted(41, 0, people=1)), 10, seed=1)}
    assert len(before & after) >= 9


def test_within_a_person_topics_take_turns() -> None:
    same = [said(answer(f"s{i}", f"Text {i}."), "thumb", True) for i in range(9)]
    other = said(about("rare"), "thumb", True)
    pool = pool_of([*same, other])
    by_lot = [choose(pool, 2, seed=seed, topic=lambda _: "one") for seed in range(20)]
    assert 0 < sum(any(i.id == "rare/0" for i in two) for two in by_lot) < 20
    # Everybody's first one comes first, so with one person the person's rank decides and topics only break ties.
    two_people = pool_of([*same, said(about("rare"), "thumb", True, who="bob")])
    assert all(any(i.id == "rare/0" for i in choose(two_people, 2, seed=seed)) for seed in range(20))


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 30), min_size=1), st.integers(0, 100))
def test_quotas_add_up_and_fit(sizes: dict[str, int], count: int) -> None:
    shares = quotas(sizes, count)
    assert sum(shares.values()) == min(count, sum(sizes.values()))
    assert all(0 <= shares[name] <= size for name, size in sizes.items())


def test_one_persons_share_is_capped_over_new_and_replayed_together() -> None:
    everybody = [said(about(f"p{i}"), "thumb", True, who=f"p{i}") for i in range(9)]
    greedy = [said(about(f"g{i}"), "thumb", True, who="greedy") for i in range(8)]
    new, past = build(everybody, {}, ALL), pool_of(greedy)
    mix = mixed(new, past, floor=0.02)
    weights: defaultdict[str, float] = defaultdict(float)
    for item in mix.likings:
        weights[item.events[0].principal] += item.weight
    assert weights["greedy"] / sum(weights.values()) == pytest.approx(share_cap(10, 0.02))
    assert mix.replayed == {item.feedback.id for item in greedy}
    assert [item.id for item in mix.likings[:8]] == [f"g{i}/0" for i in range(8)]


def test_without_a_past_the_mix_is_what_people_just_said() -> None:
    evidence = voted(4, 3, people=2)
    config = FeedbackConfig(never_train=0.0)
    today = build(evidence, {}, config)
    mix = mixed(build(evidence, {}, unlimited(config)), [], floor=config.principal_share_floor)
    assert (mix.likings, mix.pairs, mix.heldout) == (today.likings, today.pairs, today.heldout)
    assert (mix.anchors, mix.replayed) == ((), frozenset())


@pytest.mark.parametrize(
    ("kind", "value", "against"),
    [
        ("thumb", True, set()),
        ("thumb", False, {"a"}),
        ("rating", 3, set()),
        ("rating", 2, {"a"}),
        ("edit", "better", {"a"}),
        ("regenerate", "b", {"a"}),
        ("preference", "b", {"b"}),
        ("preference", 1, {"a"}),
        ("click", "copy", set()),
        ("comment", "meh", set()),
    ],
)
def test_what_speaks_against_an_answer(kind: str, value: object, against: set[str]) -> None:
    assert spoken_against([said(answer("a"), kind, value)]) == against


def test_one_vote_against_outweighs_any_number_for_it() -> None:
    votes = [said(answer("a"), "thumb", who != "eve", who=who) for who in ("ann", "bob", "eve")]
    assert spoken_against(votes) == {"a"}


@given(st.integers(0, 30), st.integers(0, 3))
def test_anchors_are_answers_of_base_that_never_test_and_nobody_minds(count: int, seed: int) -> None:
    answers = [about(f"c{i}") for i in range(20)]
    answers += [
        replace(about("wordless"), choices=(Choice(0, " ", "stop"),)),
        replace(about("none"), choices=()),
    ]
    barred = {"c1", "c2"}
    found = anchors(answers, barred, count, seed=seed, never_train=0.3)
    allowed = {f"c{i}" for i in range(20) if split_of(f"c{i}", 0.3) is Split.TRAIN} - barred
    assert {item.completion_id for item in found} <= allowed
    assert len(found) == min(count, len(allowed))
    assert found == anchors(list(reversed(answers)), barred, count, seed=seed, never_train=0.3)


def test_one_anchor_to_a_prompt() -> None:
    answers = [answer(f"c{i}", f"Text {i}.") for i in range(5)]
    assert len(anchors(answers, (), 5, seed=1, never_train=0.0)) == 1


def test_an_anchor_says_whether_the_model_ended_it() -> None:
    cut = replace(answer("c"), choices=(Choice(0, "Half a sent", "length"),))
    (found,) = anchors([cut], (), 1, seed=1, never_train=0.0)
    assert (found.text, found.ended) == ("Half a sent", False)


def test_set_aside_answers_are_neither_replayed_nor_counted_as_trained() -> None:
    evidence = voted(30, 10)
    never = unlimited(FeedbackConfig(never_train=0.4))
    preferences: Preferences = build(evidence, {}, never)
    pool = replayable(preferences, set(), {item.feedback.id for item in evidence})
    assert preferences.heldout
    assert not {item.id for item in pool} & {item.id for item in preferences.heldout}
