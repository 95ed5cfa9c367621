from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, MistralConfig

from policies.batches import Row
from policies.features import SHARED, CutModel, shared_prefix
from policies.learner import Learner, load_learner
from policies.spec import LoraSpec
from tests.policies.runs import make_spec

APART = [Row(tuple(range(5, 30)), 10), Row(tuple(range(40, 52)), 3), Row((9, 8, 7), 1)]
ALIKE = [Row((*range(60, 80), *range(5 + i, 12 + 2 * i)), 21 + i) for i in range(4)]
#: Two prompts with three and two answers, one with one; the last of the five are not beside each other.
SHARING = [
    Row((*range(60, 80), *prompt, *answer), 20 + len(prompt))
    for prompt, answer in (
        (tuple(range(30, 58)), (90, 91, 92)),
        (tuple(range(10, 40)), (70, 71)),
        (tuple(range(30, 58)), (93, 90)),
        ((3,), (4, 5, 6)),
        (tuple(range(10, 40)), (72,)),
        (tuple(range(30, 58)), (94, 95, 96, 97)),
    )
]


@pytest.fixture
def learner(tiny_model: Path) -> Learner:
    learner = load_learner(make_spec(tiny_model))
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in learner.weights():
            weight.normal_(std=0.2)
    return learner


@pytest.fixture(params=[APART, ALIKE, SHARING, SHARING[:3:2]], ids=["apart", "alike", "sharing", "a pair"])
def rows(request: pytest.FixtureRequest) -> list[Row]:
    """Rows that share nothing, rows that begin alike, and answers to the same prompts."""
    found: list[Row] = request.param
    return found


def plain_states(causal: Any, rows: list[Row]) -> torch.Tensor:
    """One whole forward per row: no padding, nothing kept."""
    return torch.cat(
        [
            causal.model(input_ids=torch.tensor([row.ids])).last_hidden_state[0, row.start - 1 : -1]
            for row in rows
        ]
    )


def test_the_cut_model_equals_the_whole_one(learner: Learner, rows: list[Row]) -> None:
    assert learner.cut.cut
    for _ in ("computed", "kept"):
        found = learner.cut.answer_states(rows)
        torch.testing.assert_close(found, plain_states(learner.causal, rows), atol=2e-5, rtol=0)


def test_gradients_through_the_cut_equal_those_of_the_whole(learner: Learner, rows: list[Row]) -> None:
    gradients = []
    for states in (learner.cut.answer_states(rows), plain_states(learner.causal, rows)):
        (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
        gradients.append([weight.grad.clone() for weight in learner.weights() if weight.grad is not None])
        learner.model.zero_grad()
    assert len(gradients[0]) == len(learner.weights())
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-3)


def test_without_room_states_are_computed_again(learner: Learner, rows: list[Row]) -> None:
    roomless = CutModel(learner.causal, 2, cache_bytes=0)
    assert roomless.cut
    for _ in range(2):
        torch.testing.assert_close(roomless.answer_states(rows), learner.cut.answer_states(rows))


def test_room_for_some_rows_keeps_those(learner: Learner, rows: list[Row]) -> None:
    little = CutModel(learner.causal, 2, cache_bytes=4 * 48 * 30)
    torch.testing.assert_close(little.answer_states(rows), learner.cut.answer_states(rows))
    torch.testing.assert_close(little.answer_states(rows[::-1]), learner.cut.answer_states(rows[::-1]))


def test_a_prompt_with_several_answers_is_computed_once(learner: Learner) -> None:
    seen: list[int] = []
    learner.causal.model.layers[-1].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0].shape[:2].numel()), with_kwargs=True
    )
    learner.cut.answer_states(SHARING)
    # What all begin with; two sequences of 28 and 6, and of 30 and 1; then the row that shares nothing more.
    assert seen == [20, 2 * 34, 20, 3]


def test_some_answers_of_a_prompt_may_be_known(learner: Learner) -> None:
    learner.cut.answer_states(SHARING[:1])
    learner.cut.answer_states(SHARING[4:5])
    found = learner.cut.answer_states(SHARING)
    torch.testing.assert_close(found, plain_states(learner.causal, SHARING), atol=2e-5, rtol=0)


def test_adapters_in_every_block_run_whole(tiny_model: Path, rows: list[Row]) -> None:
    whole = load_learner(make_spec(tiny_model, lora=LoraSpec(rank=4, alpha=8, top_layers=None)))
    assert not whole.cut.cut
    torch.testing.assert_close(
        whole.cut.answer_states(rows), plain_states(whole.causal, rows), atol=2e-5, rtol=0
    )
    assert shares(whole.cut)
    whole.cut.whole()
    assert not shares(whole.cut)


def test_blocks_of_several_kinds_are_not_cut(tiny_model: Path) -> None:
    causal = AutoModelForCausalLM.from_pretrained(tiny_model)
    causal.config.layer_types = ["sliding_attention", "full_attention"] * 2
    assert not CutModel(causal, 2).cut
    assert not shares(CutModel(causal, 2))


def test_attention_that_adds_its_mask_is_cut_and_shares_no_sequence(tiny_model: Path) -> None:
    causal = AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation="eager")
    cut = CutModel(causal, 2)
    assert cut.cut
    torch.testing.assert_close(cut.answer_states(SHARING), plain_states(causal, SHARING), atol=2e-5, rtol=0)
    assert not shares(cut)


def test_a_model_with_a_window_is_cut_and_shares_no_sequence(tiny_model: Path) -> None:
    shape = AutoConfig.from_pretrained(tiny_model).to_dict()
    config = MistralConfig(**{**shape, "model_type": "mistral", "sliding_window": 12})
    torch.manual_seed(0)
    causal = AutoModelForCausalLM.from_config(config).eval()
    cut = CutModel(causal, 2)
    assert cut.cut and not cut.packs
    with torch.no_grad():
        found, wanted = cut.answer_states(SHARING), plain_states(causal, SHARING)
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)
    assert not shares(cut)


def test_what_is_computed_again_is_not_kept_below_either(learner: Learner) -> None:
    wanted = learner.cut.answer_states(SHARING).detach()
    assert learner.cut._kept
    assert learner.cut.recompute() and not learner.cut.recompute()
    torch.testing.assert_close(learner.cut.answer_states(SHARING), wanted, atol=2e-5, rtol=0)
    assert not learner.cut._kept


def shares(cut: CutModel) -> bool:
    """Whether answers to one prompt share a sequence."""
    sequences: list[int] = []
    hook = cut._inner.layers[-1].register_forward_pre_hook(
        lambda _, args, kwargs: sequences.append(args[0].shape[0]), with_kwargs=True
    )
    cut.answer_states(SHARING)
    hook.remove()
    return max(sequences) < len(SHARING)


def test_a_model_that_scales_its_embeddings_is_not_cut(tiny_model: Path) -> None:
    causal = AutoModelForCausalLM.from_pretrained(tiny_model)
    causal.model.register_forward_pre_hook(scale_embeddings, with_kwargs=True)
    assert not CutModel(causal, 2).cut


def scale_embeddings(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """As Gemma does: whatever enters as embeddings is scaled on the way in."""
    ids = kwargs.pop("input_ids", None)
    embeddings = module.embed_tokens(ids) if ids is not None else kwargs["inputs_embeds"]
    return args, {**kwargs, "inputs_embeds": embeddings * 7.0}


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (ALIKE, 20),
        (APART, 0),
        (ALIKE[:1], 0),
        ([Row(tuple(range(30)), 10), Row(tuple(range(30)), 25)], 9),
        ([Row(tuple(range(SHARED + 2)), SHARED + 1)] * 2, SHARED),
        ([Row(tuple(range(SHARED + 2)), SHARED)] * 2, 0),
    ],
)
def test_a_shared_beginning_ends_before_the_first_answer(rows: list[Row], wanted: int) -> None:
    assert shared_prefix(rows) == wanted
