"""The trainer's products against the plain ones: losses, gradients, and the adapter that comes out."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from policies.anchor import Watch
from policies.batches import Encoder, Pair
from policies.chat import load_tokenizer
from policies.features import shared_prefix
from policies.layout import bundles
from policies.learn import learn
from policies.learner import Learner, load_learner
from policies.objective import prepare
from policies.products import Product
from policies.spec import DpoExample, KtoExample, LoraSpec, OptimSpec, Spec
from tests.policies.runs import anchor, make_spec, pair, thumb

WEIGHT = torch.randn(50, 12, generator=torch.Generator().manual_seed(0))
BIAS = torch.randn(50, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bias", [BIAS, None], ids=["bias", "no bias"])
@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_products_equal_the_plain_ones(bias: torch.Tensor | None, backward: bool, packed: bool) -> None:
    product = Product(WEIGHT, bias, packed=packed, backward=backward)
    for rows in (1, 8, 33):
        values, gradients = torch.randn(rows, 12), torch.randn(rows, 50)
        torch.testing.assert_close(product.forward(values), nn.functional.linear(values, WEIGHT, bias))
        torch.testing.assert_close(product.backward(gradients), gradients @ WEIGHT)


def disturbed(spec: Spec) -> Learner:
    learner = load_learner(spec)
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in learner.weights():
            weight.add_(torch.randn_like(weight) * 0.2)
    return learner


@pytest.fixture(params=[2, None], ids=["top blocks", "all blocks"])
def learner(tiny_model: Path, request: pytest.FixtureRequest) -> Iterator[Learner]:
    learner = disturbed(make_spec(tiny_model, lora=LoraSpec(rank=4, alpha=8, top_layers=request.param)))
    assert learner.fast.packed
    yield learner


def logits(learner: Learner) -> torch.Tensor:
    ids = torch.arange(3, 43).view(2, 20)
    found: torch.Tensor = learner.causal(input_ids=ids, use_cache=False).logits
    return found


def test_every_linear_layer_is_fast_until_it_is_switched_off(learner: Learner) -> None:
    def replaced() -> int:
        return sum("forward" in vars(module) for module in learner.model.modules())

    assert replaced() == 4 * 7
    with learner.fast.off():
        assert replaced() == 0
    assert replaced() == 4 * 7


@pytest.mark.parametrize("view", ["candidate", "base"])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_fast_forward_equals_the_models_own(learner: Learner, view: str, scale: float) -> None:
    learner.set_scale(scale)
    with torch.no_grad(), learner.seen_as("base" if view == "base" else "candidate"):
        fast = logits(learner)
        with learner.fast.off():
            plain = logits(learner)
    torch.testing.assert_close(fast, plain, atol=2e-5, rtol=0)


def test_gradients_equal_the_models_own(learner: Learner) -> None:
    found = []
    for fast in (True, False):
        if fast:
            (logits(learner) ** 2).mean().backward()
        else:
            with learner.fast.off():
                (logits(learner) ** 2).mean().backward()
        found.append([weight.grad.clone() for weight in learner.weights() if weight.grad is not None])
        learner.model.zero_grad()
    assert len(found[0]) == len(learner.weights())
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-4)


def trained(model: Path, layers: int | None, *, simple: bool) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of the steps and the adapter, of the trainer as it is, or of PEFT's model with nothing cut or packed."""
    spec = make_spec(
        model,
        lora=LoraSpec(rank=4, alpha=8, top_layers=layers),
        optim=OptimSpec(epochs=2, batch_size=6, learning_rate=1e-3),
    )
    learner = load_learner(spec)
    examples: list[KtoExample | DpoExample] = [*map(thumb, range(10)), *map(pair, range(4))]
    items = Encoder(load_tokenizer(model), spec.max_length).items([*examples, *map(anchor, range(3))])
    rows = [row for item in items if isinstance(item, Pair) for row in item.rows]
    assert len(bundles(rows, shared=shared_prefix(rows), width=48)[0]) == 4  # prompts are shared in this run
    losses: list[float] = []

    def train() -> None:
        lesson, watch = prepare(learner, items, spec), Watch(learner, [])
        learn(
            learner, lesson, spec, watch=watch, on_step=lambda _d, _t, told: losses.append(told["train/loss"])
        )

    if simple:
        learner.cut.whole()
        with learner.fast.off():
            train()
    else:
        train()
    return losses, learner.tensors()


@pytest.mark.parametrize("layers", [2, None], ids=["top blocks", "all blocks"])
def test_the_adapter_equals_that_of_the_simple_way(tiny_model: Path, layers: int | None) -> None:
    """Six steps of votes, comparisons and anchors, all shortcuts against none."""
    fast, adapter = trained(tiny_model, layers, simple=False)
    simple, wanted = trained(tiny_model, layers, simple=True)
    assert fast == pytest.approx(simple, abs=1e-5)
    for name, weight in adapter.items():
        moved = wanted[name].abs().max()
        assert (weight - wanted[name]).abs().max() <= 1e-3 * moved, name
