"""The queue as the service reads it from its log: what is offered, what is not, and why there is nothing."""

from typing import Any

import pytest

from daemon.config import Config
from daemon.queue import PROMPTS, given, offer, scales_of, weighed
from judge.queue import pairs_of
from store.db import Store
from store.judging import Judgement, Label
from store.records import Choice, Intent, IntentKind, IntentStatus, Message, Source
from tests.store.conftest import completion


@pytest.fixture
def store() -> Any:
    with Store.memory() as fresh:
        yield fresh


def talk(store: Store, name: str, prompt: str, *texts: str, **changes: Any) -> None:
    choices = tuple(Choice(index, text, "stop", 2) for index, text in enumerate(texts))
    store.completions.begin(completion(name, messages=(Message("user", prompt),), choices=choices, **changes))


def judged(store: Store, name: str, scorer: str, *scores: float) -> None:
    store.judgements.add(
        [
            Judgement(f"{name}/{index}", scorer, "v1", score, 1.0, name, index)
            for index, score in enumerate(scores)
        ]
    )


def names(store: Store, limit: int = 10, **judge: Any) -> list[str]:
    config = Config.model_validate({"judge": judge})
    return [item.left.completion_id for item in offer(store, config, limit).items]


def test_what_scorers_disagree_about_comes_before_what_they_are_sure_of(store: Store) -> None:
    for number in range(12):
        talk(store, f"s{number}", f"What of subject{number} then?", "Yes.", "No.", source=Source.SAMPLE)
        judged(store, f"s{number}", "rubric", 1.0, 0.0)
        judged(store, f"s{number}", "relevance", *((0.0, 1.0) if number % 2 else (1.0, 0.0)))
    shown = names(store, 4)
    assert len(shown) == 4 and all(int(name[1:]) % 2 for name in shown)


def test_what_people_ask_often_comes_first(store: Store) -> None:
    for day in ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday"):
        for person in range(4):
            asked = f"How long must bread bake on {day}?"
            talk(store, f"{day}{person}", asked, "An hour.", principal=f"p{person}")
        talk(
            store,
            f"bread-{day}",
            f"How long must bread bake on {day}?",
            "Long.",
            "Short.",
            source=Source.SAMPLE,
        )
        talk(
            store, f"moss-{day}", f"Where does moss grow on {day}?", "North.", "South.", source=Source.SAMPLE
        )
    shown = offer(store, Config(), 2).items
    assert ["bread" in item.prompt[-1].content for item in shown] == [True, True]


def test_it_is_blind_and_stays_as_it_is_until_somebody_labels(store: Store) -> None:
    talk(store, "c1", "Why?", "Because.", adapter=None, principal="ann")
    talk(store, "c2", "Why?", "No reason.", principal="bob")
    (item,) = offer(store, Config(), 10).items
    assert offer(store, Config(), 10).items == (item,)
    assert {item.left.completion_id, item.right.completion_id} == {"c1", "c2"}
    assert item.prompt == (Message("user", "Why?"),)
    assert "ann" not in repr(item) and "bob" not in repr(item)


@pytest.mark.parametrize("same", [False, True])
def test_a_labelled_pair_is_gone_and_so_is_one_whose_label_waits(store: Store, same: bool) -> None:
    talk(store, "c1", "Why?", "Because.", "No reason.")
    talk(store, "c2", "Who?", "You.", "They.")
    store.labels.add(Label("l1", 1.0, "op", "clear", "c1", 0, None, "c1", 1, same))
    assert store.labels.recent(1)[0].same is same
    assert names(store) == ["c2"]
    waits = {"completion_id": "c2", "choice_index": 1, "other_id": "c2", "other_index": 0}
    store.intents.add(Intent("in-1", 1.0, IntentKind.LABEL, "op", "clear", waits, IntentStatus.PENDING))
    found = offer(store, Config(), 10)
    assert found.items == () and "was labelled" in (found.reason or "")


def test_an_empty_queue_says_why(store: Store) -> None:
    assert "two different answers" in (offer(store, Config(), 10).reason or "")
    talk(store, "c1", "Why?", "Because.")
    talk(store, "c2", "Why?", "", stored=False)
    talk(store, "t1", "Title?", "One", "Two", source=Source.TASK)
    talk(store, "i1", "Why not?", "One", "Two", source=Source.IMPORT)
    assert "two different answers" in (offer(store, Config(), 10).reason or "")


def test_a_judge_that_may_have_learned_from_answers_is_not_measured_on_them(store: Store) -> None:
    talk(store, "s1", "Why?", "Because.", "No reason.", source=Source.SAMPLE)
    assert names(store) == ["s1"]
    assert names(store, weights="incumbent") == []


def test_without_a_measurement_a_score_says_only_which_answer_is_preferred(store: Store) -> None:
    scale = scales_of(store, {"rubric"})["rubric"]
    assert (scale(2.0, 1.0), scale(1.0, 2.0), scale(1.0, 1.0)) == (0.75, 0.25, 0.5)


def test_of_many_prompts_subjects_are_told_of_the_most_open_ones(store: Store) -> None:
    for number in range(PROMPTS + 30):
        talk(store, f"s{number}", f"What of subject{number} then?", "Yes.", "No.", source=Source.SAMPLE)
        judged(store, f"s{number}", "rubric", *((1.0, 0.0) if number < 30 else (0.5, 0.5)))
    found = subjects_asked(store)
    assert len(found) == PROMPTS and not any(
        f"What of subject{number} then?" in found for number in range(30)
    )
    assert len(names(store, 50)) == 50


def subjects_asked(store: Store) -> set[str]:
    logged = store.completions.recent(limit=1000, source=Source.SAMPLE, done_only=True)
    pairs = weighed(store, pairs_of(given(logged), settled=()))
    return {pair.left.prompt[-1].content for pair in pairs if pair.cluster}
