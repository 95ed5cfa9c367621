"""The gate's bench, its faults: what can go wrong with a sound run's files, and in the engine that loads them.

A fault in files is done to a finished run before the service reads it, as after a restart. Some of them rewrite every
seal, as a bug in the trainer or somebody with write access would. A fault in the engine is the real engine whose
`load` does something else than it was asked for.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from policies import spec
from policies.adapters import CONFIG, WEIGHTS
from policies.engine import AdapterRef
from policies.hf_engine import HfEngine
from policies.train import SEALED
from store.errors import EngineUnavailable
from store.files import write_json

#: Standard deviation of what is added to the other base's weights, against their own.
OTHERNESS = 0.05
OTHER_SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def flip_bit(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def bit_flip(run: Path) -> None:
    flip_bit(run / spec.ADAPTER / WEIGHTS)


def cut_short(run: Path) -> None:
    path = run / spec.ADAPTER / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1024])


def nan(run: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        next(iter(tensors.values()))[0, 0] = float("nan")

    change_weights(run, change)


def huge(run: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[last_up(tensors)] *= 1000

    change_weights(run, change)


def last_up(tensors: Mapping[str, Tensor]) -> str:
    return max(key for key in tensors if ".lora_B." in key)


def change_weights(run: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    path = run / spec.ADAPTER / WEIGHTS
    tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    reseal(run)


def louder(run: Path) -> None:
    path = run / spec.ADAPTER / CONFIG
    raw = TypeAdapter(dict[str, Any]).validate_json(path.read_bytes())
    write_json(path, {**raw, "lora_alpha": 1.5 * raw["lora_alpha"]})
    reseal(run)


def reseal(run: Path) -> None:
    """Make every manifest and the report's digest fit what is there now."""
    digest = spec.write_manifest(run / spec.ADAPTER, [WEIGHTS, CONFIG])
    report = spec.Report.model_validate_json((run / spec.REPORT).read_bytes())
    changed = report.model_copy(update={"adapter_digest": digest})
    write_json(run / spec.REPORT, changed.model_dump(mode="json"))
    spec.write_manifest(run, list(SEALED))


#: Done to a finished run directory.
FILES: dict[str, Callable[[Path], None]] = {
    "bit_flip": bit_flip,
    "cut_short": cut_short,
    "nan": nan,
    "huge": huge,
    "louder": louder,
}


class FlipsAtLoad(HfEngine):
    """The disk goes bad between the gate and the load."""

    async def load(self, adapter: AdapterRef) -> None:
        flip_bit(adapter.path / WEIGHTS)
        await super().load(adapter)


class NeverApplies(HfEngine):
    """A new version answers with the base's weights."""

    async def load(self, adapter: AdapterRef) -> None:
        assert self._base is not None
        decoder = self._base.decoder
        await self._call(lambda: self._publish(adapter.version, decoder))


class AppliesHalf(HfEngine):
    """A new version gets the adapter's matrices in every second module only, as an engine that passes over what it
    does not know."""

    async def load(self, adapter: AdapterRef) -> None:
        half = adapter.path.with_name("half")
        shutil.copytree(adapter.path, half)
        tensors = load_file(half / WEIGHTS)
        for key in sorted(key for key in tensors if ".lora_B." in key)[::2]:
            tensors[key] = torch.zeros_like(tensors[key])
        save_file(tensors, half / WEIGHTS, metadata={"format": "pt"})
        digest = spec.write_manifest(half, [WEIGHTS, CONFIG])
        await super().load(replace(adapter, path=half, digest=digest))


class KeepsPrevious(HfEngine):
    """A second version answers with what the first one had: a cache that was not emptied."""

    first: AdapterRef | None = None

    async def load(self, adapter: AdapterRef) -> None:
        self.first = self.first or adapter
        await super().load(replace(self.first, version=adapter.version))


class GoneAtLoad:
    """Any engine, gone when an adapter is to be loaded: it ends an iteration between gate and attestation."""

    def __init__(self, engine: HfEngine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def load(self, adapter: AdapterRef) -> None:
        raise EngineUnavailable(f"gone before {adapter.version} was loaded")


#: Engines to be used instead of the sound one.
ENGINES: dict[str, type[HfEngine]] = {
    "bit_flip_at_load": FlipsAtLoad,
    "never_applied": NeverApplies,
    "applies_half": AppliesHalf,
    "keeps_previous": KeepsPrevious,
}


def write_other_base(model: Path, target: Path) -> Path:
    """A copy of the base whose weights are a little different; made once."""
    if not (target / "config.json").is_file():
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(model, temporary)
        generator = torch.Generator().manual_seed(0)
        for path in temporary.glob("*.safetensors"):
            tensors = load_file(path)
            for tensor in tensors.values():
                if tensor.ndim == 2:
                    noise = torch.randn(tensor.shape, generator=generator)
                    tensor += OTHERNESS * float(tensor.std()) * noise
            save_file(tensors, path, metadata={"format": "pt"})
        temporary.rename(target)
    return target


def write_other_model(model: Path, target: Path) -> Path:
    """A random model of another width with the base's tokenizer; made once."""
    if not (target / "config.json").is_file():
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        config = AutoConfig.from_pretrained(model)
        for name, value in OTHER_SHAPE.items():
            setattr(config, name, value)
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(temporary)
        AutoTokenizer.from_pretrained(model).save_pretrained(temporary)
        temporary.rename(target)
    return target


#: Models that are not the engine's base: what trained in its place, or what serves in the trainer's place.
MODELS: dict[str, Callable[[Path, Path], Path]] = {
    "other_base": write_other_base,
    "other_model": write_other_model,
}
