from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from policies.batches import Row
from policies.features import CutModel
from policies.learner import Learner, load_learner
from policies.spec import LoraSpec
from tests.policies.runs import make_spec

ROWS = [Row(tuple(range(5, 30)), 10), Row(tuple(range(40, 52)), 3), Row((9, 8, 7), 1)]


@pytest.fixture
def learner(tiny_model: Path) -> Learner:
    learner = load_learner(make_spec(tiny_model))
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in learner.weights():
            weight.normal_(std=0.2)
    return learner


def plain_states(causal: Any) -> torch.Tensor:
    """One whole forward per row: no padding, nothing kept."""
    return torch.cat(
        [
            causal.model(input_ids=torch.tensor([row.ids])).last_hidden_state[0, row.start - 1 : -1]
            for row in ROWS
        ]
    )


def test_the_cut_model_equals_the_whole_one(learner: Learner) -> None:
    assert learner.cut.cut
    for _ in ("computed", "kept"):
        found = learner.cut.answer_states(ROWS)
        torch.testing.assert_close(found, plain_states(learner.causal), atol=2e-5, rtol=0)


def test_gradients_through_the_cut_equal_those_of_the_whole(learner: Learner) -> None:
    gradients = []
    for states in (learner.cut.answer_states(ROWS), plain_states(learner.causal)):
        (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
        gradients.append([weight.grad.clone() for weight in learner.weights() if weight.grad is not None])
        learner.model.zero_grad()
    assert len(gradients[0]) == len(learner.weights())
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-3)


def test_without_room_states_are_computed_again(learner: Learner) -> None:
    roomless = CutModel(learner.causal, 2, cache_bytes=0)
    assert roomless.cut
    for _ in range(2):
        torch.testing.assert_close(roomless.answer_states(ROWS), learner.cut.answer_states(ROWS))


def test_room_for_some_rows_keeps_those(learner: Learner) -> None:
    little = CutModel(learner.causal, 2, cache_bytes=4 * 48 * 30)
    torch.testing.assert_close(little.answer_states(ROWS), learner.cut.answer_states(ROWS))
    torch.testing.assert_close(little.answer_states(ROWS[::-1]), learner.cut.answer_states(ROWS[::-1]))


def test_adapters_in_every_block_run_whole(tiny_model: Path) -> None:
    whole = load_learner(make_spec(tiny_model, lora=LoraSpec(rank=4, alpha=8, top_layers=None)))
    assert not whole.cut.cut
    torch.testing.assert_close(whole.cut.answer_states(ROWS), plain_states(whole.causal), atol=2e-5, rtol=0)


def test_blocks_of_several_kinds_are_not_cut(tiny_model: Path) -> None:
    causal = AutoModelForCausalLM.from_pretrained(tiny_model)
    causal.config.layer_types = ["sliding_attention", "full_attention"] * 2
    assert not CutModel(causal, 2).cut


def test_a_model_that_scales_its_embeddings_is_not_cut(tiny_model: Path) -> None:
    causal = AutoModelForCausalLM.from_pretrained(tiny_model)
    causal.model.register_forward_pre_hook(scale_embeddings, with_kwargs=True)
    assert not CutModel(causal, 2).cut


def scale_embeddings(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """As Gemma does: whatever enters as embeddings is scaled on the way in."""
    ids = kwargs.pop("input_ids", None)
    embeddings = module.embed_tokens(ids) if ids is not None else kwargs["inputs_embeds"]
    return args, {**kwargs, "inputs_embeds": embeddings * 7.0}
