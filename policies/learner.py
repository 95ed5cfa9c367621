"""The model being trained: one frozen base, one LoRA, and three ways to look through it.

`candidate` is the LoRA as it now is, `incumbent` a kept copy of the served adapter (no change at all where base is
served), `base` is the LoRA off. One set of base weights serves all three. Merely switching off a continued adapter
would silently anchor to the base, hence the kept copy. The candidate starts as the incumbent, or, to be rebuilt, as
no change; its shape covers the incumbent's either way, so that one model shows both.
"""

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from policies.adapters import AdapterInfo, Shape, read_tensors, verify_adapter
from policies.batches import Row, longest, row_batches
from policies.crew import Crew, device
from policies.features import CutModel, blocks_of
from policies.logprobs import Head, token_logprobs
from policies.products import Fast
from policies.room import ON_CPU, ON_GPU, Room, is_out_of_memory, smaller
from policies.spec import LoraSpec, Spec
from store.errors import TrainingFailed

View = Literal["candidate", "incumbent", "base"]
T = TypeVar("T")
_NAME = "default"


class Learner:
    """Log-probabilities and hidden states of rows under a view, and the LoRA's weights."""

    def __init__(self, model: Any, shape: Shape, *, first: int, incumbent: list[Tensor]) -> None:
        self.model = model
        self.shape = shape
        self.causal = model.get_base_model()
        self.fast = Fast(model, _NAME)
        self.head = Head(self.causal.get_output_embeddings(), packed=self.fast.packed)
        self.cut = CutModel(self.causal, first)
        self.device = self.head.weight.device
        self.room = Room(ON_CPU if self.device.type == "cpu" else ON_GPU)
        """Shrinks where memory turns out to be too small: see `fitted`."""
        self.crew = Crew()
        """Who trains with this process."""
        self._layers = [module for module in model.modules() if hasattr(module, "lora_A")]
        self._scale = 1.0
        self._incumbent = incumbent
        self.from_base = self._changes_nothing(incumbent)
        """Whether the incumbent is the base itself: then one forward serves both views."""
        self.reference: View = "base" if self._changes_nothing(self.weights()) else "incumbent"
        """What training starts from."""

    def weights(self) -> list[nn.Parameter]:
        """The LoRA's parameters, in a fixed order."""
        return [weight for _, weight in self._named()]

    def tensors(self) -> dict[str, Tensor]:
        """PEFT key -> weights, as an adapter file holds them."""
        return {
            name.replace(f".{_NAME}.weight", ".weight"): weight.detach() for name, weight in self._named()
        }

    def read(self, tensors: dict[str, Tensor]) -> None:
        """Replace the candidate's weights by those of an adapter file of the same shape."""
        with torch.no_grad():
            for name, weight in self.tensors().items():
                weight.copy_(tensors[name])

    @property
    def scale(self) -> float:
        """Factor on the candidate's update; 1 while training."""
        return self._scale

    def set_scale(self, scale: float) -> None:
        self._scale = scale
        for layer in self._layers:
            layer.set_scale(_NAME, scale)

    @contextmanager
    def seen_as(self, view: View) -> Iterator[None]:
        """Look through another view for a while."""
        if view == "candidate":
            yield
        elif view == "base":
            with self.model.disable_adapter():
                yield
        else:
            scale = self._scale
            self._exchange()
            self.set_scale(1.0)
            try:
                yield
            finally:
                self._exchange()
                self.set_scale(scale)

    def fitted(self, work: Callable[[], T], least: int, *, gradient: bool) -> T:
        """Do `work`, which keeps to `room`; again in less room as often as memory is too small.

        Args:
            least, gradient: as for `room.smaller`.

        Raises:
            TrainingFailed: not even the smallest piece fits.
        """
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                said = (str(error).splitlines() or [type(error).__name__])[0]
            # Past the handler, which holds on to the failed attempt's tensors.
            found = smaller(self.room, least, gradient=gradient)
            if found is None or (found.recomputed > self.room.recomputed and not self.cut.recompute()):
                raise TrainingFailed(
                    f"memory is too small for a piece of {least} tokens ({said}); lower policies.train.max_length or "
                    "policies.train.layers, or give the trainer more memory"
                )
            self.room = found
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def logprobs(self, rows: Sequence[Row]) -> list[Tensor]:
        """Log-probabilities (nats) of each row's answer tokens, differentiable in the LoRA; one forward for all."""
        states = self.cut.answer_states(rows)
        flat = token_logprobs(states, self.cut.answer_ids(rows), self.head)
        return list(flat.split([len(row.answer) for row in rows]))

    @torch.no_grad()
    def sums(self, rows: Sequence[Row], *, view: View = "candidate") -> Tensor:
        """Log-probability (nats) of each whole answer, (N,), no gradient; every process computes a part of them."""
        if not rows:
            return torch.zeros(0, device=self.device)
        part = self.crew.part([len(row.ids) for row in rows])
        own = [rows[index] for index in part]

        def work() -> Tensor:
            out = torch.zeros(len(rows), device=self.device)
            for batch in row_batches(own, self.room.tokens):
                for index, values in zip(batch, self.logprobs([own[i] for i in batch]), strict=True):
                    out[part[index]] = values.sum()
            return out

        with self.seen_as(view):
            return self.crew.add(self.fitted(work, longest(own), gradient=False))

    @torch.no_grad()
    def answer_states(self, rows: Sequence[Row], *, view: View) -> list[Tensor]:
        """Final hidden states (tokens, H) before each answer token, per row, no gradient."""

        def work() -> list[Tensor]:
            found: dict[int, Tensor] = {}
            for batch in row_batches(rows, self.room.tokens):
                picked = [rows[i] for i in batch]
                states = self.cut.answer_states(picked).split([len(row.answer) for row in picked])
                found.update(zip(batch, states, strict=True))
            return [found[i] for i in range(len(rows))]

        with self.seen_as(view):
            return self.fitted(work, longest(rows), gradient=False)

    @torch.no_grad()
    def whole(self, row: Row, *, view: View) -> list[float]:
        """Log-probabilities (nats) of a row's answer tokens by the model's own forward, with no shortcut."""
        ids = torch.tensor([row.ids], device=self.device)
        with self.seen_as(view), self.fast.off():
            states = self.causal.base_model(input_ids=ids, use_cache=False).last_hidden_state[
                0, row.start - 1 : -1
            ]
            found = self.causal.get_output_embeddings()(states).float().log_softmax(-1)
        return found.gather(-1, ids[0, row.start :, None])[:, 0].tolist()

    def _named(self) -> list[tuple[str, nn.Parameter]]:
        return _lora_weights(self.model)

    def _changes_nothing(self, weights: Sequence[Tensor]) -> bool:
        return not any(
            bool(weight.any())
            for (name, _), weight in zip(self._named(), weights, strict=True)
            if ".lora_B." in name
        )

    def _exchange(self) -> None:
        for index, weight in enumerate(self.weights()):
            weight.data, self._incumbent[index] = self._incumbent[index], weight.data


def load_learner(spec: Spec) -> Learner:
    """The base model, frozen, with a LoRA that starts as the incumbent, or as no change: see `Spec.start`.

    Raises:
        AdapterInvalid: the incumbent does not verify.
        TrainingFailed: the model's layout or the incumbent's shape cannot be trained here.
    """
    incumbent = None
    if spec.incumbent is not None:
        incumbent = verify_adapter(Path(spec.incumbent), spec.incumbent_digest or "")
    causal = _load_base(spec)
    shape, first = _shape(causal, spec.lora, incumbent)
    torch.manual_seed(spec.seed)
    with warnings.catch_warnings():
        # PEFT asks transformers for a property under its old name; blocks are recomputed another way.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        model = get_peft_model(causal, _lora_config(shape))
    model.eval()  # no dropout: a log-ratio of equal weights must be exactly zero
    _check_layout(model.get_base_model())
    fresh = _copies(model)
    if incumbent is not None and spec.incumbent is not None:
        tensors = read_tensors(Path(spec.incumbent))
        _warm_start(model, tensors, incumbent.scaling * shape.rank / shape.alpha)
    served = _copies(model)
    if spec.start == "base":
        _restore(model, fresh)
    return Learner(model, shape, first=first, incumbent=served)


def _lora_weights(model: Any) -> list[tuple[str, nn.Parameter]]:
    """The LoRA's parameters by name, in a fixed order."""
    return [(name, weight) for name, weight in model.named_parameters() if ".lora_" in name]


def _copies(model: Any) -> list[Tensor]:
    return [weight.detach().clone() for _, weight in _lora_weights(model)]


@torch.no_grad()
def _restore(model: Any, weights: Sequence[Tensor]) -> None:
    for (_, weight), kept in zip(_lora_weights(model), weights, strict=True):
        weight.copy_(kept)


def _load_base(spec: Spec) -> Any:
    gpu = torch.cuda.is_available()
    auto = torch.bfloat16 if gpu else torch.float32
    dtype = auto if spec.dtype == "auto" else getattr(torch, spec.dtype)
    causal = AutoModelForCausalLM.from_pretrained(
        spec.model, dtype=dtype, local_files_only=True, use_safetensors=True
    )
    causal.requires_grad_(False)
    return causal.to(device())


def _linear_names(inner: nn.Module) -> set[str]:
    """Leaf names of the linear layers under the head; vLLM wants exactly these, and never the head."""
    return {
        name.rsplit(".", 1)[-1] for name, module in inner.named_modules() if isinstance(module, nn.Linear)
    }


def _shape(causal: Any, lora: LoraSpec, incumbent: AdapterInfo | None) -> tuple[Shape, int]:
    """What to adapt, and the first adapted block. It covers the incumbent, whose update must stay expressible."""
    blocks = blocks_of(causal)
    depth = len(blocks) if blocks is not None else 0  # an unknown layout is adapted everywhere
    first = max(0, depth - (lora.top_layers or depth))
    rank = lora.rank
    modules = tuple(sorted(_linear_names(causal.base_model)))
    if not modules:
        raise TrainingFailed(f"{type(causal).__name__} has no linear layers to adapt")
    if incumbent is not None:
        rank = max(rank, incumbent.rank)
        # PEFT's default (layers None) means every block.
        first = 0 if incumbent.layers is None else min(first, *incumbent.layers)
    # alpha / rank is the learning dynamics' knob, so a rank raised for the incumbent's sake keeps it.
    alpha = lora.alpha * rank / lora.rank
    return Shape(rank, alpha, modules, tuple(range(first, depth)) if first else None), first


def _lora_config(shape: Shape) -> LoraConfig:
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=shape.rank,
        lora_alpha=shape.alpha,
        lora_dropout=0.0,
        target_modules=list(shape.modules),
        layers_to_transform=None if shape.layers is None else list(shape.layers),
        layers_pattern=None if shape.layers is None else "layers",
    )


@torch.no_grad()
def _check_layout(causal: Any) -> None:
    """Refuse a model whose logits are not simply head(final states): a soft cap or factor would be left out."""
    ids = torch.arange(3, 11, device=next(causal.parameters()).device)[None]
    logits = causal(input_ids=ids, use_cache=False).logits
    states = causal.base_model(input_ids=ids, use_cache=False).last_hidden_state
    if not torch.allclose(logits, causal.get_output_embeddings()(states), atol=1e-3, rtol=1e-3):
        raise TrainingFailed(f"{type(causal).__name__} changes its logits after the head; not supported")


@torch.no_grad()
def _warm_start(model: Any, tensors: dict[str, Tensor], factor: float) -> None:
    """Copy an adapter of the same or smaller rank and reach; B takes up the difference in alpha / rank.

    Added rank has B = 0, added modules keep their fresh B = 0: the update is the incumbent's exactly.
    """
    left = dict(tensors)
    for name, weight in model.named_parameters():
        source = left.pop(name.replace(f".{_NAME}.weight", ".weight"), None)
        if source is None:
            continue
        if ".lora_A." in name:
            weight[: source.shape[0]] = source.to(weight)
        else:
            weight.zero_()
            weight[:, : source.shape[1]] = factor * source.to(weight)
    if left:
        raise TrainingFailed(f"the incumbent adapts {sorted(left)[0]}, which the new adapter does not")
