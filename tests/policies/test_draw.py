"""Drawing the next token: penalties, nucleus, seeds, held against arithmetic."""

import math
from dataclasses import replace

import pytest
import torch

from policies.draw import CANDIDATES, draw, generator_for, nucleus, penalised
from store.records import Sampling

WARM = Sampling(temperature=1.0, top_p=1.0, seed=5)


def shares(sampling: Sampling, logits: torch.Tensor, count: int = 4000) -> torch.Tensor:
    """How often each token is drawn."""
    generator = generator_for(sampling)
    drawn = [draw(logits, [], sampling, generator).token for _ in range(count)]
    return torch.bincount(torch.tensor(drawn), minlength=len(logits)) / count


def test_temperature_zero_takes_the_likeliest() -> None:
    cold = replace(WARM, temperature=0.0)
    assert draw(torch.tensor([0.1, 2.0, 1.9]), [], cold, generator_for(cold)).token == 1


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    expected = torch.tensor([0.5, 0.3, 0.15, 0.05])
    assert shares(WARM, expected.log()) == pytest.approx(expected, abs=0.03)


def test_temperature_flattens() -> None:
    probabilities = torch.tensor([0.8, 0.2])
    expected = (probabilities.log() / 2).softmax(0)
    assert shares(replace(WARM, temperature=2.0), probabilities.log()) == pytest.approx(expected, abs=0.03)


def test_top_p_keeps_the_smallest_set_that_holds_it() -> None:
    probabilities = torch.tensor([0.15, 0.5, 0.05, 0.3])
    found = shares(replace(WARM, top_p=0.75), probabilities.log())
    assert found == pytest.approx(torch.tensor([0.0, 0.625, 0.0, 0.375]), abs=0.03)


@pytest.mark.parametrize(("top_p", "size"), [(0.4, 1), (0.5, 1), (0.501, 2), (0.75, 2), (0.76, 3)])
def test_the_nucleus_ends_with_the_token_that_reaches_top_p(top_p: float, size: int) -> None:
    # Exact in binary, so that "just reached" means equal.
    ids, _ = nucleus(torch.tensor([0.25, 0.5, 0.125, 0.125]).log(), top_p)
    assert len(ids) == size
    assert ids[0] == 1


def test_a_flat_distribution_needs_more_than_the_first_candidates() -> None:
    ids, probabilities = nucleus(torch.zeros(CANDIDATES * 4), 0.5)
    assert len(ids) == pytest.approx(CANDIDATES * 2, abs=2)
    assert float(probabilities.sum()) == pytest.approx(0.5, abs=0.01)


def test_a_seed_repeats_and_another_differs() -> None:
    logits = torch.zeros(1000)

    def first(seed: int) -> list[int]:
        generator = generator_for(replace(WARM, seed=seed))
        return [draw(logits, [], WARM, generator).token for _ in range(5)]

    assert first(1) == first(1)
    assert first(1) != first(2)
    assert first(-1) == first(-1)


def test_no_seed_gives_a_new_answer_each_time() -> None:
    logits, unseeded = torch.zeros(100_000), replace(WARM, seed=None)
    tokens = {draw(logits, [], unseeded, generator_for(unseeded)).token for _ in range(4)}
    assert len(tokens) > 1


def test_penalties_follow_openai_s_arithmetic() -> None:
    sampling = replace(WARM, frequency_penalty=0.5, presence_penalty=0.25)
    logits = torch.tensor([1.0, 1.0, 1.0])
    found = penalised(logits, [0, 0, 2], sampling)
    assert found.tolist() == [1.0 - 2 * 0.5 - 0.25, 1.0, 1.0 - 0.5 - 0.25]
    assert logits.tolist() == [1.0, 1.0, 1.0]


def test_logprobs_ignore_temperature_penalties_and_top_p() -> None:
    sampling = Sampling(
        temperature=0.3, top_p=0.5, presence_penalty=2.0, seed=1, logprobs=True, top_logprobs=2
    )
    drawn = draw(torch.tensor([0.7, 0.2, 0.1]).log(), [0], sampling, generator_for(sampling))
    assert drawn.top[0] == (0, pytest.approx(math.log(0.7)))
    assert drawn.top[1] == (1, pytest.approx(math.log(0.2)))
    assert drawn.logprob == pytest.approx(math.log([0.7, 0.2, 0.1][drawn.token]))


def test_logprobs_are_left_out_when_not_asked_for() -> None:
    assert draw(torch.zeros(3), [], WARM, generator_for(WARM)).logprob is None
