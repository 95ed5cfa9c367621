"""The optimisation itself: AdamW on the LoRA, every form of example in one step, stopped by a measured KL."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from statistics import fmean

import torch
from torch import Tensor

from policies.anchor import Distance, Watch, is_check
from policies.batches import Anchor, Item, Row, Thumb, baseline_rows, longest, micro_batches, steps
from policies.crew import Crew
from policies.learner import Learner
from policies.losses import kto_baseline
from policies.objective import Lesson, piece_losses
from policies.room import Room
from policies.spec import LossSpec, Spec
from store.errors import TrainingFailed

#: Called after every step with steps done, steps planned and the step's metrics.
OnStep = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How training went."""

    steps: int
    stopped_early: bool
    metrics: dict[str, float]


@dataclass(slots=True)
class _Trace:
    """What the steps leave behind for the report."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    baselines: list[float] = field(default_factory=list)
    anchors: dict[Row, tuple[int, float]] = field(default_factory=dict)
    distance: Distance = field(default_factory=lambda: Distance(0.0, 0.0))

    def saw(self, anchors: Mapping[Row, float]) -> None:
        """Keep the newest NLL of each anchor, with its step; the last epoch's are what is reported."""
        self.anchors |= {row: (len(self.losses), nll) for row, nll in anchors.items()}

    def metrics(self, crew: Crew) -> dict[str, float]:
        found = {
            "train/loss_first": self.losses[0],
            "train/loss_last": self.losses[-1],
            "train/grad_norm": fmean(self.norms),
            "train/kl_watched": self.distance.step,
            "train/kl_base_watched": self.distance.base,
        }
        if self.baselines:
            found["train/kto_baseline"] = fmean(self.baselines)
        newest: dict[Row, tuple[int, float]] = {}
        for anchors in crew.all(self.anchors):
            newest |= {row: seen for row, seen in anchors.items() if seen > newest.get(row, (-1, 0.0))}
        if newest:
            found["train/anchor_nll"] = fmean(nll for _, nll in newest.values())
        return found


def rate_factor(step: int, total: int, warmup: float) -> float:
    """Share of the peak rate at step `step` (from 0): a linear rise over the warm-up, then a linear fall."""
    rising = math.ceil(warmup * total)
    if step < rising:
        return (step + 1) / rising
    return (total - step) / max(1, total - rising)


def learn(learner: Learner, lesson: Lesson, spec: Spec, *, watch: Watch, on_step: OnStep) -> Outcome:
    """Train the LoRA in place; the last weights are kept, early stop or not.

    Raises:
        TrainingFailed: a loss, gradient or measured KL is not a finite number.
    """
    optim = spec.optim
    optimizer = torch.optim.AdamW(learner.weights(), lr=optim.learning_rate, weight_decay=0.0)
    plan = [
        step
        for epoch in range(optim.epochs)
        for step in steps(lesson.items, size=optim.batch_size, epoch=epoch, seed=spec.seed)
    ]
    trace = _Trace()
    for done, items in enumerate(plan, start=1):
        rate = optim.learning_rate * rate_factor(done - 1, len(plan), optim.warmup)
        optimizer.param_groups[0]["lr"] = rate
        metrics = _step(learner, lesson, items, spec.loss, trace)
        norm = torch.nn.utils.clip_grad_norm_(learner.weights(), optim.max_grad_norm)
        if not (math.isfinite(trace.losses[-1]) and bool(torch.isfinite(norm))):
            raise TrainingFailed(f"step {done}: loss {trace.losses[-1]}, gradient norm {float(norm)}")
        optimizer.step()
        optimizer.zero_grad()
        trace.norms.append(float(norm))
        metrics |= {"train/rate": rate, "train/grad_norm": float(norm)}
        if is_check(done, len(plan)):
            trace.distance = Distance(*learner.crew.told(astuple(watch.measure())))
            metrics |= {"train/kl_watched": trace.distance.step, "train/kl_base_watched": trace.distance.base}
            # The last step has no next loss to show that it went wrong.
            if not math.isfinite(trace.distance.step + trace.distance.base):
                raise TrainingFailed(f"step {done}: the policy gives no finite KL any more")
        on_step(done, len(plan), metrics)
        if done < len(plan) and not trace.distance.within(spec.kl):
            return Outcome(done, True, trace.metrics(learner.crew) | _memory(learner))
    return Outcome(len(plan), False, trace.metrics(learner.crew) | _memory(learner))


def _memory(learner: Learner) -> dict[str, float]:
    """How steps were fitted into memory, by the process that had least of it."""
    rooms: list[Room] = learner.crew.all(learner.room)
    return {
        "train/piece_tokens": float(min(room.trained for room in rooms)),
        "train/recomputed": float(any(room.recomputed for room in rooms)),
    }


def _step(
    learner: Learner, lesson: Lesson, items: Sequence[Item], loss: LossSpec, trace: _Trace
) -> dict[str, float]:
    """Leave one step's gradient on the weights. Returns the step's metrics."""
    kl_rho = torch.zeros(0, device=learner.device)
    if any(isinstance(item, Thumb) for item in items):
        kl_rho = _mismatched_rho(learner, lesson, len(trace.losses))
    own = [items[i] for i in learner.crew.part([sum(len(row.ids) for row in item.rows) for item in items])]
    least = max((len(item.rows) * longest(item.rows) for item in own), default=0)
    divisor = len(items) * lesson.mean_weight
    share, anchors = learner.fitted(
        lambda: _gradient(learner, lesson, own, divisor, loss, kl_rho), least, gradient=True
    )
    total = _added(learner, share)
    trace.saw(anchors)
    trace.losses.append(total)
    metrics = {"train/loss": total}
    if kl_rho.numel():
        trace.baselines.append(float(kto_baseline(kl_rho)))
        metrics["train/kto_baseline"] = trace.baselines[-1]
    return metrics


def _gradient(
    learner: Learner,
    lesson: Lesson,
    items: Sequence[Item],
    divisor: float,
    loss: LossSpec,
    kl_rho: Tensor,
) -> tuple[float, dict[Row, float]]:
    """The gradient of this process's items of a step, a piece at a time.

    Args:
        divisor: of the whole step's losses.

    Returns:
        Their share of the step's loss, and the NLL of the anchors among them.
    """
    # What an attempt that did not fit has left is not this one's.
    for weight in learner.weights():
        weight.grad = None
    total, anchors = 0.0, {}
    for piece in micro_batches(items, learner.room.trained):
        rows = list(dict.fromkeys(row for item in piece for row in item.rows))
        logprobs = dict(zip(rows, learner.logprobs(rows), strict=True))
        losses = piece_losses(lesson, piece, logprobs, kl_rho=kl_rho, loss=loss)
        value = losses.sum() / divisor
        value.backward()
        total += float(value.detach())
        for item in piece:
            if isinstance(item, Anchor):
                anchors[item.row] = -float(logprobs[item.row].detach().mean())
    return total, anchors


def _added(learner: Learner, loss: float) -> float:
    """Add up every process's gradient, in place, and their shares of the loss. Returns the step's loss."""
    if learner.crew.size == 1:
        return loss
    weights = learner.weights()
    parts = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    flat = torch.cat([*(part.flatten() for part in parts), parts[0].new_tensor([loss])])
    learner.crew.add(flat)
    at = 0
    for weight in weights:
        weight.grad = flat[at : at + weight.numel()].view_as(weight).to(weight)
        at += weight.numel()
    return float(flat[-1])


def _mismatched_rho(learner: Learner, lesson: Lesson, step: int) -> Tensor:
    """Log-ratios (M,) of the step's mismatched pairs under the current policy; (0,) where a run has none."""
    pairs = baseline_rows(lesson.pairs, step)
    return learner.sums(pairs) - torch.tensor([lesson.reference[row] for row in pairs], device=learner.device)
