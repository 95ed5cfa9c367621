"""`honed plan`: what an iteration would do if it started now. Nothing is written, and no engine is asked.

`plan_now` is the reader; what there is to decide is decided by the functions an iteration itself uses, or by the pure
ones here. Left out: what judges would add, which depends on answers nobody has drawn yet.
"""

import asyncio
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api import views
from daemon import memory, rebuild, replay, schedule
from daemon.config import Config
from daemon.iteration import preferences_now
from daemon.loop import look
from daemon.page import Block, Page, Section, Table, counted
from daemon.runtime import Known
from daemon.vetting import background_now
from judge.pairs import Liking, Pair, share_cap, shortage
from judge.propensity import effective
from judge.replay import Mix
from policies.balance import class_weights
from policies.config import TrainConfig
from store.db import Store
from store.errors import TrainingFailed
from store.records import BASE, SETTLED_STAGES, Source, Stage

Row = dict[str, Any]

#: Iterations that durations are taken from, newest first, and how many are looked through for them.
LEARNED_FROM, LOOKED_AT = 5, 30
#: The stated rates, where no iteration ran yet: tokens a second trained, and answered in evaluation. They are the
#: embedded model's on one CPU thread (docs/performance.md).
TRAINED_PER_SECOND, ANSWERED_PER_SECOND = 300.0, 25.0
#: Characters of a token, about.
CHARACTERS = 4.0
#: Names of an iteration's counts that are examples.
EXAMPLES = ("kto_up", "kto_down", "dpo", "judged_pairs", "replayed", "anchors")


@dataclass(frozen=True, slots=True)
class Reader:
    """A store with its configuration: all that is needed to plan."""

    config: Config
    store: Store
    clock: Callable[[], float]


@dataclass(frozen=True, slots=True)
class PastRun:
    """A finished iteration: seconds per stage, and how many examples it trained on.

    `by_example`: seconds of its training that went with the examples; the rest started and loaded the trainer.
    """

    examples: int
    seconds: Mapping[str, float]
    by_example: float


def shares(mix: Mix) -> dict[str, tuple[int, float]]:
    """Examples and weight of everybody; what several said together is theirs in equal parts."""
    counts: Counter[str] = Counter()
    weights: dict[str, float] = {}
    items: list[Liking | Pair] = [*mix.likings, *mix.pairs]
    for item in items:
        people = {event.principal for event in item.events}
        for person in people:
            counts[person] += 1
            weights[person] = weights.get(person, 0.0) + item.weight / len(people)
    return {person: (counts[person], weight) for person, weight in weights.items()}


def people_of(mix: Mix) -> list[Row]:
    """Everybody's share of the weight, the heaviest first."""
    found = shares(mix)
    total = sum(weight for _, weight in found.values())
    rows = [
        {"principal": person, "examples": count, "weight": weight, "share": weight / total if total else 0.0}
        for person, (count, weight) in found.items()
    ]
    return sorted(rows, key=lambda row: (-row["weight"], row["principal"]))


def balance_of(mix: Mix, train: TrainConfig) -> Row:
    """Liked against disliked, by number and weight, and the class weights that even them out."""
    up = [item.weight for item in mix.likings if item.label]
    down = [item.weight for item in mix.likings if not item.label]
    for_up, for_down = class_weights(sum(up), sum(down), ratio=train.kto_ratio, cap=train.kto_weight_cap)
    return {
        "up": len(up),
        "down": len(down),
        "pairs": len(mix.pairs),
        "weight_up": sum(up),
        "weight_down": sum(down),
        "class_weight_up": for_up,
        "class_weight_down": for_down,
    }


def tokens_of(mix: Mix) -> float:
    """Tokens of prompts and answers, reckoned from characters: no tokenizer is loaded for a plan."""
    count = 0
    for liking in mix.likings:
        count += sum(len(turn.content) for turn in liking.answer.prompt) + len(liking.answer.text)
    for pair in mix.pairs:
        prompt = sum(len(turn.content) for turn in pair.prompt)
        count += 2 * prompt + len(pair.chosen) + len(pair.rejected.text)
    for answer in mix.anchors:
        count += sum(len(turn.content) for turn in answer.prompt) + len(answer.text)
    return count / CHARACTERS


def examples_of(mix: Mix) -> int:
    return len(mix.likings) + len(mix.pairs) + len(mix.anchors)


def from_past(past: Sequence[PastRun], examples: int) -> dict[str, float]:
    """Seconds per stage as in past iterations (medians): learning by the example, all else as long as it took."""
    names = {name for run in past for name in run.seconds}
    found: dict[str, float] = {}
    for name in sorted(names, key=[stage.value for stage in Stage].index):
        took = [run.seconds.get(name, 0.0) for run in past]
        if name == Stage.TRAINING.value:
            took = [
                seconds + run.by_example * (examples / run.examples - 1)
                for seconds, run in zip(took, past, strict=True)
            ]
        found[name] = statistics.median(took)
    return found


def by_rate(tokens: float, train: TrainConfig) -> dict[str, float]:
    """Seconds per stage from the stated rates: the reference and each epoch read every token once."""
    probed = train.probes * train.probe_tokens
    return {
        Stage.TRAINING.value: train.epochs * tokens / TRAINED_PER_SECOND + probed / ANSWERED_PER_SECOND,
        Stage.EVALUATING.value: probed / ANSWERED_PER_SECOND,
    }


def duration(past: Sequence[PastRun], mixes: Sequence[Mix], train: TrainConfig) -> Row:
    """Expected minutes, and what they are reckoned from. A second candidate is trained and evaluated as well."""
    usable = [run for run in past if run.examples]
    stages: dict[str, float] = {}
    for mix in mixes:
        one = from_past(usable, examples_of(mix)) if usable else by_rate(tokens_of(mix), train)
        for name, seconds in one.items():
            repeated = name in (Stage.TRAINING.value, Stage.EVALUATING.value)
            stages[name] = stages.get(name, 0.0) + seconds if repeated else seconds
    told = (
        f"past iterations ({len(usable)}), learning by the example"
        if usable
        else f"stated rates ({TRAINED_PER_SECOND:g} tokens/s trained, {ANSWERED_PER_SECOND:g} answered: the embedded "
        "model on one CPU thread), no iteration having been timed yet"
    )
    return {"minutes": sum(stages.values()) / 60, "stages": stages, "from": told}


def past_runs(store: Store) -> list[PastRun]:
    """The newest iterations that trained a candidate and came to a verdict."""
    found: list[PastRun] = []
    for one in store.iterations.list(limit=LOOKED_AT):
        if one.stage not in SETTLED_STAGES - {Stage.FAILED, Stage.ABORTED} or len(found) == LEARNED_FROM:
            continue
        seconds: dict[str, float] = defaultdict(float)
        for entry in views.stages(store.iterations.stages(one.id), now=one.updated_at):
            if entry["stage"] not in SETTLED_STAGES:
                seconds[entry["stage"]] += entry["seconds"] or 0.0
        # Two candidates in one: its times are not those of one mix.
        if "rebuild" not in one.counts:
            phases = (store.iterations.report(one.id) or {}).get("seconds", {})
            learning = sum(phases.get(phase, 0.0) for phase in ("reference", "train"))
            count = sum(one.counts.get(name, 0) for name in EXAMPLES)
            found.append(PastRun(count, dict(seconds), min(learning, seconds[Stage.TRAINING.value])))
    return found


def memory_now(needed_mb: int) -> Row:
    """Free memory against what a trainer must find free."""
    row: Row = {"needed_mb": needed_mb, "free_mb": None, "where": None, "enough": None}
    try:
        on_gpu = asyncio.run(memory.free_gpu())
    except TrainingFailed as error:
        return {**row, "where": str(error), "enough": needed_mb == 0}
    free = (memory.free_ram() if on_gpu is None else on_gpu) // 2**20
    where = "main memory" if on_gpu is None else "the GPU"
    return {**row, "free_mb": free, "where": where, "enough": free >= needed_mb}


def evidence(gate: str, *, enough: bool, detail: str, without: str) -> Row:
    """Whether a gate will have enough to go by; `without`: what it does otherwise."""
    return {"gate": gate, "enough": enough, "detail": detail, "otherwise": None if enough else without}


def heldout_evidence(up: int, down: int, config: Config) -> Row:
    gate = config.daemon.gate
    without = (
        f"inconclusive: {gate.on_inconclusive}" if gate.heldout_required else "says nothing, which is allowed"
    )
    detail = f"{up} liked and {down} disliked never-train answers, {gate.heldout_min} of each needed"
    return evidence("heldout", enough=min(up, down) >= gate.heldout_min, detail=detail, without=without)


def contest_evidence(licensed: Sequence[str], prompts: int, config: Config) -> Row:
    """Judged comparisons with the incumbent."""
    gate = config.daemon.gate
    if not config.judge.enabled:
        return evidence("contest", enough=False, detail="judging is switched off", without="not held")
    if not licensed:
        detail = "no scorer held a licence when last measured"
        return evidence("contest", enough=False, detail=detail, without="not held")
    detail = f"{prompts} prompts for {' and '.join(licensed)}, {gate.contest_enough} make it decisive"
    without = "may say no worse, or reject; cannot make the candidate inconclusive"
    return evidence("contest", enough=prompts >= gate.contest_enough, detail=detail, without=without)


def capability_evidence(items: float | None, config: Config) -> Row:
    gate = config.daemon.gate
    there = "no iteration has told how many items there are" if items is None else f"{items:g} items"
    detail = f"{there}, {gate.capability_enough} make it decisive"
    without = "may reject, cannot make the candidate inconclusive"
    return evidence(
        "capability", enough=(items or 0) >= gate.capability_enough, detail=detail, without=without
    )


def evidence_now(known: Known, counts: Mapping[str, Any]) -> list[Row]:
    """Every gate that rests on counted evidence."""
    store, config = known.store, known.config
    licensed = (
        [one["scorer"] for one in views.judges(store) if one["licensed"]] if config.judge.enabled else []
    )
    recent = store.completions.recent(
        limit=10 * config.daemon.gate.replay_prompts, source=Source.CHAT, done_only=True
    )
    asked = {completion.messages for completion in recent if completion.stored}
    prompts = config.policies.train.probes + min(len(asked), config.daemon.gate.replay_prompts)
    last = next((one for one in store.iterations.list(limit=LOOKED_AT) if one.stage in SETTLED_STAGES), None)
    items = store.metrics.get(last.id).get("battery/capability/n") if last else None
    return [
        heldout_evidence(counts["heldout_up"], counts["heldout_down"], config),
        contest_evidence(licensed, prompts, config),
        capability_evidence(items, config),
    ]


def start_of(known: Known) -> Row:
    """Whether the schedule would start one now, and what it waits for."""
    running = known.store.iterations.running()
    due = schedule.due(look(known, running=running is not None), known.config.daemon.schedule)
    return {"trigger": due.trigger, "waiting_for": list(due.waiting_for), "next_at": due.next_at}


def plan_now(known: Known, *, free: Callable[[int], Row] = memory_now) -> Row:
    """Everything a plan tells.

    Args:
        known: what to plan from; only read.
        free: looks at memory: MiB needed -> needed_mb, free_mb, where, enough.
    """
    config, store = known.config, known.store
    background = background_now(known)
    found, others, preferences = preferences_now(known, background)
    past = replay.look_back(known, found, others, background)
    last, active = store.iterations.last(), store.adapters.active()
    number = last.id + 1 if last else 1
    mixes = [replay.continued(known, number, past, judged=0)]
    due = rebuild.due_now(known)
    if due is not None:
        mixes.append(replay.rebuilt(known, number, past, judged=0))
    people = people_of(mixes[0])
    return {
        "iteration": number,
        "incumbent": active.version if active else BASE,
        "start": start_of(known),
        "shortage": shortage(preferences, config.feedback),
        "kinds": dict(Counter(item.feedback.kind.value for item in found)),
        "quarantined": store.quarantine.count(),
        "counts": {**preferences.counts(), **replay.counts(mixes[0])},
        "rebuild": None if due is None else {"why": due.why, "examples": examples_of(mixes[1])},
        "balance": balance_of(mixes[0], config.policies.train),
        "people": people,
        "worth": dict(sorted(background.worth.items())),
        "signals": background.fitted,
        "propensity": {"answers": len(background.propensity), "effective": effective(background.propensity)},
        "share_cap": share_cap(len(people), config.feedback.principal_share_floor),
        "time": duration(past_runs(store), mixes, config.policies.train),
        "memory": free(config.policies.train.free_memory_mb),
        "evidence": evidence_now(known, preferences.counts()),
    }


def title(row: Row) -> str:
    if row["shortage"] is not None:
        return f"iteration {row['iteration']} would train nothing: {row['shortage']}"
    trigger = row["start"]["trigger"]
    if trigger is not None:
        return f"iteration {row['iteration']} would start now ({trigger})"
    return f"iteration {row['iteration']} waits for: {'; '.join(row['start']['waiting_for'])}"


def data_section(row: Row) -> Section:
    balance, counts = row["balance"], row["counts"]
    kinds = ", ".join(f"{count} {kind}" for kind, count in row["kinds"].items()) or "none"
    told = [f"From {row['incumbent']}. New events: {kinds}."]
    if row["quarantined"]:
        told.append(f"{counted(row['quarantined'], 'event')} in quarantine train nothing.")
    if row["rebuild"] is not None:
        examples, why = row["rebuild"]["examples"], row["rebuild"]["why"]
        told.append(f"A second candidate of {examples} examples would be trained from base: {why}.")
    sides = [
        ("liked", balance["up"], balance["weight_up"], balance["class_weight_up"]),
        ("disliked", balance["down"], balance["weight_down"], balance["class_weight_down"]),
        ("pairs", balance["pairs"], None, None),
        ("of these replayed", counts["replayed"], None, None),
        ("anchors, base's own answers", counts["anchors"], None, None),
        ("liked, never trained on", counts["heldout_up"], None, None),
        ("disliked, never trained on", counts["heldout_down"], None, None),
        *(
            (name.removeprefix("dropped_").replace("_", " ") + ", dropped", count, None, None)
            for name, count in counts.items()
            if name.startswith("dropped_")
        ),
    ]
    return Section("Examples", (*told, Table(("WHAT", "COUNT", "WEIGHT", "CLASS WEIGHT"), sides)))


def people_section(row: Row) -> Section:
    most = 10
    rows = [
        (one["principal"], one["examples"], one["weight"], f"{100 * one['share']:.0f}%")
        for one in row["people"]
    ]
    cap = f"nobody holds more than {100 * row['share_cap']:.0f}% of the weight"
    told = f"{counted(len(rows), 'person', 'people')}; {cap}."
    blocks: list[Block] = [told, Table(("PERSON", "EXAMPLES", "WEIGHT", "SHARE"), rows[:most])]
    if len(rows) > most:
        blocks.append(f"and {len(rows) - most} more")
    if row["worth"]:
        doubted = ", ".join(f"{name} {100 * worth:.0f}%" for name, worth in row["worth"].items())
        blocks.append(f"Votes that count for less, for contradicting others: {doubted}.")
    for name, one in row["signals"].items():
        blocks.append(f"{name} weighs {one['weight']:.2f}, by {one['seen']} outright opinions beside it.")
    if row["propensity"]["answers"]:
        blocks.append(
            "What is seldom voted on counts for more; votes are worth "
            f"{100 * row['propensity']['effective']:.0f}% of as many fairly drawn ones."
        )
    return Section("People", tuple(blocks))


def cost_section(row: Row) -> Section:
    time, free = row["time"], row["memory"]
    stages = [(name, f"{seconds:.0f}") for name, seconds in time["stages"].items()]
    known = free["free_mb"] is not None
    there = (
        f"{free['free_mb']} MiB of {free['where']} are"
        if known
        else f"{free['where']}; nobody knows how much is"
    )
    enough = "enough" if free["enough"] else "too little: it would fail"
    room = f"{there} free, {free['needed_mb']} MiB asked for (policies.train.free_memory_mb): {enough}."
    if row["shortage"] is not None:
        return Section("Time and memory", ("It would end as soon as it has collected.", room))
    told = f"About {time['minutes']:.1f} minutes, reckoned from {time['from']}."
    return Section("Time and memory", (told, room, Table(("STAGE", "SECONDS"), stages)))


def page(row: Row) -> Page:
    """The plan for people."""
    rows = [
        (one["gate"], "yes" if one["enough"] else "no", one["detail"], one["otherwise"] or "")
        for one in row["evidence"]
    ]
    gates = Section("Evidence of the gates", (Table(("GATE", "ENOUGH", "THERE IS", "OTHERWISE"), rows),))
    waiting = row["start"]["waiting_for"]
    found = [data_section(row)]
    if row["shortage"] is not None and waiting:
        found.insert(0, Section("Schedule", tuple(f"waits for: {each}" for each in waiting)))
    if row["people"]:
        found.append(people_section(row))
    return Page(title(row), (*found, cost_section(row), gates))
