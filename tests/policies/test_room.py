"""Memory that is too small: smaller pieces, then blocks computed again, and the same numbers all the while."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from policies.anchor import Watch
from policies.batches import Encoder, Item
from policies.chat import load_tokenizer
from policies.learn import learn
from policies.learner import Learner, load_learner
from policies.objective import prepare
from policies.room import ON_CPU, Room, is_out_of_memory, smaller
from policies.spec import OptimSpec, Spec
from store.errors import TrainingFailed
from tests.policies.runs import anchor, make_spec, pair, thumb

#: Bytes that no machine has.
ENDLESS = 2**60


@pytest.mark.parametrize(
    ("room", "least", "gradient", "found"),
    [
        (Room(2048), 100, True, Room(1024)),
        (Room(300), 100, True, Room(200)),
        (Room(200), 100, True, Room(200, recomputed=True)),
        (Room(200, recomputed=True), 100, True, None),
        (Room(2048, recomputed=True), 900, True, Room(1800, recomputed=True)),
        (Room(2048), 1500, False, Room(1500)),
        (Room(1500), 1500, False, None),
        (Room(100), 1500, False, None),
        (Room(100), 1500, True, Room(100, recomputed=True)),
    ],
)
def test_what_is_tried_next(room: Room, least: int, gradient: bool, found: Room | None) -> None:
    assert smaller(room, least, gradient=gradient) == found


def failing() -> Tensor:
    """An allocation that fails."""
    return torch.empty(ENDLESS, dtype=torch.uint8)


def test_a_failed_allocation_is_known_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as failed:
        failing()
    assert is_out_of_memory(failed.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert is_out_of_memory(
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")
    )
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as wrong:
        torch.ones(2) @ torch.ones(3)
    assert not is_out_of_memory(wrong.value)


@pytest.fixture(params=[2, None], ids=["top blocks", "all blocks"])
def spec(tiny_model: Path, request: pytest.FixtureRequest) -> Spec:
    lora = make_spec(tiny_model).lora.model_copy(update={"top_layers": request.param})
    return make_spec(
        tiny_model, lora=lora, optim=OptimSpec(epochs=2, batch_size=12, learning_rate=1e-2), max_length=128
    )


def items_of(spec: Spec) -> list[Item]:
    encoder = Encoder(load_tokenizer(Path(spec.model)), spec.max_length)
    return encoder.items([*map(thumb, range(10)), *map(pair, range(8)), *map(anchor, range(4))])


def fail_beyond(learner: Learner, tokens: int, *, recomputed: bool) -> list[int]:
    """Let memory end in the backward pass for more than so many tokens, or (`recomputed`) for blocks that are kept.

    Returns the sizes it ended at. The lowest adapted block: the weights above have their gradients by then.
    """
    found: list[int] = []

    def back(gradient: Tensor) -> None:
        count = gradient.shape[:2].numel()
        if count > tokens or (recomputed and not learner.room.recomputed):
            found.append(count)
            failing()

    def ran(_module: nn.Module, _args: Any, output: Any) -> None:
        states = output if isinstance(output, Tensor) else output[0]
        if states.requires_grad:
            states.register_hook(back)

    blocks = learner.causal.model.layers
    blocks[0 if learner.shape.layers is None else learner.shape.layers[0]].register_forward_hook(ran)
    return found


def trained(spec: Spec, *, tokens: int | None, recomputed: bool = False) -> tuple[Learner, dict[str, float]]:
    learner = load_learner(spec)
    items = items_of(spec)
    lesson, watch = prepare(learner, items, spec), Watch(learner, [])
    failed = [0] if tokens is None else fail_beyond(learner, tokens, recomputed=recomputed)
    outcome = learn(learner, lesson, spec, watch=watch, on_step=lambda *_: None)
    assert failed
    return learner, outcome.metrics


@pytest.mark.parametrize("recomputed", [False, True])
def test_a_step_that_does_not_fit_is_done_again(spec: Spec, recomputed: bool) -> None:
    roomy, plain = trained(spec, tokens=None)
    assert (plain["train/piece_tokens"], plain["train/recomputed"]) == (ON_CPU / 2, 0)
    tight, found = trained(spec, tokens=120, recomputed=recomputed)
    assert found["train/piece_tokens"] < ON_CPU / 2
    assert found["train/recomputed"] == recomputed
    assert found["train/loss_last"] == pytest.approx(plain["train/loss_last"], abs=1e-5)
    largest = max(float(weight.abs().max()) for weight in roomy.tensors().values())
    for name, weight in roomy.tensors().items():
        torch.testing.assert_close(tight.tensors()[name], weight, atol=1e-3 * largest, rtol=0)


def test_blocks_computed_again_give_the_same_gradient(spec: Spec) -> None:
    found = []
    for again in (False, True):
        learner = load_learner(spec)
        torch.manual_seed(1)
        with torch.no_grad():
            for weight in learner.weights():
                weight.normal_(std=0.2)
        if again:
            learner.cut.recompute()
        rows = [row for item in items_of(spec) for row in item.rows]
        torch.stack([values.sum() for values in learner.logprobs(rows)]).square().mean().backward()
        found.append([weight.grad for weight in learner.weights()])
    largest = max(float(gradient.abs().max()) for gradient in found[0] if gradient is not None)
    torch.testing.assert_close(found[0], found[1], atol=1e-5 * largest, rtol=1e-4)


def test_blocks_computed_again_are_not_kept(spec: Spec) -> None:
    """What autograd holds on to between forward and backward pass."""
    kept = []
    for again in (False, True):
        learner = load_learner(spec)
        if again:
            learner.cut.recompute()
        rows = [row for item in items_of(spec) for row in item.rows]
        learner.sums(rows)  # lower states are there
        held: dict[int, int] = {}

        def pack(tensor: Tensor, held: dict[int, int] = held) -> Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            learner.logprobs(rows)
        kept.append(sum(held.values()))
    assert kept[1] < kept[0] / 2


def test_a_row_that_never_fits_is_told(spec: Spec) -> None:
    learner = load_learner(spec)
    with pytest.raises(TrainingFailed, match=r"a piece of 700 tokens .* policies.train.max_length"):
        learner.fitted(failing, 700, gradient=True)
    assert learner.room == Room(1400, recomputed=True)


def test_other_errors_are_not_tried_again(spec: Spec) -> None:
    learner = load_learner(spec)
    with pytest.raises(RuntimeError, match="size"):
        learner.fitted(lambda: torch.ones(2) @ torch.ones(3), 10, gradient=True)
    assert learner.room == Room(ON_CPU)


def test_what_is_only_looked_at_gets_smaller_too(spec: Spec) -> None:
    learner = load_learner(spec)
    rows = [row for item in items_of(spec) for row in item.rows]
    wanted = learner.sums(rows)
    sizes: list[int] = []

    def looked(_module: nn.Module, _args: Any, output: Any) -> None:
        states = output if isinstance(output, Tensor) else output[0]
        sizes.append(states.shape[:2].numel())
        if sizes[-1] > 250:
            failing()

    learner.causal.model.layers[-1].register_forward_hook(looked)
    torch.testing.assert_close(learner.sums(rows), wanted, atol=1e-4, rtol=0)
    assert max(sizes) > 250 and learner.room.tokens < ON_CPU
