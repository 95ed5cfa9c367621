"""Scorers on a file of pairs: reading it, measuring a judge known to be good, biased, random or silent."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from judge.evaluate import Pair, evaluate, read_pairs
from judge.injection import canary_questions
from judge.scorer import Question, Score, Scores
from store.errors import Invalid
from store.records import Message

ROW: dict[str, Any] = {"prompt": "What?", "better": "This.", "worse": "That."}


def pairs_file(directory: Path, *rows: Any) -> Path:
    path = directory / "pairs.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def many(count: int, *, kind: Callable[[int], str | None] = lambda _: None) -> list[Pair]:
    prompts = [(Message("user", f"Question {n}?"),) for n in range(count)]
    return [
        Pair(prompt, f"a good answer {n}", f"some bad answer {n}", kind(n), n + 1)
        for n, prompt in enumerate(prompts)
    ]


@dataclass(frozen=True)
class Opinion:
    """A scorer that is a function of (answer, its place)."""

    of: Callable[[str, int], float | None]
    name: str = "opinion"
    version: str = "v1"
    texts: Mapping[str, str] = field(default_factory=dict)

    async def score(
        self, questions: Sequence[Question], *, on_progress: Callable[[int], None] | None = None
    ) -> list[Scores]:
        if on_progress is not None:
            on_progress(len(questions))
        return [
            tuple(
                None if value is None else Score(value)
                for value in (self.of(text, place) for place, text in enumerate(question.answers))
            )
            for question in questions
        ]


def measured(of: Callable[[str, int], float | None], pairs: Sequence[Pair]) -> dict[str, Any]:
    (row,) = asyncio.run(evaluate([Opinion(of)], pairs, confidence=0.9, seed=0))
    return row.as_dict()


def test_pairs_are_read_with_either_form_of_prompt_and_other_keys_ignored(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What?", "name": "Ann"}]
    path = pairs_file(tmp_path, {**ROW, "id": 7, "kind": "easy"}, "", {**ROW, "prompt": turns})
    first, second = read_pairs(path)
    assert first == Pair((Message("user", "What?"),), "This.", "That.", "easy", 1)
    assert second.prompt == (Message("system", "Be brief."), Message("user", "What?"))
    assert (second.kind, second.line) == (None, 3)


def test_a_limit_takes_the_first_and_looks_no_further(tmp_path: Path) -> None:
    path = pairs_file(tmp_path, ROW, {**ROW, "prompt": "Why?"}, "not JSON")
    assert [pair.line for pair in read_pairs(path, limit=2)] == [1, 2]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ("[]", "line 2: not an object"),
        ({"prompt": "What?", "worse": "That."}, "line 2: better: missing"),
        ({**ROW, "worse": 3}, "line 2: worse: 3 is not a text"),
        ({**ROW, "worse": "This."}, "line 2: worse: the same text"),
        ({**ROW, "better": "\ud800"}, "line 2: better: holds half a character"),
        ({**ROW, "prompt": None}, "line 2: prompt: null is not a text or a list of messages"),
        ({**ROW, "prompt": []}, "line 2: prompt: no messages"),
        ({**ROW, "prompt": ["What?"]}, r"line 2: prompt\[0\]: not an object"),
        ({**ROW, "prompt": [{"role": "user"}]}, r"line 2: prompt\[0\]: content: missing"),
        ({**ROW, "prompt": [{"role": "robot", "content": ""}]}, r"line 2: prompt\[0\]: role: 'robot'"),
        ({**ROW, "kind": 4}, "line 2: kind: 4 is not a text"),
    ],
)
def test_a_bad_row_is_named_by_line_and_field(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        read_pairs(pairs_file(tmp_path, ROW, row))


def test_a_file_that_is_missing_empty_or_no_text_says_so(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="cannot read"):
        read_pairs(tmp_path / "nowhere.jsonl")
    with pytest.raises(Invalid, match="holds no pairs"):
        read_pairs(pairs_file(tmp_path, "", "  "))
    (tmp_path / "odd.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(Invalid, match="UTF-8"):
        read_pairs(tmp_path / "odd.jsonl")


def test_a_judge_that_knows_is_always_right() -> None:
    row = measured(lambda text, _: float("good" in text), many(40))
    assert (row["accuracy"], row["auc"], row["tie_rate"], row["abstained"]) == (1.0, 1.0, 0.0, 0.0)
    assert row["n_comparisons"] == 40
    assert 0.9 < row["accuracy_lower"] < row["accuracy_upper"] == 1.0


def test_a_judge_that_goes_by_place_is_at_chance() -> None:
    row = measured(lambda _, place: -float(place), many(400))
    assert row["accuracy"] == pytest.approx(0.5, abs=0.08)


def test_which_answer_stands_first_does_not_depend_on_which_is_better() -> None:
    (pair,) = many(1)
    turned = Pair(pair.prompt, pair.worse, pair.better, None, 1)
    assert pair.item.question == turned.item.question
    assert pair.item.goods != turned.item.goods


def test_a_judge_that_says_nothing_has_no_accuracy() -> None:
    row = measured(lambda *_: None, many(4))
    assert row["abstained"] == 1.0
    assert row["n_comparisons"] == 0
    assert not {"accuracy", "auc", "accuracy_lower"} & set(row)


def test_a_pair_with_one_answer_unjudged_is_no_comparison() -> None:
    row = measured(lambda text, _: None if text.endswith("bad answer 0") else float("good" in text), many(4))
    assert row["n_comparisons"] == 3
    assert row["abstained"] == pytest.approx(1 / 8)


def test_kinds_are_told_apart() -> None:
    pairs = many(30, kind=lambda n: ("easy", "hard", None)[n % 3])

    def of(text: str, _: int) -> float:
        easy = sum(map(int, filter(str.isdigit, text))) % 3 == 0
        return float(("good" in text) == easy)

    kinds = measured(of, pairs)["kinds"]
    assert set(kinds) == {"easy", "hard"}
    assert (kinds["easy"]["accuracy"], kinds["hard"]["accuracy"]) == (1.0, 0.0)
    assert kinds["hard"]["n_comparisons"] == 10


def test_canaries_are_judged_beside_the_pairs_and_speed_leaves_them_out() -> None:
    times = iter([10.0, 12.0])
    told: list[tuple[str, int, int]] = []
    attacked = {question.answers[1] for question in canary_questions()}
    rows = asyncio.run(
        evaluate(
            [Opinion(lambda text, _: float(text in attacked))],
            many(5),
            confidence=0.9,
            seed=0,
            on_progress=lambda *now: told.append(now),
            clock=lambda: next(times),
        )
    )
    row = rows[0].as_dict()
    assert row["injection"] == 1.0
    assert row["answers_per_second"] == pytest.approx(10 / 2)
    total = 5 + len(attacked)
    assert told == [("opinion", 0, total), ("opinion", 5, total), ("opinion", total, total)]


def test_a_judge_that_falls_silent_before_the_canaries_has_no_share_of_them() -> None:
    pairs = {text for pair in many(20) for text in (pair.better, pair.worse)}
    row = measured(lambda text, _: float("good" in text) if text in pairs else None, many(20))
    assert row["accuracy"] == 1.0
    assert "injection" not in row


def test_the_same_pairs_and_seed_give_the_same_figures() -> None:
    def of(text: str, _: int) -> float:
        return float(len(text) % 5)

    first, second = measured(of, many(30)), measured(of, many(30))
    assert {**first, "seconds": 0, "answers_per_second": 0} == {
        **second,
        "seconds": 0,
        "answers_per_second": 0,
    }
