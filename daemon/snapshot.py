"""The snapshot an iteration trains from: preferences and configuration as the trainer's input files."""

import itertools
import math
from collections.abc import Iterable, Sequence
from importlib import resources
from statistics import fmean

from daemon.clusters import SHIPPED, cluster_prompts
from daemon.ledger import latest, ledger_of, next_beta
from daemon.ledger import path as walked
from daemon.limits import GateConfig
from daemon.runtime import Runtime
from judge.judged import TrainingPair
from judge.pairs import Answer, Liking, Pair, Preferences
from judge.prompts import recent_prompts
from judge.replay import Mix
from policies import spec
from policies.battery import BatteryItem
from policies.config import TrainConfig
from store.files import read_jsonl
from store.records import Adapter, Completion, Iteration, Message, Source

#: Measured prompts per cluster, about, of those people asked.
PER_CLUSTER = 4
#: Logged answers looked at for each prompt that is replayed: most questions differ, and people take turns.
LOG_PER_REPLAY = 16


def turns(messages: Iterable[Message]) -> list[spec.Turn]:
    return [spec.Turn(role=message.role, content=message.content) for message in messages]


def messages_of(prompt: Iterable[spec.Turn]) -> tuple[Message, ...]:
    """The way back from `turns`."""
    return tuple(Message(turn.role, turn.content) for turn in prompt)


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


def anchor_example(answer: Answer, weight: float) -> spec.AnchorExample:
    return spec.AnchorExample(
        id=f"{answer.completion_id}/{answer.choice_index}",
        prompt=turns(answer.prompt),
        completion=answer.text,
        ended=answer.ended,
        weight=weight,
    )


def anchor_examples(
    answers: Sequence[Answer], others: Sequence[spec.KtoExample | spec.DpoExample]
) -> list[spec.AnchorExample]:
    """Anchors that weigh as much as the other examples do on average: their share is one of weight too."""
    weight = fmean(example.weight for example in others) if others else 1.0
    return [anchor_example(answer, weight) for answer in answers]


def kl_spec(gate: GateConfig, *, path: float = math.nan) -> spec.KlSpec:
    """Every KL limit that decides a scale. `path`: the incumbent's so far, nats per token; NaN if unknown."""
    return spec.KlSpec(
        step_soft=gate.kl_step_soft,
        step_hard=gate.kl_step_hard,
        base_soft=gate.kl_base_soft,
        base_hard=gate.kl_base_hard,
        prompt_hard=gate.kl_prompt_hard,
        cluster_hard=gate.kl_cluster_hard,
        sequence_hard=gate.kl_sequence_hard,
        forward_hard=gate.kl_forward_hard,
        path_hard=gate.kl_path_hard,
        path=path if math.isfinite(path) else None,
        scales=list(gate.scales),
    )


def trainer_spec(
    runtime: Runtime, iteration: Iteration, *, version: str, incumbent: Adapter | None, rebuilt: bool = False
) -> spec.Spec:
    """The configuration as the trainer is told it.

    A rebuilt candidate takes the whole way from base in one run, so its early stop knows the cumulative budget only.
    """
    train: TrainConfig = runtime.config.policies.train
    so_far = walked(ledger_of(runtime.store, incumbent.version if incumbent else None))
    kl = kl_spec(runtime.config.daemon.gate, path=so_far)
    return spec.Spec(
        iteration=iteration.id,
        version=version,
        model=str(runtime.model.resolve()),
        base_digest=runtime.base_digest,
        incumbent=str(runtime.reference(incumbent).path.resolve()) if incumbent else None,
        incumbent_digest=incumbent.digest if incumbent else None,
        start="base" if rebuilt else "incumbent",
        lora=spec.LoraSpec(
            rank=train.rank, alpha=train.alpha, top_layers=None if train.layers == "all" else train.layers
        ),
        loss=spec.LossSpec(
            beta=next_beta(train.beta, latest(runtime.store), runtime.config.daemon.gate),
            kto_ratio=train.kto_ratio,
            kto_weight_cap=train.kto_weight_cap,
            dpo_nll=train.dpo_nll,
        ),
        optim=spec.OptimSpec(
            learning_rate=train.learning_rate_continued if incumbent and not rebuilt else train.learning_rate,
            epochs=train.epochs,
            batch_size=train.batch_size,
        ),
        kl=kl.model_copy(update={"step_soft": kl.base_soft}) if rebuilt else kl,
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
        return [spec.Probe.model_validate({**row, "cluster": SHIPPED}) for row in read_jsonl(path)]


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


def probes(
    runtime: Runtime, iteration: int, preferences: Preferences, named: Sequence[Completion]
) -> list[spec.Probe]:
    """The prompts this iteration is measured on, and those it only answers, for its judges."""
    recent = runtime.store.completions.recent(limit=64, source=Source.CHAT, done_only=True)
    stored = [completion for completion in (*recent, *named) if completion.stored and completion.messages]
    count = runtime.config.policies.train.probes
    chosen = choose_probes(preferences.heldout, stored, shipped_probes(), count)
    return labelled([*chosen, *replayed(runtime, iteration, chosen)])


def labelled(found: Sequence[spec.Probe]) -> list[spec.Probe]:
    """Every probe with its cluster: the shipped ones are one, the others are told apart by what was asked last.

    As many clusters as leave each about four of the prompts that are measured.
    """
    asked = [probe for probe in found if not probe.cluster]
    measured = sum(not probe.replay for probe in asked)
    texts = [probe.prompt[-1].content for probe in asked]
    names = iter(cluster_prompts(texts, max(1, measured // PER_CLUSTER)))
    return [probe if probe.cluster else probe.model_copy(update={"cluster": next(names)}) for probe in found]


def replayed(runtime: Runtime, iteration: int, besides: Sequence[spec.Probe]) -> list[spec.Probe]:
    """What people asked lately, to be answered by candidate and incumbent; none where nobody may judge that."""
    count, train = runtime.config.daemon.gate.replay_prompts, runtime.config.policies.train
    licences = runtime.store.judgements.licences(iteration)
    if not (runtime.config.judge.enabled and count and any(one.licensed for one in licences)):
        return []
    chosen = recent_prompts(
        runtime.store.completions.recent(limit=LOG_PER_REPLAY * count, source=Source.CHAT, done_only=True),
        count=count,
        budget=train.max_length - train.probe_tokens,
        besides=[messages_of(probe.prompt) for probe in besides],
    )
    return [spec.Probe(id=item.id, prompt=turns(item.messages), replay=True) for item in chosen]


def make_snapshot(
    told: spec.Spec,
    mix: Mix,
    judged: Sequence[TrainingPair],
    asked: Sequence[spec.Probe],
    battery: Sequence[BatteryItem] = (),
) -> spec.Snapshot:
    """Everything the child reads. `judged`: pairs a licensed judge adds to people's."""
    examples: list[spec.KtoExample | spec.DpoExample] = [kto_example(item) for item in mix.likings]
    pairs: list[Pair | TrainingPair] = [*mix.pairs, *judged]
    examples += [dpo_example(pair) for pair in pairs]
    return spec.Snapshot(
        spec=told,
        examples=[*examples, *anchor_examples(mix.anchors, examples)],
        heldout=[kto_example(item) for item in mix.heldout],
        probes=list(asked),
        battery=list(battery),
    )
