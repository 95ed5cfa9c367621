"""Answers that share a sequence: what stands where, who sees whom, and when it is worth it."""

import pytest
import torch

from policies.batches import Row
from policies.layout import bundles, inputs, lay_out, worth_packing

CPU = torch.device("cpu")
PROMPT = (5, 6, 7)
ONE, TWO = Row((*PROMPT, 20, 21, 22), 3), Row((*PROMPT, 30, 31), 3)
OTHER = Row((8, 9, 40), 2)


def test_the_prompt_is_there_once_and_last_tokens_are_left_out() -> None:
    layout = lay_out([[ONE, TWO], [OTHER]])
    assert layout.tokens == [[5, 6, 7, 20, 21, 30], [8, 9]]
    assert layout.positions == [[0, 1, 2, 3, 4, 3], [0, 1]]
    assert layout.paths == [(0, [0, 1, 2, 3, 4]), (0, [0, 1, 2, 5]), (1, [0, 1])]
    assert layout.packed
    assert layout.ids(CPU).tolist() == [[5, 6, 7, 20, 21, 30], [8, 9, 0, 0, 0, 0]]


def test_an_answer_sees_the_prompt_and_itself() -> None:
    sight = lay_out([[ONE, TWO], [OTHER]]).sight(CPU)[:, 0].int()
    assert sight[0].tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 0, 0, 1],
    ]
    assert bool(sight.any(-1).all())


def test_a_sequence_for_each_row_needs_no_mask() -> None:
    assert not lay_out([[ONE], [OTHER]]).packed


def test_a_row_without_an_answer_is_its_prompt() -> None:
    silent = Row(PROMPT, 3)
    assert inputs(silent) == PROMPT
    assert lay_out([[silent, ONE]]).paths == [(0, [0, 1, 2]), (0, [0, 1, 2, 3, 4])]


@pytest.mark.parametrize(
    ("prompt", "answers", "shared", "width", "worth"),
    [
        (40, (64, 64), 26, 576, True),  # a question and two short answers of the embedded model
        (40, (64, 64), 26, 64, False),  # a narrow model: attention is all it does
        (300, (100, 100), 26, 576, True),  # a long conversation
        (56, (500, 500), 26, 576, False),  # a short question with long answers
        (56, (500, 500), 26, 16384, True),
        (40, (64, 64), 40, 576, False),  # everybody's prompt
        (40, (64,) * 8, 26, 576, False),
        (400, (64,) * 8, 26, 576, True),
    ],
)
def test_sharing_is_a_matter_of_cost(
    prompt: int, answers: tuple[int, ...], shared: int, width: int, worth: bool
) -> None:
    rows = [Row((*range(prompt), *[number] * (length + 1)), prompt) for number, length in enumerate(answers)]
    assert worth_packing(rows, shared=shared, width=width) is worth


def test_only_answers_to_one_prompt_come_together() -> None:
    assert bundles([ONE, OTHER, TWO], shared=0, width=576) == ([[0, 2]], [1])
    assert bundles([ONE, OTHER, TWO], shared=3, width=576) == ([], [0, 1, 2])
