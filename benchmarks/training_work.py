"""What training has to compute, by formula, and how fast this machine multiplies.

Counted are the multiplications and additions of matrix products (2 a multiply-add) on the tokens there are: no
padding, no recomputation, nothing for an answer's last token, for the tokens that all rows of a run begin with
(computed once a batch), nor for a prompt that another answer has brought along (`policies.layout`). A linear layer
with weight (n, m) and a LoRA of rank r costs a token

    forward                 2nm + 2r(n + m)
    backward to its input   2nm + 2r(n + m)      frozen weight: no gradient of its own
    backward to A and B           2r(n + m)

An attention layer of width d over a row of T tokens costs 4d T(T + 1)/2 forward (half the square: it is causal) and
twice that backward; the output head over V entries 2Vd a scored token forward and as much backward. Nothing needs the
gradient to what enters the lowest adapted block, so its queries, keys and values have none to their input.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from policies.batches import BASELINE_PER_STEP, Anchor, Row, Thumb
from policies.layout import bundles, inputs
from policies.objective import Lesson
from policies.products import Product
from policies.spec import Spec


def linear_shapes(config: Any) -> list[tuple[int, int]]:
    """(n, m) of a block's linear layers, of the Llama family's layout."""
    width, inner = config.hidden_size, config.intermediate_size
    dim = getattr(config, "head_dim", None) or width // config.num_attention_heads
    queries, keys = config.num_attention_heads * dim, config.num_key_value_heads * dim
    return [
        (queries, width),
        (keys, width),
        (keys, width),
        (width, queries),
        (inner, width),
        (inner, width),
        (width, inner),
    ]


def common(rows: Sequence[Row]) -> int:
    """Tokens that all prompts begin with: the template's system turn."""
    first, last = min(row.prompt for row in rows), max(row.prompt for row in rows)
    at = next(
        (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last))
    )
    return min(at, min(row.start for row in rows) - 1)


def beginnings(rows: Sequence[Row], shared: int, config: Any) -> list[int]:
    """Of each row the tokens that are computed for another: the common ones, or the prompt of an answer before it."""
    found = [shared] * len(rows)
    together, _ = bundles(rows, shared=shared, width=config.hidden_size)
    for group in together:
        for index in group[1:]:
            found[index] = rows[index].start
    return found


def forward_flop(row: Row, config: Any, *, blocks: int, rank: int, shared: int) -> float:
    """One forward of a row through `blocks` blocks and the head."""
    total = len(inputs(row))
    own = total - shared
    linear = sum(2 * n * m + 2 * rank * (n + m) for n, m in linear_shapes(config))
    attention = 2 * config.hidden_size * (total * (total + 1) - shared * (shared + 1))
    head = 2 * config.vocab_size * config.hidden_size * len(row.answer)
    return blocks * (own * linear + attention) + head


def step_flop(row: Row, config: Any, *, blocks: int, rank: int, shared: int) -> float:
    """Forward and backward of a row."""
    total = len(inputs(row))
    own = total - shared
    lora = sum(2 * rank * (n + m) for n, m in linear_shapes(config))
    attention = 2 * config.hidden_size * (total * (total + 1) - shared * (shared + 1))
    forward = forward_flop(row, config, blocks=blocks, rank=rank, shared=shared)
    lowest = own * sum(2 * n * m + 2 * rank * m for n, m in linear_shapes(config)[:3])
    return 2 * forward + blocks * (own * lora + attention) - lowest


def train_flop(lesson: Lesson, spec: Spec, config: Any, *, steps: int) -> float:
    """All epochs of a run: every row forward and backward through the adapted blocks, and KTO's mismatched pairs
    forward. What lies below the adapter is the reference's (`reference_flop`).
    """
    shared = common([row for item in lesson.items for row in item.rows])
    rows = [
        (row, begun)
        for item in lesson.items
        for row, begun in zip(item.rows, beginnings(item.rows, shared, config), strict=True)
    ]
    blocks = min(spec.lora.top_layers or config.num_hidden_layers, config.num_hidden_layers)
    sizes = {"blocks": blocks, "rank": spec.lora.rank}
    total = spec.optim.epochs * sum(step_flop(row, config, shared=begun, **sizes) for row, begun in rows)
    if any(isinstance(item, Thumb) for item in lesson.items) and lesson.pairs:
        every = sum(forward_flop(row, config, shared=shared, **sizes) for row in lesson.pairs)
        total += steps * min(BASELINE_PER_STEP, len(lesson.pairs)) * every / len(lesson.pairs)
    return total


def reference_flop(lesson: Lesson, config: Any, *, blocks: int) -> float:
    """One forward of every row that has a reference."""
    anchors = {item.row for item in lesson.items if isinstance(item, Anchor)}
    rows = [row for row in lesson.reference if row not in anchors]
    begun = beginnings(rows, common(rows), config)
    return sum(
        forward_flop(row, config, blocks=blocks, rank=0, shared=own)
        for row, own in zip(rows, begun, strict=True)
    )


def best_seconds(work: Callable[[], Any], repeats: int = 9) -> float:
    work()
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best


def matmul_peak() -> dict[str, float]:
    """GFLOP/s of float32 products of several sizes, torch's own and with weights packed by oneDNN; best of nine."""
    found: dict[str, float] = {}
    for rows, inner, out in ((1024, 1024, 1024), (1024, 1536, 576), (1024, 576, 1536), (512, 576, 4096)):
        found |= _speeds(rows, inner, out)
    return found


def _speeds(rows: int, inner: int, out: int) -> dict[str, float]:
    left, weight, target = torch.randn(rows, inner), torch.randn(out, inner), torch.empty(rows, out)
    ways: dict[str, Callable[[], Any]] = {"": lambda: torch.mm(left, weight.t(), out=target)}
    if torch.backends.mkldnn.is_available():
        product = Product(weight, None, packed=True)
        ways[" packed"] = lambda: product.forward(left)
    flop = 2 * rows * inner * out / 1e9
    return {f"{rows}x{inner}x{out}{name}": flop / best_seconds(way) for name, way in ways.items()}
