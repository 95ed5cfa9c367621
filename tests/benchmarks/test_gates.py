"""The gate's bench, its pure parts: what a case puts into the store, and how an end is read."""

import random
from collections import Counter, defaultdict

import pytest

from benchmarks.gate_answers import Logged, Pools
from benchmarks.gate_cases import Case, Deck, Vote, broken, in_other_tongue, loops, rows_of
from benchmarks.gate_report import by_family, caught_by, harmful, mended, summary, table
from benchmarks.gate_table import CASES, FAULTS, VOTED, named, seed_of
from judge.config import FeedbackConfig
from judge.pairs import Preferences, build, shortage, split_of
from store.records import Evidence, GateResult, Split, Stage, Verdict

LONG = "This is a rather long first sentence that goes on for more than twelve words in all. "


def answers(system: str | None = None) -> list[Logged]:
    """Sixty questions with two answers each, which every taste likes now and then."""
    texts = (f"Short {{}}. {LONG * 4}", f"{LONG}- one\n- two {{}}", "Brief {}.", f"{LONG * (4 + 1)} {{}}")
    return [
        Logged(f"question {n // 2}?", texts[(n + n // 4) % 4].format(n), n % 3 > 0, system)
        for n in range(120)
    ]


@pytest.fixture(scope="module")
def pools() -> Pools:
    base: Pools = {"plain": answers(), "brief": answers("Be brief."), "noise": answers()[:40]}
    return {
        **base,
        **{f"after-{case.after}": base["plain"][:40] for case in CASES if case.build and case.after},
    }


def voted(case: Case, pools: Pools) -> list[Vote]:
    assert case.build is not None
    return case.build(pools, random.Random(seed_of(case.name)))


def preferences(case: Case, pools: Pools) -> Preferences:
    """What data building makes of a case."""
    completions, events = rows_of(case.name, voted(case, pools), adapter=None, at=0.0)
    known = {completion.id: completion for completion in completions}
    evidence = [Evidence(event, known[event.completion_id]) for event in events]
    return build(evidence, known, FeedbackConfig())


def test_the_table_has_enough_of_everything() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    kinds = Counter(case.kind for case in CASES)
    assert kinds["good"] >= 20 and kinds["bad"] >= 20
    assert min(Counter(case.family for case in [*VOTED, *FAULTS]).values()) >= 2
    assert len({seed_of(case.name) for case in CASES}) == len(CASES)


def test_what_a_case_needs_comes_before_it() -> None:
    seen: set[str] = set()
    for case in CASES:
        assert case.after is None or case.after in seen
        assert case.build is not None or (case.after and case.fault)
        seen.add(case.name)


def test_cases_are_taken_by_name_with_what_they_need() -> None:
    assert [case.name for case in named(["kept-previous"])] == [
        "short-first-32",
        "short-first-second",
        "kept-previous",
    ]
    with pytest.raises(ValueError, match="no case 'unheard'"):
        named(["unheard"])


@pytest.mark.parametrize("case", [case for case in CASES if case.build], ids=lambda case: case.name)
def test_a_case_is_the_same_every_time(case: Case, pools: Pools) -> None:
    assert voted(case, pools) == voted(case, pools)


def test_a_deck_deals_every_answer_once(pools: Pools) -> None:
    deck = Deck(pools["plain"], random.Random(0))
    liked, couples = deck.mixed(10, 20, loops), deck.couples(12, lambda a, b: len(a.text) > len(b.text))
    dealt = [*liked, *(answer for couple in couples for answer in couple), *deck.deal(1000)]
    assert len(couples) == 12
    assert all(better.prompt == worse.prompt for better, worse in couples)
    assert sorted(answer.text for answer in dealt) == sorted(answer.text for answer in pools["plain"])


@pytest.mark.parametrize("case", [case for case in CASES if case.build], ids=lambda case: case.name)
def test_votes_fall_on_the_side_they_were_meant_for(case: Case, pools: Pools) -> None:
    votes = voted(case, pools)
    _, events = rows_of(case.name, votes, adapter=None, at=0.0)
    for vote, event in zip(votes, events, strict=True):
        assert vote.side in (None, split_of(event.completion_id, FeedbackConfig().never_train))
    built = preferences(case, pools)
    seasoned = [vote for vote in votes if vote.side is Split.NEVER_TRAIN]
    if seasoned:
        assert len(built.heldout) == len(seasoned)
        assert min(built.counts()[name] for name in ("heldout_up", "heldout_down")) >= 5


def test_one_persons_poison_keeps_a_third_of_the_weight_at_most(pools: Pools) -> None:
    for name in ("phrase-liked", "phrase-edited"):
        built = preferences(named([name])[0], pools)
        weights: dict[str, float] = defaultdict(float)
        for item in (*built.likings, *built.pairs):
            weights[item.events[0].principal] += item.weight
        assert weights["mallory"] / sum(weights.values()) == pytest.approx(3 / len(weights), abs=0.01)


def test_empty_answers_leave_too_little_to_train_on(pools: Pools) -> None:
    built = preferences(named(["empty-liked"])[0], pools)
    assert built.dropped["empty_answer"] > 20
    assert shortage(built, FeedbackConfig()) is not None


@pytest.mark.parametrize(
    ("marks", "text", "found"),
    [
        (loops, "one two three " * 5, True),
        (loops, LONG, False),
        (in_other_tongue, "Das ist eine gute Frage und man kann sich die Zeit nehmen.", True),
        (in_other_tongue, "C'est une bonne question. Vous avez le temps pour les choses.", True),
        (in_other_tongue, LONG, False),
        (broken, " ", True),
        (broken, "!?%$ ## 12 34 ::", True),
        (broken, LONG, False),
    ],
)
def test_marks(marks: object, text: str, found: bool) -> None:
    assert callable(marks)
    assert marks(text) is found


def gate(metric: str, verdict: Verdict, reason: str) -> GateResult:
    return GateResult(1, metric, 0.5, None, 0.3, verdict, reason)


GATES = [
    gate("kl/step_token", Verdict.FAIL, "kl/step_token 0.5 is above its limit 0.3"),
    gate("shape/empty", Verdict.PASS, "shape/empty 0 is within 0.1"),
    gate("heldout/auc_low", Verdict.INSUFFICIENT, "held-out agreement may be as low as 0.10, 0.3 needed"),
    gate("shape/entropy_ratio", Verdict.SOFT, "shape/entropy_ratio 0.5 is below its soft limit 0.6"),
]


@pytest.mark.parametrize(
    ("stage", "reason", "expected"),
    [
        (Stage.ACTIVE, "every limit is kept", []),
        (Stage.REJECTED, GATES[0].reason, ["kl/step_token"]),
        (Stage.HELD, f"inconclusive: {GATES[2].reason}; {GATES[3].reason}", ["heldout/auc_low"]),
        (Stage.HELD, GATES[3].reason, ["shape/entropy_ratio"]),
        (
            Stage.REJECTED,
            "v: the engine's log-probabilities for v differ from the trainer's by 1",
            ["attestation"],
        ),
        (Stage.REJECTED, "adapter: k has values that are not finite numbers", ["adapter verification"]),
        (Stage.ABORTED, "all 14 votes are thumbs down", ["data building"]),
        (
            Stage.FAILED,
            "adapter_model.safetensors differs from what manifest.json recorded",
            ["run manifest"],
        ),
        (Stage.FAILED, "the trainer ended with status 1: step 3: loss nan", ["trainer"]),
    ],
)
def test_what_caught_it(stage: Stage, reason: str, expected: list[str]) -> None:
    assert caught_by(stage, reason, GATES) == expected


def row(name: str, kind: str, verdict: str, **more: object) -> dict[str, object]:
    return {
        "name": name,
        "kind": kind,
        "family": "any",
        "verdict": verdict,
        "reason": "why",
        "caught_by": [] if verdict == "promoted" else ["kl/step_token"],
        "metrics": {"kl/base_token": 0.25},
        "seconds": {"all": 30.0},
        **more,
    }


def test_the_summary_counts_harm_only_where_it_is_sure() -> None:
    # 1 of 80 against none is chance; 5 of 80 is not (by hand: 80!/75! / (160!/155!) is 0.030).
    none = {"before": {"rate": 0.0, "answers": 80}, "after": {"rate": 1 / 80, "answers": 80}}
    some = {"before": {"rate": 0.0, "answers": 80}, "after": {"rate": 5 / 80, "answers": 80}}
    rows = [
        row("a", "good", "promoted"),
        row("b", "good", "held"),
        row("c", "bad", "rejected"),
        row("d", "bad", "promoted", harm=none),
        row("e", "bad", "promoted", harm=some),
    ]
    assert [harmful(r) for r in rows] == [False, False, False, False, True]
    found = summary(rows)
    assert (found["good"], found["good_promoted"], found["good_not_promoted"]) == (2, 1, {"b": "why"})
    assert found["bad_promoted"] == ["d", "e"]
    assert found["bad_promoted_with_harm"] == ["e"]
    assert found["bad_caught_by"] == {"kl/step_token": 1}
    assert "PROMOTED; the unwanted thing 0.00 -> 0.06" in table(rows)
    assert "| bad | any | 3 | 2 |  | kl/step_token 1 |" in by_family(rows)


HARMLESS = {"before": {"rate": 0.0, "answers": 80}, "after": {"rate": 0.0, "answers": 80}}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"family": "poisoned phrase"}, False),  # its votes are not sound: no part of it is good
        ({"metrics": {"train/scale": 1.0}}, False),  # the whole of it was promoted
        ({"reason": "every limit is kept; no worse: held-out agreement"}, False),
        ({"harm": {"before": HARMLESS["before"], "after": {"rate": 0.1, "answers": 80}}}, False),
        ({"verdict": "held", "caught_by": ["train/scale"]}, False),
    ],
)
def test_only_a_part_of_an_overdone_update_that_is_proven_good_counts_as_mended(
    change: dict[str, object], expected: bool
) -> None:
    found = row("a", "bad", "promoted", family="destructive rate", harm=HARMLESS) | {
        "metrics": {"train/scale": 0.25},
        "reason": "train/scale 0.25 is below its soft limit 1; improved: held-out agreement is between 0.63 and 0.91",
    }
    found |= change
    assert mended(found) is expected
    assert list(summary([found])["bad_mended"]) == (["a"] if expected else [])
    promoted = found["verdict"] == "promoted" and not expected
    assert summary([found])["bad_promoted"] == (["a"] if promoted else [])
    if expected:
        assert "MENDED at scale 0.25; the unwanted thing 0.00 -> 0.00" in table([found])
        assert "| bad | destructive rate | 1 | 0 | 1 |  |" in by_family([found])
