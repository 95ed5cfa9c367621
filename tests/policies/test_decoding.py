"""Answers in one batch: who begins with the same prompt computes it once, and says what it would have said alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.cache_utils import Cache

from policies.chat import load_tokenizer
from policies.decoding import WORTH_COPYING, Answer, Batch
from policies.detokenize import Detokenizer
from policies.engine import Delta, Priority
from policies.forward import Whole
from policies.pace import Pace
from store.records import Sampling

PROMPT = list(range(5, 65))


class Counting(Whole):
    """Counts the prompt tokens that went through the model."""

    computed = 0

    def states(self, ids: Tensor, *, cache: Cache, **more: Any) -> Tensor:
        self.computed += ids.shape[1]
        return super().states(ids, cache=cache, **more)

    def next_logits(self, ids: Tensor, *, cache: Cache, **more: Any) -> Tensor:
        self.computed += ids.shape[1]
        return super().next_logits(ids, cache=cache, **more)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


def decoded(model: Any, directory: Path, prompts: list[list[int]]) -> tuple[list[list[int]], list[int]]:
    """Six greedy tokens for each prompt, all in one batch, and the prompt tokens each was computed with."""
    tokenizer = load_tokenizer(directory)
    forward = Counting(model)
    batch = Batch(forward, tokenizer, frozenset(), Pace(lambda way: torch.set_num_threads(way.threads)))
    answers, computed = [], []

    def emit(item: Delta | Exception) -> None:
        assert isinstance(item, Delta)

    with torch.inference_mode():
        for prompt in prompts:
            greedy = Sampling(max_tokens=6, temperature=0.0)
            answer = Answer(prompt, greedy, None, Priority.CHAT, emit, Detokenizer(tokenizer))
            before = forward.computed
            while answer not in batch.answers:
                batch.prefill(answer)
            answers.append(answer)
            computed.append(forward.computed - before)
        while batch.answers:
            batch.step()
    return [answer.drawn for answer in answers], computed


def test_the_same_prompt_is_computed_once(model: Any, tiny_model: Path) -> None:
    alone, _ = decoded(model, tiny_model, [PROMPT])
    said, computed = decoded(model, tiny_model, [PROMPT] * 4)
    assert computed == [len(PROMPT), 1, 1, 1]
    assert said == alone * 4


@pytest.mark.parametrize(
    ("other", "computed"),
    [
        (PROMPT[:40] + [200] * 20, 20),
        (PROMPT[:40], 1),
        ([*PROMPT, 70, 71], 2),
        (PROMPT[: WORTH_COPYING - 1] + [200] * 20, WORTH_COPYING + 19),
        ([200, *PROMPT], len(PROMPT) + 1),
    ],
)
def test_what_prompts_have_in_common_is_copied_and_nothing_else(
    other: list[int], computed: int, model: Any, tiny_model: Path
) -> None:
    (alone,), _ = decoded(model, tiny_model, [other])
    (_, said), counted = decoded(model, tiny_model, [PROMPT, other])
    assert counted == [len(PROMPT), computed]
    assert said == alone
