"""The battery put to candidate and incumbent: the part of it that computes.

A few items at a time go through the model as one tree of tokens, so that a prompt is computed once for all its
options; what lies under the first adapted block is computed once for both sides (`features.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from policies.batches import Encoder, Row, as_messages
from policies.battery import (
    BatteryItem,
    BatteryOutcome,
    Choice,
    Flip,
    Group,
    Passage,
    Pattern,
    battery_metrics,
    likeliest,
    stands_by,
)
from policies.chat import encode_completion, encode_prompt
from policies.forward import Whole
from policies.learner import Learner, View
from policies.prefix_tree import grow_tree
from policies.sampling import Sampler
from policies.scoring import logprobs
from policies.spec import EvalSpec, Spec
from store.errors import Invalid, TrainingFailed

#: Tokens of one forward, about: enough for full speed, few enough that attention among them costs little.
PACKED = 768


@dataclass(frozen=True, slots=True)
class Examination:
    """What one run of the battery found."""

    metrics: dict[str, float]
    outcomes: list[BatteryOutcome]


@dataclass(frozen=True, slots=True)
class _Paper:
    """One side's results: verdict per item id, and the answers of those that were sampled."""

    verdicts: dict[str, bool | None]
    answers: dict[str, str]
    nll: float | None
    """Nats per token of all passages together; None without one."""


def examine(learner: Learner, items: Sequence[BatteryItem], encoder: Encoder, spec: Spec) -> Examination:
    """Put every item to the candidate at its scale and to the incumbent; nothing measured without items."""
    groups: dict[str, Group] = {item.id: item.group for item in items if not isinstance(item, Passage)}
    ours = _sit(learner, items, encoder, spec, view="candidate")
    theirs = _sit(learner, items, encoder, spec, view="incumbent")
    outcomes = [
        BatteryOutcome(
            id=name,
            group=group,
            passed=ours.verdicts[name],
            incumbent=theirs.verdicts[name],
            answer=ours.answers.get(name, ""),
            incumbent_answer=theirs.answers.get(name, ""),
        )
        for name, group in groups.items()
    ]
    metrics = battery_metrics(outcomes)
    for side, paper in (("", ours), ("incumbent/", theirs)):
        if paper.nll is not None:
            metrics[f"{side}battery/anchor/nll"] = paper.nll
    return Examination(metrics, outcomes)


@torch.no_grad()
def _sit(
    learner: Learner, items: Sequence[BatteryItem], encoder: Encoder, spec: Spec, *, view: View
) -> _Paper:
    """One side's whole battery."""
    asked = {item.id: _rows(item, encoder) for item in items if isinstance(item, Choice | Flip)}
    with learner.seen_as(view):
        means = {name: mean for pack in packs(asked) for name, mean in _means(learner, pack).items()}
        nll = _nll(learner, encoder, [item.text for item in items if isinstance(item, Passage)])
    answers = _answers(learner, encoder, [item for item in items if isinstance(item, Pattern)], spec, view)
    verdicts: dict[str, bool | None] = {}
    for item in items:
        match item:
            case Choice():
                verdicts[item.id] = likeliest(means[item.id]) == item.right
            case Flip():
                half = len(item.options)
                verdicts[item.id] = stands_by(item.right, means[item.id][:half], means[item.id][half:])
            case Pattern():
                verdicts[item.id] = item.passes(answers[item.id])
            case Passage():
                pass
    return _Paper(verdicts, answers, nll)


def _rows(item: Choice | Flip, encoder: Encoder) -> list[Row]:
    """Every option as the answer, without its end token; for a flip once more after the challenge."""
    prompts = [item.prompt, item.challenged] if isinstance(item, Flip) else [item.prompt]
    return [encoder.row(prompt, option, ended=False) for prompt in prompts for option in item.options]


def packs(asked: Mapping[str, Sequence[Row]]) -> list[dict[str, Sequence[Row]]]:
    """Items in groups of about `PACKED` tokens; what their prompts have in common is computed once a group."""
    found: list[dict[str, Sequence[Row]]] = []
    room = 0
    for name, rows in asked.items():
        cost = max(len(row.prompt) for row in rows) + sum(len(row.answer) for row in rows)
        if cost > room:
            found.append({})
            room = PACKED
        found[-1][name] = rows
        room -= cost
    return found


def _means(learner: Learner, pack: Mapping[str, Sequence[Row]]) -> dict[str, list[float]]:
    """Mean log-probability (nats per token) of every row of each item.

    By token, because the options of an item are of unequal length and a sum would choose the shortest.
    """
    rows = [row for own in pack.values() for row in own]
    means = iter([fmean(values) for values in _logprobs(learner, rows)])
    return {name: [next(means) for _ in own] for name, own in pack.items()}


def _logprobs(learner: Learner, rows: Sequence[Row]) -> list[list[float]]:
    """Log-probabilities of each row's answer tokens, through the view of the moment."""
    if not learner.cut.packs:
        return [learner.logprobs([row])[0].tolist() for row in rows]
    tree = grow_tree([(row.prompt, row.answer) for row in rows])
    found = [[0.0] * length for length in tree.answers]
    targets = list(tree.targets.values())
    values = logprobs(Whole(learner.causal), learner.cut.tree_states(tree)[list(tree.targets)], targets)
    for own, wanted in zip(values, targets, strict=True):
        for value, target in zip(own, wanted, strict=True):
            found[target.row][target.at] = value
    return found


def _nll(learner: Learner, encoder: Encoder, texts: Sequence[str]) -> float | None:
    """Nats per token over all texts, each read from its second token on, without a chat template."""
    encoded = [
        encode_completion(encoder.tokenizer, text, ended=False)[: encoder.max_length] for text in texts
    ]
    rows = [Row(tuple(ids), 1) for ids in encoded if len(ids) > 1]
    if not rows:
        return None
    found = [learner.logprobs([row])[0] for row in rows]
    return -float(torch.cat(found).mean())


def _answers(
    learner: Learner, encoder: Encoder, patterns: Sequence[Pattern], spec: Spec, view: View
) -> dict[str, str]:
    """The greedy answer to each pattern's prompt, by item id; a prompt too long loses its beginning."""
    found: dict[str, str] = {}
    for tokens in sorted({item.tokens for item in patterns}):
        alike = [item for item in patterns if item.tokens == tokens]
        room = max(1, spec.max_length - tokens)
        prompts = [_prompt(item, encoder)[-room:] for item in alike]
        greedy = EvalSpec(probe_tokens=tokens, temperature=0)
        drawn = Sampler(learner, encoder.tokenizer, greedy, spec.seed).draw(prompts, view=view)
        found |= {item.id: one.answer.text for item, one in zip(alike, drawn, strict=True)}
    return found


def _prompt(item: Pattern, encoder: Encoder) -> list[int]:
    """An item's prompt as tokens.

    Raises:
        TrainingFailed: the model's template takes no such conversation; operators write prompts too.
    """
    try:
        return encode_prompt(encoder.tokenizer, as_messages(item.prompt))
    except Invalid as error:
        raise TrainingFailed(f"battery item {item.id}: {error}") from error
