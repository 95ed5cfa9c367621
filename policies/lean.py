"""A Llama's forward with nothing in it but its arithmetic, for a CPU, where calling costs as much as computing.

One token of the embedded model is 27 ms of products on two cores, and took about 25 more in the calls between them,
5,300 of Python alone. Here the projections that read the same states are one product (q, k and v; gate and up), query
heads that share keys are laid out as further queries of one head, so that no key is copied, and nothing is done that
the model does not ask for. The same float32 arithmetic in another order: tests hold it to transformers' forward.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache

from policies.packing import PackedLinear, Table, packed

#: Architectures whose forward is the one below, by `config.model_type`.
LLAMAS = frozenset({"llama", "qwen2"})


def fits(model: Any) -> bool:
    """Whether a transformers model is one whose forward this is."""
    config = model.config
    everywhere = set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    return config.model_type in LLAMAS and config.hidden_act == "silu" and everywhere


@dataclass(frozen=True, slots=True)
class Heads:
    """How attention is divided: `groups` query heads share the keys of each of `shared` heads, `width` wide."""

    shared: int
    groups: int
    width: int

    @property
    def queries(self) -> int:
        return self.shared * self.groups


@dataclass(frozen=True, slots=True)
class Norm:
    """Root mean square layer norm (arXiv:1910.07467)."""

    weight: Tensor
    epsilon: float

    def __call__(self, states: Tensor) -> Tensor:
        return functional.rms_norm(states, self.weight.shape, self.weight, self.epsilon)


@dataclass(frozen=True, slots=True)
class Turn:
    """Rotary positions (arXiv:2104.09864) of a forward's tokens: [rows, tokens, 1, width] each."""

    cosine: Tensor
    sine: Tensor
    """Negated in its first half, so that a half turn of the vector is all that is left to do."""

    @classmethod
    def of(cls, cosine: Tensor, sine: Tensor) -> "Turn":
        half = sine.shape[-1] // 2
        signed = torch.cat((-sine[..., :half], sine[..., half:]), dim=-1)
        return cls(cosine[:, :, None], signed[:, :, None])

    def __call__(self, heads: Tensor) -> Tensor:
        """heads: [rows, tokens, heads, width]."""
        swapped = heads.roll(heads.shape[-1] // 2, dims=-1)
        return torch.addcmul(heads * self.cosine, swapped, self.sine)


@dataclass(frozen=True, slots=True)
class Block:
    """One transformer block."""

    heads: Heads
    before_attention: Norm
    queries_keys_values: PackedLinear
    mixed: PackedLinear
    before_mlp: Norm
    gate_and_up: PackedLinear
    down: PackedLinear

    def __call__(self, states: Tensor, turn: Turn, mask: Tensor | None, cache: Cache, layer: int) -> Tensor:
        attended = self._attend(self.before_attention(states), turn, mask, cache, layer)
        states = states + self.mixed(attended)
        gate, up = self.gate_and_up(self.before_mlp(states)).chunk(2, dim=-1)
        return states + self.down(functional.silu(gate) * up)

    def _attend(self, states: Tensor, turn: Turn, mask: Tensor | None, cache: Cache, layer: int) -> Tensor:
        heads, (rows, tokens, _) = self.heads, states.shape
        projected = self.queries_keys_values(states).view(rows, tokens, -1, heads.width)
        first_value = heads.queries + heads.shared
        turned = turn(projected[:, :, :first_value])
        keys, values = cache.update(
            turned[:, :, heads.queries :].transpose(1, 2),
            projected[:, :, first_value:].transpose(1, 2),
            layer,
        )
        shape = (rows, tokens, heads.shared, heads.groups, heads.width)
        queries = turned[:, :, : heads.queries].view(shape).permute(0, 2, 3, 1, 4)
        queries = queries.reshape(rows, heads.shared, heads.groups * tokens, heads.width)
        out = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        out = out.view(rows, heads.shared, heads.groups, tokens, heads.width).permute(0, 3, 1, 2, 4)
        return out.reshape(rows, tokens, heads.queries * heads.width)


class Lean:
    """Implements `policies.forward.Forward` for models that `fits` accepts, float32 on a CPU."""

    device = torch.device("cpu")

    def __init__(self, model: Any, known: Table) -> None:
        """
        Args:
            model: plain; only read. Of its tensors the embedding and the norms are shared.
            known: as in `policies.packing.packed`.
        """
        inner, config = model.model, model.config
        self._embedding: Tensor = inner.embed_tokens.weight
        self._rotary = inner.rotary_emb
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        groups = config.num_attention_heads // config.num_key_value_heads
        self._heads = Heads(config.num_key_value_heads, groups, width)
        self._blocks = [block_of(layer, self._heads, known) for layer in inner.layers]
        self._norm = norm_of(inner.norm)
        self._head = packed([model.get_output_embeddings()], known)

    def states(
        self, ids: Tensor, *, cache: Cache, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        held, tokens = cache.get_seq_length(), ids.shape[1]
        if positions is None:
            positions = torch.arange(held, held + tokens)[None]
        if mask is None and tokens > 1:
            mask = torch.ones(tokens, held + tokens, dtype=torch.bool).tril(held)[None, None]
        states = functional.embedding(ids, self._embedding)
        turn = Turn.of(*self._rotary(states, positions))
        added = None if mask is None else self._added(mask)
        for layer, block in enumerate(self._blocks):
            states = block(states, turn, added, cache, layer)
        return self._norm(states)

    def next_logits(
        self, ids: Tensor, *, cache: Cache, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        return self.logits(self.states(ids, cache=cache, positions=positions, mask=mask)[:, -1])

    def logits(self, states: Tensor) -> Tensor:
        return self._head(states)

    def _added(self, mask: Tensor) -> Tensor:
        """What is added to attention's scores, once for every group of queries."""
        added = torch.zeros(mask.shape).masked_fill_(~mask, -torch.inf)
        return added.repeat(1, 1, self._heads.groups, 1)


def block_of(layer: Any, heads: Heads, known: Table) -> Block:
    attention, mlp = layer.self_attn, layer.mlp
    return Block(
        heads=heads,
        before_attention=norm_of(layer.input_layernorm),
        queries_keys_values=packed([attention.q_proj, attention.k_proj, attention.v_proj], known),
        mixed=packed([attention.o_proj], known),
        before_mlp=norm_of(layer.post_attention_layernorm),
        gate_and_up=packed([mlp.gate_proj, mlp.up_proj], known),
        down=packed([mlp.down_proj], known),
    )


def norm_of(module: Any) -> Norm:
    return Norm(module.weight, module.variance_epsilon)
