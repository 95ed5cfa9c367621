from pathlib import Path

import pytest

from policies.batches import (
    BASELINE_PER_STEP,
    Encoder,
    Row,
    Thumb,
    baseline_rows,
    join,
    micro_batches,
    mismatched,
    row_batches,
    steps,
)
from policies.chat import load_tokenizer
from policies.spec import DpoExample, KtoExample
from tests.policies.runs import pair, prompt, thumb


@pytest.fixture
def encoder(tiny_model: Path) -> Encoder:
    return Encoder(load_tokenizer(tiny_model), 128)


def test_only_an_answer_that_ended_trains_the_end_token(encoder: Encoder) -> None:
    ended = encoder.row(prompt("a"), "yes", ended=True)
    cut = encoder.row(prompt("a"), "yes", ended=False)
    assert ended.answer == (*cut.answer, encoder.tokenizer.eos_token_id)
    assert ended.prompt == cut.prompt


def test_a_row_is_prompt_then_answer(encoder: Encoder) -> None:
    row = encoder.row(prompt("what?"), "this", ended=False)
    assert encoder.tokenizer.decode(row.answer) == "this"
    assert encoder.tokenizer.decode(row.prompt).endswith("assistant\n")


@pytest.mark.parametrize(
    ("head", "tail", "limit", "wanted"),
    [
        ([1, 2, 3], [7, 8], 5, Row((1, 2, 3, 7, 8), 3)),
        ([1, 2, 3], [7, 8], 4, Row((2, 3, 7, 8), 2)),
        ([1, 2, 3], [7, 8, 9], 3, Row((3, 7, 8), 1)),
        ([1], [], 3, Row((1,), 1)),
    ],
)
def test_a_long_prompt_loses_its_oldest_tokens(
    head: list[int], tail: list[int], limit: int, wanted: Row
) -> None:
    assert join(head, tail, limit) == wanted


def test_examples_without_weight_or_words_teach_nothing(encoder: Encoder) -> None:
    weightless = thumb(0).model_copy(update={"weight": 0.0})
    wordless = KtoExample(id="w", prompt=prompt("a"), completion="", ended=False, label=True)
    one_sided = DpoExample(id="o", prompt=prompt("a"), chosen="", chosen_ended=False, rejected="b")
    only_end = KtoExample(id="e", prompt=prompt("a"), completion="", ended=True, label=False)
    items = encoder.items([weightless, wordless, one_sided, only_end, thumb(1), pair(0)])
    assert [item.id for item in items] == ["e", "k1", "d0"]


def test_an_epoch_holds_every_item_once_in_even_steps(encoder: Encoder) -> None:
    items = encoder.items([thumb(i) for i in range(17)])
    epoch = steps(items, size=8, epoch=0, seed=3)
    assert sorted(len(step) for step in epoch) == [5, 6, 6]
    assert sorted(item.id for step in epoch for item in step) == sorted(item.id for item in items)


def test_steps_follow_from_seed_and_epoch_alone(encoder: Encoder) -> None:
    items = encoder.items([thumb(i) for i in range(9)])
    assert steps(items, size=4, epoch=1, seed=3) == steps(items, size=4, epoch=1, seed=3)
    assert steps(items, size=4, epoch=1, seed=3) != steps(items, size=4, epoch=2, seed=3)
    assert steps(items, size=4, epoch=1, seed=3) != steps(items, size=4, epoch=1, seed=4)


def test_mismatched_pairs_join_prompts_with_answers_of_other_examples(encoder: Encoder) -> None:
    items = encoder.items([thumb(i) for i in range(6)])
    own = {item.row.prompt: item.row.answer for item in items if isinstance(item, Thumb)}
    pairs = mismatched(items, seed=0, max_length=128)
    assert len(pairs) == 6
    assert all(row.answer != own[row.prompt] and row.answer in own.values() for row in pairs)
    assert pairs == mismatched(items, seed=0, max_length=128)


def test_one_thumb_alone_has_no_mismatched_pair(encoder: Encoder) -> None:
    assert mismatched(encoder.items([thumb(0), pair(0)]), seed=0, max_length=128) == []


def test_steps_take_the_baseline_pairs_round_and_round() -> None:
    pairs = [Row((i, i), 1) for i in range(6)]
    assert baseline_rows(pairs, 0) == pairs[:BASELINE_PER_STEP]
    assert baseline_rows(pairs, 1) == [pairs[4], pairs[5], pairs[0], pairs[1]]
    assert baseline_rows(pairs[:2], 1) == pairs[:2]
    assert baseline_rows([], 5) == []


def test_pieces_stay_within_the_budget_and_keep_pairs_together(encoder: Encoder) -> None:
    items = encoder.items([*map(thumb, range(5)), *map(pair, range(3))])
    longest = max(len(row.ids) for item in items for row in item.rows)
    pieces = micro_batches(items, 3 * longest)
    assert sorted(item.id for piece in pieces for item in piece) == sorted(item.id for item in items)
    for piece in pieces:
        rows = [row for item in piece for row in item.rows]
        assert len(rows) * max(len(row.ids) for row in rows) <= 3 * longest
    assert len(pieces) > 1


def test_a_row_longer_than_the_budget_goes_alone() -> None:
    rows = [Row((1,) * 9, 1), Row((1,) * 2, 1), Row((1,) * 2, 1)]
    assert row_batches(rows, 4) == [[0], [1, 2]]
