"""The run directory: the files between the service and the trainer child, and nothing else between them.

In: `spec.json`, `examples.jsonl`, `heldout.jsonl`, `probes.jsonl`, `battery.jsonl`, sealed by `snapshot.json`
(name -> SHA-256), written last. Out: `progress.jsonl`, `report.json`, `adapter/`, and `manifest.json` written last: a
run without a manifest that verifies produced nothing. Everything the child does follows from these files and the
model, so a run replays by hand: `python -m policies.train RUN_DIR`.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from policies.battery import BatteryItem, BatteryOutcome
from policies.rows import Row as Row
from policies.rows import Turn as Turn
from store.errors import HonedError, TrainingFailed
from store.files import make_folder, sha256_file, write_json, write_jsonl
from store.reading import digest_of, inside, read_model, rows_of, told_as, validated

SPEC, EXAMPLES, HELDOUT, PROBES, BATTERY, SNAPSHOT = (
    "spec.json",
    "examples.jsonl",
    "heldout.jsonl",
    "probes.jsonl",
    "battery.jsonl",
    "snapshot.json",
)
PROGRESS, REPORT, ADAPTER, MANIFEST = "progress.jsonl", "report.json", "adapter", "manifest.json"


class KtoExample(Row):
    """One answer a person found good or bad."""

    form: Literal["kto"] = "kto"
    id: str
    prompt: list[Turn]
    completion: str
    ended: bool = True
    """Whether the model ended the turn itself; only then is the end token trained."""
    label: bool
    weight: float = Field(default=1.0, ge=0)


class DpoExample(Row):
    """Two answers to one prompt; `q` is the probability that `chosen` is the better (cDPO's soft label)."""

    form: Literal["dpo"] = "dpo"
    id: str
    prompt: list[Turn]
    chosen: str
    chosen_ended: bool = True
    rejected: str
    rejected_ended: bool = True
    q: float = Field(default=0.9, ge=0.5, le=1.0)
    weight: float = Field(default=1.0, ge=0)


class AnchorExample(Row):
    """One of base's own answers, to be kept likely: against forgetting what base could do."""

    form: Literal["anchor"] = "anchor"
    id: str
    prompt: list[Turn]
    completion: str
    ended: bool = True
    weight: float = Field(default=1.0, ge=0)


TrainingExample = Annotated[KtoExample | DpoExample | AnchorExample, Field(discriminator="form")]


class Probe(Row):
    """A prompt the candidate answers during evaluation."""

    id: str
    prompt: list[Turn]
    cluster: str = ""
    """What it is about, so that drift on one subject is not averaged away; "" belongs to none."""
    replay: bool = False
    """Only answered, for a judge to compare: KL and shape are measured on the others alone."""


class LoraSpec(Row):
    rank: int = Field(default=16, ge=1, le=256)
    alpha: float = Field(default=32.0, gt=0)
    top_layers: int | None = Field(default=10, ge=1)
    """Adapt the linear layers of the last N blocks; null adapts all."""


class LossSpec(Row):
    beta: float = Field(default=0.1, gt=0)
    """KTO's and DPO's inverse temperature."""
    kto_ratio: float = Field(default=1.0, ge=1.0, le=1.5)
    """Target of (weight_D * n_D) / (weight_U * n_U); KTO advises 1 to 4/3."""
    kto_weight_cap: float = Field(default=8.0, ge=1.0)
    """Largest class weight used to reach that ratio."""
    dpo_nll: float = Field(default=0.1, ge=0)
    """Weight of the chosen answer's token-mean NLL beside the DPO loss (RPO, 2405.16436)."""


class OptimSpec(Row):
    learning_rate: float = Field(default=1e-3, gt=0)
    epochs: int = Field(default=3, ge=1, le=50)
    batch_size: int = Field(default=16, ge=2)
    """Examples per optimiser step."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps over which the rate rises; it then falls linearly to zero."""
    max_grad_norm: float = Field(default=1.0, gt=0)


class KlSpec(Row):
    """Budgets in nats per token, on policy samples; `step` is to the incumbent, `base` to the frozen base."""

    step_soft: float = Field(default=0.15, gt=0)
    step_hard: float = Field(default=0.30, gt=0)
    base_soft: float = Field(default=0.25, gt=0)
    base_hard: float = Field(default=0.45, gt=0)
    prompt_hard: float | None = Field(default=None, gt=0)
    """Limit of `kl/step_p99`. This and the following: None is no limit, as in runs of earlier versions."""
    cluster_hard: float | None = Field(default=None, gt=0)
    sequence_hard: float | None = Field(default=None, gt=0)
    """Limit of `kl/base_sequence`, nats per answer."""
    forward_hard: float | None = Field(default=None, gt=0)
    path_hard: float | None = Field(default=None, gt=0)
    path: float | None = Field(default=None, ge=0)
    """The incumbent's path so far, to which the candidate's step is added; None where nobody knows it."""
    scales: list[float] = Field(default=[1.0, 0.75, 0.5, 0.25])
    """Adapter scales tried in turn while a hard limit is exceeded."""


class EvalSpec(Row):
    probe_tokens: int = Field(default=64, ge=8)
    """New tokens per probe answer."""
    temperature: float = Field(default=0.8, ge=0)
    top_p: float = Field(default=0.95, gt=0, le=1)


class Spec(Row):
    """Everything the trainer is told. `incumbent` None means: base is served."""

    iteration: int
    version: str
    """The new adapter's server-made name."""
    model: str
    """A local model directory (already resolved)."""
    base_digest: str
    incumbent: str | None
    """Path of the incumbent's adapter directory."""
    incumbent_digest: str | None
    start: Literal["incumbent", "base"] = "incumbent"
    """Where training starts, what is its reference, and from where its early stop counts `step`. Whatever it is, the
    finished candidate is measured against the incumbent."""
    lora: LoraSpec = LoraSpec()
    loss: LossSpec = LossSpec()
    optim: OptimSpec = OptimSpec()
    kl: KlSpec = KlSpec()
    evaluation: EvalSpec = EvalSpec()
    seed: int = 0
    threads: int | None = 1
    """CPU threads; null leaves torch's default."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Weights of the frozen base. auto: bfloat16 on a GPU, float32 on a CPU; the adapter is always float32."""
    max_length: int = Field(default=1024, ge=16)
    """Tokens of prompt and answer together; longer prompts lose their oldest tokens."""

    @property
    def from_base(self) -> bool:
        """Whether training starts from base: told to, or because base is what is served."""
        return self.start == "base" or self.incumbent is None

    @property
    def rebuilt(self) -> bool:
        """Whether it starts from base although something else is served."""
        return self.start == "base" and self.incumbent is not None


class Snapshot(Row):
    """What the trainer was given, read back and verified."""

    spec: Spec
    examples: list[TrainingExample]
    heldout: list[KtoExample]
    probes: list[Probe]
    battery: list[BatteryItem] = Field(default=[])


class Entry(Row):
    """What a manifest says of a file."""

    bytes: int = Field(ge=0)
    sha256: str


#: Bytes of a run directory's file at the most, and of one that names the others.
MOST, MOST_SEAL = 2**30, 2**20
#: What a run is without: of them a battery alone is new.
SEALED_INPUTS = (SPEC, EXAMPLES, HELDOUT, PROBES)

_SPEC = TypeAdapter(Spec)
_EXAMPLE: TypeAdapter[TrainingExample] = TypeAdapter(TrainingExample)
_HELDOUT = TypeAdapter(KtoExample)
_PROBE = TypeAdapter(Probe)
_ITEM: TypeAdapter[BatteryItem] = TypeAdapter(BatteryItem)
_SEAL = TypeAdapter(dict[str, str])
_MANIFEST = TypeAdapter(dict[str, Entry])


def write_snapshot(run_dir: Path, snapshot: Snapshot) -> str:
    """Write the five inputs, then the seal. Returns the seal's digest (hex SHA-256 of snapshot.json)."""
    make_folder(run_dir)
    write_json(run_dir / SPEC, snapshot.spec.model_dump(mode="json"))
    rows: dict[str, list[Any]] = {
        EXAMPLES: list(snapshot.examples),
        HELDOUT: list(snapshot.heldout),
        PROBES: list(snapshot.probes),
        BATTERY: list(snapshot.battery),
    }
    for name, models in rows.items():
        write_jsonl(run_dir / name, [model.model_dump(mode="json") for model in models])
    write_json(run_dir / SNAPSHOT, {name: sha256_file(run_dir / name) for name in (SPEC, *rows)})
    return sha256_file(run_dir / SNAPSHOT)


def read_snapshot(run_dir: Path) -> Snapshot:
    """Read the inputs back, each held against the seal.

    Raises:
        TrainingFailed: the seal is missing, a file differs from it, or is not what it must be; names file and field.
    """
    seal = run_dir / SNAPSHOT
    if not seal.is_file():
        raise TrainingFailed(f"{run_dir}: no {SNAPSHOT}, the snapshot was never finished")
    with told_as(TrainingFailed):
        digests = read_model(seal, _SEAL, most=MOST_SEAL)
        if missing := [name for name in SEALED_INPUTS if name not in digests]:
            raise HonedError(f"{seal} does not name {', '.join(missing)}")
        for name, digest in digests.items():
            if not inside(name):
                raise HonedError(f"{seal} names {name!r}, which is not inside")
            if digest_of(run_dir / name, most=MOST) != digest:
                raise HonedError(f"{run_dir / name} differs from what {SNAPSHOT} recorded")
        return Snapshot(
            spec=read_model(run_dir / SPEC, _SPEC),
            examples=rows_of(run_dir / EXAMPLES, _EXAMPLE, most=MOST),
            heldout=rows_of(run_dir / HELDOUT, _HELDOUT, most=MOST),
            probes=rows_of(run_dir / PROBES, _PROBE, most=MOST),
            # Runs sealed by a version that knew no battery have none.
            battery=rows_of(run_dir / BATTERY, _ITEM, most=MOST) if BATTERY in digests else [],
        )


class AttestationRow(Row):
    """The trainer's own log-probabilities of a fixed continuation under the finished adapter."""

    prompt: list[Turn]
    continuation: str
    logprobs: list[float]
    base_logprobs: list[float]
    """The same under the base alone: tells an adapter that was not applied from one that was."""


class Sample(Row):
    """A probe's answer before and after."""

    id: str
    prompt: list[Turn]
    before: str
    after: str
    cluster: str = ""
    replay: bool = False


class Report(Row):
    """What the child measured. Every metric is named `group/name`; KL in nats."""

    version: str
    scale: float
    """The adapter scale kept (1.0 unless a KL budget forced it down)."""
    steps: int
    stopped_early: bool
    metrics: dict[str, float]
    scales: list[dict[str, float]]
    """One entry per adapter scale tried: its scale and every `kl/` metric at it."""
    attestation: list[AttestationRow]
    samples: list[Sample]
    heldout: dict[str, float]
    """Held-out example id -> log-probability change (candidate minus incumbent, nats, whole answer)."""
    seconds: dict[str, float]
    """Wall time by phase."""
    adapter_digest: str
    battery: list[BatteryOutcome] = Field(default=[])
    """The battery's items one by one."""


#: Phases that all processes of a run go through; the others are the first one's.
TOGETHER = frozenset({"load", "reference", "train"})


class Progress(Row):
    """One line of progress.jsonl."""

    phase: str
    """"load", "reference", "train", "evaluate" or "save"."""
    done: int = Field(ge=0, le=2**53)
    total: int = Field(ge=0, le=2**53)
    metrics: dict[str, float] = Field(default={})


def write_manifest(run_dir: Path, names: list[str]) -> str:
    """Seal a directory: sizes and SHA-256 of the named files, written last. Returns the manifest's digest."""
    entries = {
        name: {"bytes": (run_dir / name).stat().st_size, "sha256": sha256_file(run_dir / name)}
        for name in names
    }
    write_json(run_dir / MANIFEST, entries)
    return sha256_file(run_dir / MANIFEST)


def verify_manifest(directory: Path, *, most: int = MOST) -> str:
    """Hold every file against the directory's manifest. Returns the manifest's digest.

    Args:
        directory: what was sealed.
        most: bytes of a file at the most.

    Raises:
        TrainingFailed: no manifest, or a file is missing, longer, shorter or different.
    """
    manifest = directory / MANIFEST
    if not manifest.is_file():
        raise TrainingFailed(f"{directory}: no {MANIFEST}")
    with told_as(TrainingFailed):
        for name, entry in read_model(manifest, _MANIFEST, most=MOST_SEAL).items():
            if not inside(name):
                raise HonedError(f"{manifest} names {name!r}, which is not inside")
            # The size first: what is longer than it should be is not read.
            if digest_of(directory / name, most=min(entry.bytes, most)) != entry.sha256:
                raise HonedError(f"{directory / name} differs from what {MANIFEST} recorded")
        return digest_of(manifest, most=MOST_SEAL)


def read_report(run_dir: Path) -> Report:
    """The report of a finished run, its manifest verified first.

    Raises:
        TrainingFailed: the run did not finish, its files changed since, or the report is none; names file and field.
    """
    verify_manifest(run_dir)
    with told_as(TrainingFailed):
        return read_model(run_dir / REPORT, _REPORT, most=MOST)


def read_progress(line: bytes, what: object) -> Progress:
    """A line of progress.jsonl.

    Raises:
        TrainingFailed: it is none; names `what` and the field.
    """
    with told_as(TrainingFailed):
        return validated(_PROGRESS, line, what)


_REPORT = TypeAdapter(Report)
_PROGRESS = TypeAdapter(Progress)
