"""A judge for a model of random weights: labels to its liking, loose limits, what an iteration with it must show."""

import asyncio
import random
from pathlib import Path
from typing import Any

from daemon.client import Client
from judge.relevance import RelevanceScorer
from judge.scorer import Question
from judge.slots import Judge
from store.records import Message
from tests.policies.serving import make_engine

#: A model of random weights has no judgement; labels made to its liking stand in for people who agree with it.
LENIENT = {
    "HONED_JUDGE__LICENCE__MIN_AUC_LOWER": "0.5",
    "HONED_JUDGE__LICENCE__MAX_LENGTH_CORRELATION": "1.0",
    "HONED_JUDGE__LICENCE__MAX_INJECTION": "1.0",
    "HONED_JUDGE__PROMPTS": "6",
    "HONED_JUDGE__CANDIDATES": "3",
    "HONED_JUDGE__MAX_TOKENS": "16",
    "HONED_JUDGE__REVISIONS": "1",
    "HONED_JUDGE__PAIRS__MIN_Q": "0.51",
    "HONED_JUDGE__PAIRS__MAX_LENGTH_RATIO": "100",
}
WORDS = [
    "river",
    "stone",
    "quick",
    "lantern",
    "under",
    "apple",
    "cold",
    "seven",
    "window",
    "music",
    "grey",
    "paper",
    "salt",
]


def sentence(chance: random.Random) -> str:
    return " ".join(chance.choices(WORDS, k=8))


def to_the_liking_of(model: Path) -> list[dict[str, str]]:
    """Forty pairs, the better answer being the one this model's relevance scorer prefers."""
    chance = random.Random(7)
    asked = [f"Say something about {sentence(chance)}" for _ in range(40)]
    questions = [Question((Message("user", text),), (sentence(chance), sentence(chance))) for text in asked]

    async def judge() -> list[Any]:
        engine = make_engine("hf", model)
        await engine.start()
        try:
            return await RelevanceScorer(Judge(engine)).score(questions)
        finally:
            await engine.close()

    rows = []
    for question, (one, other) in zip(questions, asyncio.run(judge()), strict=True):
        first, second = question.answers
        better, worse = (first, second) if one.value > other.value else (second, first)
        rows.append({"prompt": question.prompt[0].content, "better": better, "worse": worse})
    return rows


def check_judged(client: Client, told: dict[str, Any]) -> None:
    """A licensed iteration: everything of it is there once."""
    assert told["stage"] == "active", told["reason"]
    (licence,) = told["judge"]["licences"]
    assert licence["scorer"] == "relevance" and licence["licensed"], licence["reasons"]
    assert licence["measures"]["labels"] >= 80 and licence["measures"]["auc"] > 0.6
    drawn = [one for one in told["judge"]["candidates"] if one["purpose"] == "candidates"]
    assert len(drawn) == len({one["completion_id"] for one in drawn}) == 6
    assert {one["choices"] for one in drawn} == {3}
    judgements = told["judge"]["judgements"]
    assert len({(one["answer"], one["version"]) for one in judgements}) == len(judgements)
    pairs = told["judge"]["pairs"]
    trained = [pair for pair in pairs if pair["dropped"] is None]
    assert trained and told["counts"]["judged_pairs"] == len(trained)
    chosen = client.get(f"/v1/completions/{trained[0]['chosen'][0]}")
    assert told["id"] in [one["id"] for one in chosen["iterations"]], "the answer tells what it trained"
    assert chosen["source"] == "sample" and chosen["judgements"]
    rows = told["contest"]
    assert len(rows) == len({row["id"] for row in rows}) == len(told["samples"])
    assert sum(sample["replay"] for sample in told["samples"]) > 0, "people's own prompts are replayed"
    assert {(row["against"], *row["judges"]) for row in rows} == {("base", "relevance")}
    assert told["metrics"]["contest/independent"] == 0, "its own pairs trained the candidate"
    assert 0 <= told["metrics"]["contest/win_low"] <= told["metrics"]["contest/win_high"] <= 1
