"""What operators are told of judges: on the iteration, status, metrics and the page."""

import pytest
from starlette.testclient import TestClient

from store.db import Store
from store.judging import JudgedPair, Judgement, Licence, PairOrigin
from store.records import Source
from tests.store.conftest import completion


def licence_of(iteration: int, scorer: str, *, licensed: bool, **measures: float) -> Licence:
    reason = "every bound is kept" if licensed else "too few human labels: 3, 40 needed (min_labels)"
    return Licence(
        iteration, scorer, "v1", licensed, (reason,), measures, {"kind": "platt"}, {"rubric": "d1"}, 4.0
    )


@pytest.fixture
def judged(store: Store) -> int:
    """An iteration in which one scorer was licensed, one was not, and one pair of two came through."""
    number = store.iterations.begin(trigger="t", incumbent=None, config={}).id
    drawn = {"iteration": number, "prompt_of": "c1", "purpose": "candidates"}
    store.completions.begin(completion("s1", source=Source.SAMPLE, metadata=drawn))
    good = licence_of(number, "relevance", licensed=True, auc=0.76, auc_lower=0.7, auc_upper=0.82, labels=108)
    store.judgements.set_licences(number, [good, licence_of(number, "rubric", licensed=False, labels=3)])
    store.judgements.add([Judgement("d1", "relevance", "v1", 0.5, 4.0, "s1", 0, number, {"tokens": 3})])
    store.judgements.go_by(number, "relevance", "v1", ["d1"])
    store.judgements.keep_texts({"d1": ("rubric", "Be kind.")}, at=4.0)
    kept = JudgedPair(number, PairOrigin.CANDIDATES, ("s1", 0), ("s1", 1), 0.8, 0.5)
    store.judgements.set_pairs(
        number, [kept, JudgedPair(number, PairOrigin.CANDIDATES, ("s1", 1), ("s1", 0), 0.5, 0.5, "tie")]
    )
    return number


def test_an_iteration_tells_everything_about_its_judging(client: TestClient, judged: int) -> None:
    told = client.get(f"/v1/iterations/{judged}").json()["judge"]
    assert [(one["scorer"], one["licensed"]) for one in told["licences"]] == [
        ("relevance", True),
        ("rubric", False),
    ]
    assert told["licences"][0]["measures"]["auc"] == 0.76 and told["licences"][0]["texts"] == {"rubric": "d1"}
    assert told["texts"] == {"d1": "Be kind."}
    assert [pair["dropped"] for pair in told["pairs"]] == [None, "tie"]
    assert told["judgements"][0]["details"] == {"tokens": 3}
    assert told["candidates"][0]["completion_id"] == "s1" and told["candidates"][0]["prompt_of"] == "c1"
    answer = client.get("/v1/completions/s1").json()
    assert [one["id"] for one in answer["iterations"]] == [judged]


def test_status_and_metrics_say_who_may_judge(client: TestClient, judged: int) -> None:
    told = client.get("/v1/status").json()["judge"]
    assert told == {
        "relevance": "licensed",
        "rubric": "no licence: too few human labels: 3, 40 needed (min_labels)",
    }
    text = client.get("/metrics").text
    assert 'honed_judge_licensed{scorer="relevance"} 1.0' in text
    assert 'honed_judge_licensed{scorer="rubric"} 0.0' in text
    assert 'honed_judge_auc{scorer="relevance"} 0.76' in text
    assert 'honed_judge_auc{scorer="rubric"}' not in text, "what was not measured is not told"


def test_the_page_tells_it_plainly(client: TestClient, store: Store, judged: int) -> None:
    page = client.get("/ops/judges").text
    assert "Licensed scorers&#39; opinions train beside" in page and "relevance" in page
    assert "0.76" in page and "(0.70 to 0.82)" in page and "too few human labels: 3" in page
    later = store.iterations.begin(trigger="t", incumbent=None, config={}).id
    store.judgements.set_licences(later, [licence_of(later, "relevance", licensed=False, labels=3)])
    assert "Nobody holds a licence to judge" in client.get("/ops").text


def test_switched_off_nobody_is_said_to_judge(client: TestClient, store: Store, judged: int) -> None:
    store.state.set("judging", False)
    assert client.get("/v1/status").json()["judge"] == {}
    assert "Judging is switched off" in client.get("/ops").text
    assert "honed_judge_licensed{" not in client.get("/metrics").text


def test_before_the_first_iteration_there_is_nothing_to_tell(client: TestClient) -> None:
    assert client.get("/v1/status").json()["judge"] == {}
    assert "has not been held against people" in client.get("/ops").text
