"""What the update did, measured on the candidate's own answers and on votes it never saw."""

from collections.abc import Sequence
from dataclasses import dataclass

from policies.anchor import measure_kl
from policies.batches import Encoder, Row, as_messages
from policies.chat import encode_completion, encode_prompt
from policies.heldout import heldout_metrics
from policies.learn import OnStep
from policies.learner import Learner
from policies.sampling import Drawn, Sampler
from policies.shape import compare_shapes
from policies.spec import AttestationRow, DpoExample, KlSpec, Probe, Sample, Snapshot, Turn

#: Prompts borrowed from the examples where a snapshot brings no probes of its own.
BORROWED = 8
#: Attested (prompt, continuation) pairs, and characters of each continuation.
ATTESTED = 6
ATTESTED_CHARACTERS = 120


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The evaluated half of a report; the learner is left at `scale`."""

    scale: float
    metrics: dict[str, float]
    scales: list[dict[str, float]]
    samples: list[Sample]
    heldout: dict[str, float]


def probes_of(snapshot: Snapshot) -> list[Probe]:
    """The snapshot's probes, or else the first few different prompts it trains on."""
    if snapshot.probes:
        return snapshot.probes
    found: dict[str, Probe] = {}
    for example in snapshot.examples:
        key = "\0".join(f"{turn.role}\0{turn.content}" for turn in example.prompt)
        found.setdefault(key, Probe(id=example.id, prompt=example.prompt))
    return list(found.values())[:BORROWED]


def over_hard(metrics: dict[str, float], budgets: KlSpec) -> bool:
    """Whether a hard KL budget is exceeded; a value that is not a number is."""
    return not (
        metrics["kl/step_token"] <= budgets.step_hard and metrics["kl/base_token"] <= budgets.base_hard
    )


def evaluate(learner: Learner, snapshot: Snapshot, encoder: Encoder, *, on_step: OnStep) -> Evaluation:
    """Sample, measure, and step down in scale until the hard KL budgets hold or no scale is left."""
    spec = snapshot.spec
    probes = probes_of(snapshot)
    # Every answer leaves the context room for a whole prompt or its newest part.
    room = max(1, spec.max_length - spec.evaluation.probe_tokens)
    prompts = [encode_prompt(encoder.tokenizer, as_messages(probe.prompt))[-room:] for probe in probes]
    sampler = Sampler(learner, encoder.tokenizer, spec.evaluation, spec.seed)
    before = sampler.draw(prompts, view="incumbent")
    on_step(1, 3, {})
    after, scales = _settle_scale(learner, sampler, prompts, spec.kl)
    on_step(2, 3, scales[-1])
    kl = {name: value for name, value in scales[-1].items() if name != "scale"}
    shapes = compare_shapes([drawn.answer for drawn in after], [drawn.answer for drawn in before])
    changes = heldout_changes(learner, snapshot, encoder)
    on_step(3, 3, {})
    labels = {example.id: example.label for example in snapshot.heldout}
    agreement = heldout_metrics([(labels[name], change) for name, change in changes.items()], seed=spec.seed)
    samples = [
        Sample(id=probe.id, prompt=probe.prompt, before=old.answer.text, after=new.answer.text)
        for probe, old, new in zip(probes, before, after, strict=True)
    ]
    return Evaluation(learner.scale, kl | shapes | agreement, scales, samples, changes)


def _settle_scale(
    learner: Learner, sampler: Sampler, prompts: Sequence[Sequence[int]], budgets: KlSpec
) -> tuple[list[Drawn], list[dict[str, float]]]:
    """The candidate's answers at the first scale within the hard budgets, or at the last; and every try.

    Scaling one LoRA interpolates its update to the base exactly, so each try costs samples, not training.
    """
    tried: list[dict[str, float]] = []
    after: list[Drawn] = []
    for scale in budgets.scales or [1.0]:
        learner.set_scale(scale)
        after = sampler.draw(prompts, view="candidate")
        metrics = measure_kl(learner, [drawn.row for drawn in after]).metrics()
        tried.append({"scale": scale, **metrics})
        if not over_hard(metrics, budgets):
            break
    return after, tried


def heldout_changes(learner: Learner, snapshot: Snapshot, encoder: Encoder) -> dict[str, float]:
    """Held-out id -> log-probability change of the whole answer, candidate minus incumbent, in nats."""
    thumbs = [encoder.thumb(example) for example in snapshot.heldout]
    thumbs = [thumb for thumb in thumbs if thumb.row.answer]
    rows = [thumb.row for thumb in thumbs]
    change = learner.sums(rows, view="candidate") - learner.sums(rows, view="incumbent")
    return {thumb.id: value for thumb, value in zip(thumbs, change.tolist(), strict=True)}


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
