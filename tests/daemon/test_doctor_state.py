"""Each thing that can be wrong is found, said, and comes with what to do about it."""

import importlib.metadata
import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from api.auth import add_key
from daemon import doctor, doctor_state
from daemon.config import Config
from daemon.state_files import DATABASE, SECRET, SERVICE
from policies.adapters import Shape, save_adapter
from store import db
from store.db import Store
from store.records import Adapter, AdapterStatus
from tests.store.conftest import completion


def config(directory: Path, **sections: Any) -> Config:
    engine = {"kind": "fake", "model": "bundled:smollm2-135m-instruct"}
    policies = {"engine": engine, **sections.pop("policies", {})}
    return Config.model_validate({"store": {"directory": directory}, "policies": policies, **sections})


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory as a service leaves it."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / SECRET).write_bytes(b"x" * 32)
    (state / SECRET).chmod(0o600)
    with Store.open(state / DATABASE) as store:
        store.completions.begin(completion("c1"))
        store.audit.add(actor="ann", action="note", subject="x", reason="why")
    return state


def found(config: Config, name: str) -> dict[str, Any]:
    (one,) = (row for row in doctor.examine(config) if row["name"] == name)
    return one


def refused(row: dict[str, Any], detail: str, remedy: str) -> None:
    assert not row["ok"] and detail in row["detail"] and remedy in row["remedy"], row


def test_a_sound_installation_has_no_findings(state: Path) -> None:
    rows = doctor.examine(config(state, api={"port": 0}, policies={"train": {"free_memory_mb": 1}}))
    assert [row for row in rows if not row["ok"]] == []
    assert {
        "python",
        "sqlite",
        "torch",
        "disk",
        "state",
        "database",
        "audit log",
        "clock",
        "adapters",
        "model",
    } <= {row["name"] for row in rows}


def test_versions_are_held_against_what_honed_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    told = {"torch": "2.13.1", "peft": "0.20.9"}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: told.get(name) or real(name))
    rows = {row["name"]: row for row in doctor.packages()}
    refused(rows["torch"], "2.13.1, and honed wants", "make install")
    refused(rows["peft"], "0.20.9, and honed wants", "make install")
    assert rows["fastapi"]["ok"] and "pytest" not in rows

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert all("not installed" in row["detail"] for row in doctor.packages())


def test_an_old_sqlite_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "SQLITE", (3, 34, 1))
    refused(doctor.sqlite(), "3.34.1", "3.38.0 or newer")


def test_a_full_disk_is_found(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 10**12 - 10**6, 10**6)
    )
    refused(found(config(state), "disk"), "0.0 GiB free", "store.directory")


def test_a_folder_that_cannot_be_written_is_found(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused(found(config(state), "permissions"), "not writable", "chown or chmod")


@pytest.mark.parametrize(("name", "file"), [("state", "."), ("receipt key", SECRET)])
def test_what_others_may_read_is_found(state: Path, name: str, file: str) -> None:
    (state / file).chmod(0o755)
    refused(found(config(state), name), "open to other users (mode 0755)", "chmod")


def test_the_file_of_keys_is_read_and_its_mode_looked_at(state: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    chosen = config(state, api={"keys_file": keys})
    refused(found(chosen, "keys"), "keys.toml", "honed key")
    add_key(keys, "ann", ["chat"])
    assert found(chosen, "keys")["detail"] == f"1 in {keys}"
    keys.chmod(0o640)
    refused(found(chosen, "keys"), "mode 0640", "chmod 600")
    keys.write_text("[[key]]\nname = 'ann'\n")
    refused(found(chosen, "keys"), "sha256", "honed key")


def test_a_database_that_is_none_is_found(state: Path) -> None:
    (state / DATABASE).write_bytes(b"nothing of the kind" * 400)
    refused(found(config(state), "database"), "database", "restore a backup")


def test_a_clock_that_was_set_back_is_found(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_000_000_000.0)
    refused(found(config(state), "clock"), "behind what was recorded", "NTP")


def add_adapter(state: Path, status: AdapterStatus) -> Path:
    key = "base_model.model.model.layers.2.self_attn.q_proj"
    tensors = {f"{key}.lora_A.weight": torch.ones(2, 5), f"{key}.lora_B.weight": torch.zeros(7, 2)}
    shape = Shape(rank=2, alpha=3.0, modules=("q_proj",), layers=(2,))
    (state / "iterations" / "0001").mkdir(parents=True)
    digest = save_adapter(tensors, state / "iterations" / "0001" / "adapter", shape=shape, base="base")
    with Store.open(state / DATABASE) as store:
        begun = store.iterations.begin(trigger="test", incumbent=None, config={})
        path = Path("iterations/0001/adapter")
        store.adapters.add(Adapter("it1", None, begun.id, path, digest, AdapterStatus.CANDIDATE, 1.0, 1.0))
        store.adapters.mark("it1", status)
    return state / path


def test_an_adapter_that_was_changed_is_found_where_it_may_be_served(state: Path) -> None:
    folder = add_adapter(state, AdapterStatus.HELD)
    assert "1 that may be served" in found(config(state), "adapters")["detail"]
    (folder / "adapter_config.json").write_text("{}")
    refused(found(config(state), "adapter it1"), "differs", "backup")
    with Store.open(state / DATABASE) as store:
        store.adapters.mark("it1", AdapterStatus.RETIRED)
    assert found(config(state), "adapters")["ok"]


def model_at(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    return folder


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
        (lambda folder: os.truncate(folder / "model.safetensors", 70), "bytes long"),
        (lambda folder: os.truncate(folder / "model.safetensors", 20), "its header would be"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"version https://git-lfs"), "header"),
    ],
)
def test_a_missing_or_damaged_model_is_found(
    state: Path, tmp_path: Path, harm: Callable[[Path], object], said: str
) -> None:
    folder = model_at(tmp_path / "model")
    chosen = config(state, policies={"engine": {"kind": "fake", "model": str(folder)}})
    assert "0 MiB of weights" in found(chosen, "model")["detail"]
    harm(folder)
    refused(found(chosen, "model"), said, "model")


def test_too_little_memory_is_found(state: Path) -> None:
    chosen = config(state, policies={"train": {"free_memory_mb": 10**9}})
    refused(found(chosen, "memory"), "are free and policies.train.free_memory_mb asks", "free_memory_mb")


def test_a_gpu_that_does_not_tell_is_found(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho 12\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(smi.parent), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    refused(found(config(state), "memory"), "only 12 MiB on the GPU are free", "free_memory_mb")


def test_a_taken_port_is_found_and_ones_own_service_is_not(state: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        chosen = config(state, api={"port": taken.getsockname()[1]})
        refused(found(chosen, "port"), "in use", "api.port")
        (state / SERVICE).write_text(json.dumps({"pid": os.getpid(), "url": "http://127.0.0.1:1"}))
        assert "a service runs at http://127.0.0.1:1" in found(chosen, "port")["detail"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"pid": 1e99, "url": ""}', '{"pid": 99999999, "url": ""}', "null"]
)
def test_a_service_file_that_says_nothing_is_no_service(state: Path, text: str) -> None:
    (state / SERVICE).write_text(text)
    assert doctor_state.service(state) is None


def test_an_address_that_no_judge_has_is_found(state: Path) -> None:
    external = {"url": "http://169.254.169.254/v1", "model": "m"}
    chosen = config(state, judge={"scorers": ["external"], "external": external})
    refused(found(chosen, "judge"), "169.254.169.254", "judge.external")
    fine = {"url": "http://127.0.0.1:9/v1", "model": "m"}
    assert found(config(state, judge={"scorers": ["external"], "external": fine}), "judge")["ok"]
