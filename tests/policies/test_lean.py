"""The lean forward says what transformers' own does, to 1e-5 on tiny models, in every use the engine has."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.cache_utils import DynamicCache

from policies.decoder import decoder
from policies.forward import Forward, Whole
from policies.kv import RowCache
from policies.lean import Lean, fits
from policies.packing import Table, packed
from policies.prefix_tree import grow_tree, parent_slots
from policies.prefixes import PathCache
from policies.scoring import visibility
from tests.policies.serving import make_adapter

TOLERANCE = 1e-5
SIZES: dict[str, Any] = {
    "vocab_size": 260,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

MODELS: dict[str, dict[str, Any]] = {
    "shared keys": {},
    "a head each": {"num_key_value_heads": 6},
    "one for all": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "wide heads": {"head_dim": 16},
    "stretched positions": {"rope_parameters": SCALED},
    "Qwen2": {"qwen": True},
}


def a_llama(**changes: Any) -> Any:
    torch.manual_seed(1)
    if changes.pop("qwen", False):
        model: Any = Qwen2ForCausalLM(Qwen2Config(**{**SIZES, **changes}))
    else:
        model = LlamaForCausalLM(LlamaConfig(**{**SIZES, **changes}))
    model.eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        # Fresh biases are nought and fresh norms one: neither would be missed.
        if name.endswith(".bias") or "norm" in name:
            weight.normal_(1.0, 0.2)
    return model


@pytest.fixture(params=MODELS, scope="module")
def model(request: pytest.FixtureRequest) -> Any:
    return a_llama(**MODELS[request.param].copy())


def tokens(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(3, 260, (rows, length), generator=torch.Generator().manual_seed(seed))


def alike(model: Any, use: Callable[[Forward], Tensor]) -> None:
    with torch.inference_mode():
        found, wanted = use(Lean(model, Table())), use(Whole(model))
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) < TOLERANCE


def test_a_prompt_in_pieces(model: Any) -> None:
    def use(forward: Forward) -> Tensor:
        cache = DynamicCache()
        first = forward.states(tokens(1, 70), cache=cache)
        last = forward.next_logits(tokens(1, 9, seed=1), cache=cache)
        return torch.cat((forward.logits(first[0]), last, forward.next_logits(tokens(1, 1), cache=cache)))

    alike(model, use)


def test_rows_of_several_lengths_step_together(model: Any) -> None:
    def use(forward: Forward) -> Tensor:
        cache, said = RowCache(), []
        for row, length in enumerate((5, 30, 1)):
            prompt = DynamicCache()
            forward.states(tokens(1, length, seed=row), cache=prompt)
            cache.join(prompt)
        for step in range(4):
            positions, mask = cache.begin_step()
            said.append(
                forward.next_logits(tokens(3, 1, seed=step), cache=cache, positions=positions, mask=mask)
            )
        return torch.cat(said)

    alike(model, use)


def test_a_tree_of_answers(model: Any) -> None:
    rubric = tokens(1, 20)[0].tolist()
    rows = [(rubric, tokens(1, 6, seed=seed)[0].tolist()) for seed in range(4)]
    tree = grow_tree(rows)

    def use(forward: Forward) -> Tensor:
        parents, _ = parent_slots(tree.depths)
        return forward.states(
            torch.tensor([tree.tokens]),
            cache=PathCache(),
            positions=torch.tensor([tree.depths]),
            mask=visibility(parents, tree.depths[0])[None, None],
        )

    alike(model, use)


def test_an_adapter_shares_what_it_does_not_change(tiny_model: Path, tmp_path: Path) -> None:
    from policies.merging import merged_copy

    plain = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval().requires_grad_(False)
    adapter = make_adapter(tiny_model, tmp_path / "it0001-00000001", version="it0001-00000001")
    merged = merged_copy(plain, adapter.path)
    table = Table()
    Lean(plain, table)
    with_adapter = table.fork()
    adapted = Lean(merged, with_adapter)
    own = set(with_adapter.layers) - set(table.layers)
    assert own and len(own) < len(table.layers)
    with torch.inference_mode():
        ids = tokens(1, 12)
        found = adapted.next_logits(ids, cache=DynamicCache())
        assert torch.allclose(found, Whole(merged).next_logits(ids, cache=DynamicCache()), atol=TOLERANCE)
        assert not torch.allclose(found, Whole(plain).next_logits(ids, cache=DynamicCache()), atol=1e-3)


def test_layers_that_read_the_same_states_are_one_product() -> None:
    torch.manual_seed(0)
    first, second = torch.nn.Linear(8, 4), torch.nn.Linear(8, 6)
    table = Table()
    with torch.inference_mode():
        states = torch.randn(3, 8)
        found = packed([first, second], table)(states)
        assert torch.allclose(found, torch.cat((first(states), second(states)), dim=-1), atol=1e-6)
    assert packed([first, second], table) is packed([first, second], table)
    assert packed([first], table) is not packed([first, second], table)


def test_other_architectures_keep_their_own_forward() -> None:
    torch.manual_seed(0)
    other = Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8)).eval().requires_grad_(False)
    assert not fits(other) and isinstance(decoder(other, Table()), Whole)
    assert not fits(a_llama(hidden_act="gelu"))
    windows = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    assert not fits(a_llama(qwen=True, **windows))
    with torch.inference_mode():
        ids = tokens(1, 7)
        found = decoder(other, Table()).next_logits(ids, cache=DynamicCache())
        wanted = other(input_ids=ids).logits[:, -1]
    assert torch.allclose(found, wanted, atol=TOLERANCE)


def test_a_llama_is_decoded_lean_where_packing_is_worth_it() -> None:
    model = a_llama()
    assert isinstance(decoder(model, Table()), Lean)
    assert isinstance(decoder(model, None), Whole)
