"""The snapshot an iteration trains from: preferences and configuration as the trainer's input files."""

import itertools
from collections.abc import Iterable, Sequence
from importlib import resources

from daemon.limits import GateConfig
from daemon.runtime import Runtime
from judge.judged import TrainingPair
from judge.pairs import Answer, Liking, Pair, Preferences
from policies import spec
from policies.config import TrainConfig
from store.files import read_jsonl
from store.records import Adapter, Completion, Iteration, Message, Source


def turns(messages: Iterable[Message]) -> list[spec.Turn]:
    return [spec.Turn(role=message.role, content=message.content) for message in messages]


def kto_example(liking: Liking) -> spec.KtoExample:
    answer: Answer = liking.answer
    return spec.KtoExample(
        id=liking.id,
        prompt=turns(answer.prompt),
        completion=answer.text,
        ended=answer.ended,
        label=liking.label,
        weight=liking.weight,
    )


def dpo_example(pair: Pair | TrainingPair) -> spec.DpoExample:
    return spec.DpoExample(
        id=pair.id,
        prompt=turns(pair.prompt),
        chosen=pair.chosen,
        chosen_ended=pair.chosen_ended,
        rejected=pair.rejected.text,
        rejected_ended=pair.rejected.ended,
        q=pair.q,
        weight=pair.weight,
    )


def kl_spec(gate: GateConfig) -> spec.KlSpec:
    return spec.KlSpec(
        step_soft=gate.kl_step_soft,
        step_hard=gate.kl_step_hard,
        base_soft=gate.kl_base_soft,
        base_hard=gate.kl_base_hard,
        scales=list(gate.scales),
    )


def trainer_spec(
    runtime: Runtime, iteration: Iteration, *, version: str, incumbent: Adapter | None
) -> spec.Spec:
    """The configuration as the trainer is told it."""
    train: TrainConfig = runtime.config.policies.train
    return spec.Spec(
        iteration=iteration.id,
        version=version,
        model=str(runtime.model.resolve()),
        base_digest=runtime.base_digest,
        incumbent=str(runtime.reference(incumbent).path.resolve()) if incumbent else None,
        incumbent_digest=incumbent.digest if incumbent else None,
        lora=spec.LoraSpec(
            rank=train.rank, alpha=train.alpha, top_layers=None if train.layers == "all" else train.layers
        ),
        loss=spec.LossSpec(
            beta=train.beta,
            kto_ratio=train.kto_ratio,
            kto_weight_cap=train.kto_weight_cap,
            dpo_nll=train.dpo_nll,
        ),
        optim=spec.OptimSpec(
            learning_rate=train.learning_rate_continued if incumbent else train.learning_rate,
            epochs=train.epochs,
            batch_size=train.batch_size,
        ),
        kl=kl_spec(runtime.config.daemon.gate),
        evaluation=spec.EvalSpec(
            probe_tokens=train.probe_tokens, temperature=train.probe_temperature, top_p=0.95
        ),
        seed=train.seed + iteration.id,
        threads=None if train.threads == "auto" else train.threads,
        dtype=train.dtype,
        max_length=train.max_length,
    )


def shipped_probes() -> list[spec.Probe]:
    """Everyday prompts that ship with honed, so that the first iterations are measured on more than a few."""
    with resources.as_file(resources.files("judge").joinpath("probes.jsonl")) as path:
        return [spec.Probe.model_validate(row) for row in read_jsonl(path)]


def choose_probes(
    heldout: Sequence[Liking], recent: Sequence[Completion], shipped: Sequence[spec.Probe], count: int
) -> list[spec.Probe]:
    """`count` distinct prompts: half shipped (comparable over time), half what people ask, set-aside ones first.

    What one side lacks the other fills.
    """
    asked = [spec.Probe(id=item.id, prompt=turns(item.answer.prompt)) for item in heldout]
    asked += [spec.Probe(id=completion.id, prompt=turns(completion.messages)) for completion in recent]
    chosen: list[spec.Probe] = []
    seen: set[str] = set()
    half = count // 2
    for probe in itertools.chain(shipped[:half], asked[:count], shipped[half:]):
        text = repr(probe.prompt)
        if text not in seen and len(chosen) < count:
            seen.add(text)
            chosen.append(probe)
    return chosen


def probes(runtime: Runtime, preferences: Preferences, named: Sequence[Completion]) -> list[spec.Probe]:
    """The prompts this iteration is measured on."""
    recent = runtime.store.completions.recent(limit=64, source=Source.CHAT, done_only=True)
    stored = [completion for completion in (*recent, *named) if completion.stored and completion.messages]
    count = runtime.config.policies.train.probes
    return choose_probes(preferences.heldout, stored, shipped_probes(), count)


def make_snapshot(
    told: spec.Spec,
    preferences: Preferences,
    judged: Sequence[TrainingPair],
    asked: Sequence[spec.Probe],
) -> spec.Snapshot:
    """Everything the child reads. `judged`: pairs a licensed judge adds to people's."""
    examples: list[spec.KtoExample | spec.DpoExample] = [kto_example(item) for item in preferences.likings]
    pairs: list[Pair | TrainingPair] = [*preferences.pairs, *judged]
    examples += [dpo_example(pair) for pair in pairs]
    return spec.Snapshot(
        spec=told,
        examples=examples,
        heldout=[kto_example(item) for item in preferences.heldout],
        probes=list(asked),
    )
