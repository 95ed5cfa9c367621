"""Readers of files that others may have written, each with a true file to begin with."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from api.auth import load_keys
from daemon import backup, doctor_state, importing, trainer
from daemon.batteries import operator_probes
from daemon.client import connect
from daemon.config import load
from daemon.state_files import DATABASE, SERVICE
from judge.evaluate import read_pairs
from policies import models, spec, weights
from policies.adapters import CONFIG, WEIGHTS, Shape, save_adapter, verify_adapter
from store.db import Store
from store.errors import AdapterInvalid, HonedError, Invalid, TrainingFailed
from store.files import sha256_file, write_json
from tests.hostile.mutations import Mutation, anything, of_bytes, of_json, of_lines, of_tensors
from tests.policies.runs import make_snapshot, make_spec
from tests.store.conftest import completion, event


@dataclass(frozen=True)
class Case:
    """`files`: true content by name, and how each is changed. `read`: what is tried on the folder. `error`: what it
    may raise. `seal`: makes digests true again, so that what comes after them is tried too.
    """

    name: str
    files: dict[str, tuple[bytes, tuple[Mutation, ...]]]
    read: Callable[[Path], object]
    error: type[HonedError] = HonedError
    seal: Callable[[Path], object] = field(default=lambda _: None)


def hostile(case: Case, folder: Path, number: int) -> None:
    """Write the files of one case: one of them changed, sealed again or not."""
    chance = random.Random(f"{case.name} {number}")
    for name, (content, _) in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if chance.random() < 0.3:
        case.seal(folder)
    name = chance.choice(sorted(case.files))
    content, mutations = case.files[name]
    (folder / name).write_bytes(chance.choice((*mutations, of_bytes, anything))(chance, content))
    if chance.random() < 0.7:
        case.seal(folder)


def tried(case: Case, folder: Path) -> str:
    """What a reader made of it: "value", or "error" where it said what is wrong and where.

    Raises:
        AssertionError: it raised something else, or does not say where.
    """
    try:
        case.read(folder)
    except case.error as error:
        said = str(error)
        named = any(name.rpartition("/")[2] in said for name in case.files) or str(folder) in said
        assert named or getattr(error, "param", None), f"which file? {said!r}"
        assert len(said) < 100_000, "an error as long as the file"
        return "error"
    return "value"


def adapter(folder: Path) -> Case:
    key = "base_model.model.model.layers.2.self_attn"
    tensors = {f"{key}.{leaf}_proj.lora_A.weight": torch.ones(2, 5) for leaf in "qv"}
    tensors |= {f"{key}.{leaf}_proj.lora_B.weight": torch.zeros(7, 2) for leaf in "qv"}
    shape = Shape(rank=2, alpha=3.0, modules=("q_proj", "v_proj"), layers=(2,))
    save_adapter(tensors, folder / "adapter", shape=shape, base="base")
    files = {
        WEIGHTS: ((folder / "adapter" / WEIGHTS).read_bytes(), (of_tensors, of_tensors)),
        CONFIG: ((folder / "adapter" / CONFIG).read_bytes(), (of_json, of_json)),
        spec.MANIFEST: ((folder / "adapter" / spec.MANIFEST).read_bytes(), (of_json,)),
    }

    def read(where: Path) -> object:
        manifest = where / spec.MANIFEST
        plain = manifest.is_file() and manifest.resolve() == manifest and manifest.stat().st_size < 2**20
        return verify_adapter(where, sha256_file(manifest) if plain else "0" * 64)

    return Case(
        "adapter", files, read, AdapterInvalid, lambda where: spec.write_manifest(where, [WEIGHTS, CONFIG])
    )


def inputs(folder: Path) -> Case:
    spec.write_snapshot(folder / "run", make_snapshot(make_spec(Path("model"))))
    lines = (spec.EXAMPLES, spec.HELDOUT, spec.PROBES, spec.BATTERY)
    files = {name: ((folder / "run" / name).read_bytes(), (of_lines, of_lines)) for name in lines}
    for name in (spec.SPEC, spec.SNAPSHOT):
        files[name] = ((folder / "run" / name).read_bytes(), (of_json, of_json))

    def seal(where: Path) -> None:
        names = (spec.SPEC, *lines)
        write_json(where / spec.SNAPSHOT, {name: sha256_file(where / name) for name in names})

    return Case("inputs", files, spec.read_snapshot, TrainingFailed, seal)


def report(_: Path) -> Case:
    turns = [spec.Turn(role="user", content="Hi")]
    row = spec.AttestationRow(prompt=turns, continuation="Two.", logprobs=[-0.5], base_logprobs=[-0.4])
    made = spec.Report(
        version="it0001-a",
        scale=1.0,
        steps=3,
        stopped_early=False,
        metrics={"kl/step_token": 0.1, "train/steps": 3.0},
        scales=[{"scale": 1.0}],
        attestation=[row],
        samples=[spec.Sample(id="c1", prompt=turns, before="a", after="b")],
        heldout={"c1": 0.5},
        seconds={"train": 1.0},
        adapter_digest="0" * 64,
    )
    progress = b"".join(
        spec.Progress(phase="train", done=n, total=3, metrics={"loss": 0.5}).model_dump_json().encode()
        + b"\n"
        for n in range(3)
    )
    files = {
        spec.REPORT: (made.model_dump_json().encode(), (of_json, of_json)),
        spec.MANIFEST: (b"{}", (of_json,)),
        spec.PROGRESS: (progress, (of_lines, of_lines)),
    }

    def read(where: Path) -> object:
        return trainer.finished(where), trainer.curve(where)

    def seal(where: Path) -> None:
        spec.write_manifest(where, [spec.REPORT, spec.PROGRESS])

    return Case("report", files, read, TrainingFailed, seal)


def backups(folder: Path) -> Case:
    state = folder / "state"
    state.mkdir()
    with Store.open(state / DATABASE) as store:
        store.completions.begin(completion("c1"))
        store.feedback.add(event("f1", "c1"))
        store.audit.add(actor="ann", action="note", subject="x", reason="why")
    backup.backup(state, folder / "saved", at=1.0)
    index = json.loads((folder / "saved" / backup.INDEX).read_bytes())
    files: dict[str, tuple[bytes, tuple[Mutation, ...]]] = {
        DATABASE: ((folder / "saved" / DATABASE).read_bytes(), (of_bytes, of_bytes)),
        backup.INDEX: ((folder / "saved" / backup.INDEX).read_bytes(), (of_json, of_json)),
    }

    def seal(where: Path) -> None:
        file = where / DATABASE
        entry = {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
        write_json(where / backup.INDEX, {**index, "files": {DATABASE: entry}})

    return Case("backup", files, backup.verify, HonedError, seal)


THUMB = {
    "prompt": [{"role": "user", "content": "Hi"}],
    "completion": [{"role": "assistant", "content": "Ho"}],
    "label": True,
    "principal": "ann",
}
RATED = {
    "user_id": "u1",
    "data": {
        "rating": 1,
        "reason": "nice",
        "comment": "yes",
        "tags": ["a"],
        "model_id": "m",
        "details": {"rating": 8},
    },
    "meta": {"message_id": "m2", "chat_id": "c1"},
    "updated_at": 1_700_000_000,
    "snapshot": {
        "chat": {
            "chat": {
                "params": {"system": "Be kind."},
                "history": {
                    "messages": {
                        "m1": {"id": "m1", "parentId": None, "role": "user", "content": "Hi"},
                        "m2": {"id": "m2", "parentId": "m1", "role": "assistant", "content": "Ho"},
                    }
                },
            }
        }
    },
}


def imports(store: Store) -> Callable[[Path], Case]:
    """Rows in both forms, read and written down."""
    from api.privacy import Privacy
    from store.config import PrivacyConfig

    privacy = Privacy.of(PrivacyConfig())

    def read(where: Path) -> object:
        said = importing.read(importing.files_of(where))
        importing.add(store, said.said, privacy, source="x", at=1.0)
        # What is in the database must be read again, by SQL too.
        found = store.completions.recent(limit=3)
        store._session.rows("select metadata ->> 'user' from completions order by rowid desc limit 3")
        return found

    pair = {**THUMB, "chosen": THUMB["completion"], "rejected": [{"role": "assistant", "content": "No"}]}
    rows = b"".join(json.dumps(row).encode() + b"\n" for row in (THUMB, pair))
    files: dict[str, tuple[bytes, tuple[Mutation, ...]]] = {
        "a.jsonl": (rows, (of_lines, of_lines)),
        "b.json": (json.dumps([RATED, RATED]).encode(), (of_json, of_json, of_json)),
    }
    return lambda _: Case("import", files, read, Invalid)


TOML = b"""
[store]
directory = "var"
[api]
port = 8000
[policies.engine]
model = "bundled:smollm2-135m-instruct"
[daemon.schedule]
quiet_hours = ["22:00-06:00"]
"""
KEYS = b"""
[[key]]
name = "ann"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
scopes = ["chat"]
"""


def texts(_: Path) -> Case:
    """The configuration, the file of keys, an operator's probes, pairs for judges: each by itself."""
    probe = {"prompt": "Hi", "must": ["a"], "must_not": ["b"]}
    pair = {"prompt": "Hi", "better": "Ho", "worse": "No"}
    readers: dict[str, Callable[[Path], object]] = {
        "config.toml": lambda path: load(path, {}),
        "keys.toml": load_keys,
        "probes.jsonl": operator_probes,
        "pairs.jsonl": read_pairs,
    }
    files: dict[str, tuple[bytes, tuple[Mutation, ...]]] = {
        "config.toml": (TOML, (of_bytes, of_bytes)),
        "keys.toml": (KEYS, (of_bytes, of_bytes)),
        "probes.jsonl": (json.dumps(probe).encode() + b"\n", (of_lines, of_lines)),
        "pairs.jsonl": (json.dumps(pair).encode() + b"\n", (of_lines, of_lines)),
    }

    def read(where: Path) -> object:
        return [reader(where / name) for name, reader in readers.items()]

    return Case("texts", files, read, Invalid)


def places(_: Path) -> Case:
    """Where the service runs, and a model's files."""
    header = json.dumps({"m.0.q.weight": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}}).encode()
    tensors = len(header).to_bytes(8, "little") + header + b"\0" * 8
    files: dict[str, tuple[bytes, tuple[Mutation, ...]]] = {
        SERVICE: (b'{"pid": 1, "url": "http://127.0.0.1:9"}', (of_json, of_json)),
        "config.json": (b'{"model_type": "llama"}', (of_json,)),
        "model.safetensors": (tensors, (of_tensors, of_tensors)),
        models.DIGEST: (b'{"digest": "0", "stamps": {}}', (of_json,)),
    }

    def read(where: Path) -> object:
        doctor_state.service(where)
        connect(where, None)
        return weights.check_weights(where), models.block_linears(where), models.base_digest(where)

    return Case("places", files, read, HonedError)
