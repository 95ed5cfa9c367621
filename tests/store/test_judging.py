"""What judges said, their licences, the pairs that came of it, and operators' labels."""

import pytest

from store.db import Store
from store.judging import JudgedPair, Judgement, Label, Licence, PairOrigin
from store.records import Source, Stage
from tests.store.conftest import completion


@pytest.fixture
def iteration(store: Store) -> int:
    for name in ("c1", "c2"):
        store.completions.begin(completion(name))
    return store.iterations.begin(trigger="t", incumbent=None, config={}).id


def licence_of(iteration: int, scorer: str, *, licensed: bool) -> Licence:
    return Licence(
        iteration=iteration,
        scorer=scorer,
        version="v1",
        licensed=licensed,
        reasons=("AUC 0.5, at least 0.6 needed",),
        measures={"auc": 0.5},
        calibration={"kind": "platt", "slope": 0.1},
        texts={"rubric": "abc"},
        at=3.0,
    )


def test_scores_are_found_again_by_scorer_and_version(store: Store, iteration: int) -> None:
    kept = Judgement("d1", "relevance", "v1", -3.5, 2.0, "c1", 1, iteration, {"tokens": 9})
    store.judgements.add([kept, Judgement("d2", "relevance", "v2", 1.0, 2.0, None, None, iteration)])
    assert store.judgements.known("relevance", "v1", ["d1", "d2", "d9"]) == {"d1": kept}
    assert store.judgements.known("rubric", "v1", ["d1"]) == {}
    store.judgements.add([Judgement("d1", "relevance", "v1", 9.0, 3.0, "c1", 1, iteration)])
    assert store.judgements.known("relevance", "v1", ["d1"]) == {"d1": kept}, "scored once"


def test_an_iteration_goes_by_scores_given_before_it_too(store: Store, iteration: int) -> None:
    kept = Judgement("d1", "relevance", "v1", -3.5, 2.0, "c1", 1, iteration)
    store.judgements.add([kept, Judgement("d1", "rubric", "v1", 2.0, 2.0, "c1", 1, iteration)])
    later = store.iterations.begin(trigger="t", incumbent=None, config={}).id
    for _ in range(2):
        store.judgements.go_by(later, "relevance", "v1", ["d1", "d9"])
    assert store.judgements.in_iteration(later) == [kept]
    assert store.judgements.in_iteration(iteration) == []


def test_a_text_is_kept_as_it_was_when_first_read(store: Store) -> None:
    store.judgements.keep_texts({"abc": ("rubric", "Be kind.")}, at=1.0)
    store.judgements.keep_texts({"abc": ("rubric", "Be cruel."), "def": ("rubric", "Be brief.")}, at=2.0)
    assert store.judgements.texts(["abc", "def", "xyz"]) == {"abc": "Be kind.", "def": "Be brief."}


def test_licences_of_an_iteration_are_replaced_when_it_is_taken_up_again(
    store: Store, iteration: int
) -> None:
    store.judgements.set_licences(iteration, [licence_of(iteration, "rubric", licensed=True)])
    again = [licence_of(iteration, name, licensed=False) for name in ("relevance", "rubric")]
    store.judgements.set_licences(iteration, again)
    assert store.judgements.licences(iteration) == again
    later = store.iterations.begin(trigger="t", incumbent=None, config={}).id
    newest = licence_of(later, "rubric", licensed=True)
    store.judgements.set_licences(later, [newest])
    assert store.judgements.licence_history(limit=2) == [newest, again[0]]


@pytest.mark.parametrize(("dropped", "trained"), [(None, [1]), ("tie", [])])
def test_a_judged_pair_is_lineage_of_both_its_answers_unless_dropped(
    store: Store, iteration: int, dropped: str | None, trained: list[int]
) -> None:
    pair = JudgedPair(iteration, PairOrigin.CANDIDATES, ("c1", 0), ("c2", 1), 0.8, 0.5, dropped, {"gap": 1.5})
    store.judgements.set_pairs(iteration, [pair])
    store.judgements.set_pairs(iteration, [pair])
    assert store.judgements.pairs(iteration) == [pair]
    for name in ("c1", "c2"):
        assert [one.id for one in store.iterations.trained_by(name)] == trained


def test_samples_are_found_by_their_iteration(store: Store, iteration: int) -> None:
    drawn = completion("s1", source=Source.SAMPLE, metadata={"iteration": iteration})
    store.completions.begin(drawn)
    store.completions.begin(completion("s2", source=Source.SAMPLE, metadata={"iteration": iteration + 1}))
    store.completions.begin(completion("c3", metadata={"iteration": iteration}))
    assert store.completions.samples(iteration) == {"s1": drawn}


def test_labels_come_newest_first_and_one_id_once(store: Store, iteration: int) -> None:
    one = Label("l1", 1.0, "op", "clear", "c1", good=True)
    two = Label("l2", 2.0, "op", "clear", "c1", 1, None, "c2", 0)
    for label in (one, two, one):
        store.labels.add(label)
    assert store.labels.recent(9) == [two, one]
    assert store.labels.count() == 2
    assert store.iterations.get(iteration).stage is Stage.QUEUED
