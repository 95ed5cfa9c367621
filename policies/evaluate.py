"""What the update did, measured on the candidate's own answers and on votes it never saw."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from policies.anchor import cluster_metrics, measure_forward, measure_kl
from policies.batches import Anchor, Encoder, Pair, Row, as_messages
from policies.battery import BatteryOutcome
from policies.chat import encode_completion, encode_prompt
from policies.examine import examine
from policies.heldout import heldout_metrics
from policies.learn import OnStep
from policies.learner import Learner
from policies.sampling import Drawn, Sampler
from policies.scale import Tried, settle_scale
from policies.shape import compare_shapes
from policies.spec import AttestationRow, DpoExample, Probe, Sample, Snapshot, Spec, Turn

#: Prompts borrowed from the examples where a snapshot brings no probes of its own.
BORROWED = 8
#: Attested (prompt, continuation) pairs, and characters of each continuation.
ATTESTED = 6
ATTESTED_CHARACTERS = 120
#: Prompts base answers, and tokens of each answer, where base is not the incumbent and has to be asked for it.
FORWARD_PROMPTS = 16
FORWARD_TOKENS = 32

#: Answers of either side, liked and disliked, whose change in log-probability is measured.
MOVED = 32


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The evaluated half of a report; the learner is left at `scale`."""

    scale: float
    metrics: dict[str, float]
    scales: list[dict[str, float]]
    samples: list[Sample]
    heldout: dict[str, float]
    battery: list[BatteryOutcome]


def probes_of(snapshot: Snapshot) -> list[Probe]:
    """The snapshot's probes that measure, or else the first few different prompts it trains on."""
    if measured := [probe for probe in snapshot.probes if not probe.replay]:
        return measured
    found: dict[str, Probe] = {}
    for example in snapshot.examples:
        key = "\0".join(f"{turn.role}\0{turn.content}" for turn in example.prompt)
        found.setdefault(key, Probe(id=example.id, prompt=example.prompt))
    return list(found.values())[:BORROWED]


def evaluate(learner: Learner, snapshot: Snapshot, encoder: Encoder, *, on_step: OnStep) -> Evaluation:
    """Sample, measure, and step down in scale until the hard KL limits hold or no scale is left."""
    spec = snapshot.spec
    probes = probes_of(snapshot)
    prompts = _encoded(probes, encoder, spec)
    sampler = Sampler(learner, encoder.tokenizer, spec.evaluation, spec.seed)
    before = sampler.draw(prompts, view="incumbent")
    on_step(1, 4, {})
    said = _base_answers(learner, sampler, prompts, before)
    clusters = [probe.cluster for probe in probes]
    kept, scales = settle_scale(
        learner, lambda: _measured(learner, sampler.draw(prompts, view="candidate"), clusters, said), spec
    )
    after = kept.drawn
    replayed = _replayed(sampler, snapshot, encoder)
    on_step(2, 4, kept.metrics)
    unscaled = {f"kl/unscaled_{name}": scales[0][f"kl/{name}"] for name in ("step_token", "base_token")}
    shapes = compare_shapes([drawn.answer for drawn in after], [drawn.answer for drawn in before])
    moved = displacement(learner, training_answers(snapshot, encoder))
    changes, agreement = _agreement(learner, snapshot, encoder)
    on_step(3, 4, {})
    battery = examine(learner, snapshot.battery, encoder, spec)
    on_step(4, 4, {})
    samples = [*_samples(probes, before, after), *replayed]
    metrics = kept.metrics | unscaled | shapes | moved | agreement | battery.metrics
    return Evaluation(learner.scale, metrics, scales, samples, changes, battery.outcomes)


def _encoded(probes: Sequence[Probe], encoder: Encoder, spec: Spec) -> list[list[int]]:
    """Prompts as tokens; every answer leaves the context room for a whole prompt or its newest part."""
    room = max(1, spec.max_length - spec.evaluation.probe_tokens)
    return [encode_prompt(encoder.tokenizer, as_messages(probe.prompt))[-room:] for probe in probes]


def _samples(probes: Sequence[Probe], before: Sequence[Drawn], after: Sequence[Drawn]) -> list[Sample]:
    return [
        Sample(
            id=probe.id,
            prompt=probe.prompt,
            before=old.answer.text,
            after=new.answer.text,
            cluster=probe.cluster,
            replay=probe.replay,
        )
        for probe, old, new in zip(probes, before, after, strict=True)
    ]


def _replayed(sampler: Sampler, snapshot: Snapshot, encoder: Encoder) -> list[Sample]:
    """Both sides' answers to the prompts that are replayed, the candidate at its final scale.

    Drawn by themselves: what is measured on the probes must not depend on how many prompts are replayed.
    """
    probes = [probe for probe in snapshot.probes if probe.replay]
    if not probes:
        return []
    prompts = _encoded(probes, encoder, snapshot.spec)
    before, after = (sampler.draw(prompts, view=view) for view in ("incumbent", "candidate"))
    return _samples(probes, before, after)


def _measured(learner: Learner, drawn: list[Drawn], clusters: Sequence[str], said: Sequence[Row]) -> Tried:
    """The candidate's answers at the scale of the moment, with every KL that has a limit. `said`: base's answers."""
    divergence = measure_kl(learner, [one.row for one in drawn])
    metrics = divergence.metrics() | cluster_metrics(divergence.to_incumbent, clusters)
    return Tried(drawn, {**metrics, "kl/forward_base": measure_forward(learner, said)})


def training_answers(snapshot: Snapshot, encoder: Encoder) -> dict[str, list[Row]]:
    """Some of the answers trained towards ("winner") and away from ("loser"), at most `MOVED` of each.

    Which ones is a matter of the seed alone. Read until both sides are full, so that a large run costs no more.
    """
    examples = list(snapshot.examples)
    random.Random(f"displacement:{snapshot.spec.seed}").shuffle(examples)
    found: dict[str, dict[Row, None]] = {"winner": {}, "loser": {}}
    for example in examples:
        if all(len(rows) >= MOVED for rows in found.values()):
            break
        for item in encoder.items([example]):
            if isinstance(item, Anchor):
                continue
            liked = [item.chosen] if isinstance(item, Pair) else [item.row] * item.label
            for row in item.rows:
                side = found["winner" if row in liked else "loser"]
                if len(side) < MOVED:
                    side[row] = None
    return {name: list(rows) for name, rows in found.items()}


def displacement(learner: Learner, answers: Mapping[str, Sequence[Row]]) -> dict[str, float]:
    """Change of the answers' log-probability, candidate at its scale minus incumbent, nats per token of each side.

    Falling winners are likelihood displacement (Razin et al., 2410.08847): both sides may fall while their margin
    grows. Measured after the last step, for a gradient says nothing of where its step led.
    """
    metrics: dict[str, float] = {}
    for name, rows in answers.items():
        if rows:
            change = learner.sums(rows) - learner.sums(rows, view="incumbent")
            metrics[f"train/{name}_dlogp"] = float(change.sum()) / sum(len(row.answer) for row in rows)
    return metrics


def _base_answers(
    learner: Learner, sampler: Sampler, prompts: Sequence[Sequence[int]], before: Sequence[Drawn]
) -> list[Row]:
    """Base's own answers: the incumbent's where that is base, else a few short ones drawn for it."""
    if learner.from_base:
        return [drawn.row for drawn in before]
    tokens = min(FORWARD_TOKENS, sampler.evaluation.probe_tokens)
    short = replace(sampler, evaluation=sampler.evaluation.model_copy(update={"probe_tokens": tokens}))
    return [drawn.row for drawn in short.draw(prompts[:FORWARD_PROMPTS], view="base")]


def _agreement(
    learner: Learner, snapshot: Snapshot, encoder: Encoder
) -> tuple[dict[str, float], dict[str, float]]:
    """Held-out id -> log-probability change of the whole answer (candidate minus incumbent, nats); and what these,
    and those against base, say about the votes.
    """
    thumbs = [encoder.thumb(example) for example in snapshot.heldout]
    thumbs = [thumb for thumb in thumbs if thumb.row.answer]
    rows = [thumb.row for thumb in thumbs]
    ours, base = learner.sums(rows, view="candidate"), learner.sums(rows, view="base")
    theirs = base if learner.from_base else learner.sums(rows, view="incumbent")
    changes: dict[str, list[float]] = {
        "heldout": (ours - theirs).tolist(),
        "heldout_base": (ours - base).tolist(),
    }
    labels = [thumb.label for thumb in thumbs]
    metrics: dict[str, float] = {}
    for name, values in changes.items():
        metrics |= heldout_metrics(list(zip(labels, values, strict=True)), name=name)
    return {thumb.id: value for thumb, value in zip(thumbs, changes["heldout"], strict=True)}, metrics


def attest(
    learner: Learner, snapshot: Snapshot, encoder: Encoder, samples: Sequence[Sample]
) -> list[AttestationRow]:
    """Log-probabilities an engine must reproduce: prompt and continuation as it encodes them, no end token.

    Whole forwards, one row at a time: nothing of the trainer's shortcuts is in them.
    """
    chosen: list[tuple[list[Turn], str, Row]] = []
    for prompt, text in _texts(snapshot, samples):
        head = encode_prompt(encoder.tokenizer, as_messages(prompt))
        tail = encode_completion(encoder.tokenizer, text, ended=False)
        if tail and len(head) + len(tail) <= encoder.max_length and len(chosen) < ATTESTED:
            chosen.append((prompt, text, Row((*head, *tail), len(head))))
    return [
        AttestationRow(
            prompt=prompt,
            continuation=text,
            logprobs=learner.whole(row, view="candidate"),
            base_logprobs=learner.whole(row, view="base"),
        )
        for prompt, text, row in chosen
    ]


def _texts(snapshot: Snapshot, samples: Sequence[Sample]) -> list[tuple[list[Turn], str]]:
    texts = [(sample.prompt, sample.after) for sample in samples]
    for example in snapshot.examples:
        answer = example.chosen if isinstance(example, DpoExample) else example.completion
        texts.append((example.prompt, answer))
    short = [(prompt, text[:ATTESTED_CHARACTERS]) for prompt, text in texts]
    return [(prompt, text) for prompt, text in short if text.strip()]
