"""Adapter directories: written once, whole or not at all, and believed only after verification.

A directory holds exactly `adapter_model.safetensors`, `adapter_config.json` (PEFT's format, so that `PeftModel` and
vLLM load it unchanged) and `manifest.json`, written last. Verification needs neither the model nor PEFT, and no
format that can carry code is ever opened.
"""

import itertools
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from policies.spec import MANIFEST, verify_manifest, write_manifest
from policies.weights import Header, read_header
from store.errors import AdapterInvalid
from store.files import fsync_file, put_in_place, write_json
from store.reading import digest_of, read_bytes, read_object, told_as, validated

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
FILES = frozenset({WEIGHTS, CONFIG, MANIFEST})
#: Bytes of the weights at the most (a LoRA of rank 256 on a model of 70 billion parameters has fewer), and of a file
#: or header that describes them.
MOST_WEIGHTS, MOST_SMALL = 16 * 2**30, 2**20
#: Types of weights, by the format's names.
FLOATS = ("F32", "BF16", "F16")
#: Ranks and alphas beyond these nobody trains.
MOST_RANK, MOST_ALPHA = 4096, 1e6
#: Settings that add weights or code beyond plain LoRA on linear layers.
FORBIDDEN = (
    "alpha_pattern",
    "auto_mapping",
    "exclude_modules",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_dora",
    "use_rslora",
)
_KEY = re.compile(r"base_model\.model\.(?P<module>[\w.]+)\.lora_(?P<side>[AB])\.weight")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a LoRA adapts. `layers` None means every block."""

    rank: int
    alpha: float
    modules: tuple[str, ...]
    """Leaf names of linear layers, sorted."""
    layers: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """A verified adapter. Its update of each module is alpha / rank * B A."""

    rank: int
    alpha: float
    modules: tuple[str, ...]
    """Full module names, sorted."""
    layers: tuple[int, ...] | None
    digest: str

    @property
    def scaling(self) -> float:
        return self.alpha / self.rank


class _Config(BaseModel):
    """The settings read from adapter_config.json; others PEFT writes are its own affair."""

    model_config = ConfigDict(extra="ignore")

    peft_type: str
    r: int = Field(ge=1, le=MOST_RANK)
    lora_alpha: float = Field(gt=0, le=MOST_ALPHA, allow_inf_nan=False)
    target_modules: list[str] = Field(min_length=1)
    layers_to_transform: list[int] | None = None
    bias: str = "none"


_CONFIG = TypeAdapter(_Config)


def peft_config(shape: Shape, base: str) -> dict[str, Any]:
    """adapter_config.json for plain LoRA: only what differs from PEFT's defaults, or what readers ask for."""
    alpha = int(shape.alpha) if shape.alpha == int(shape.alpha) else shape.alpha
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": shape.rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": list(shape.modules),
        "layers_to_transform": None if shape.layers is None else list(shape.layers),
        "layers_pattern": None if shape.layers is None else "layers",
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
    }


def save_adapter(tensors: Mapping[str, Tensor], directory: Path, *, shape: Shape, base: str) -> str:
    """Publish an adapter directory at once, durably. Returns its digest (SHA-256 of its manifest).

    Args:
        tensors: PEFT key -> weights, as `AdapterInfo`'s keys.
        directory: must not exist.
        base: what `base_model_name_or_path` says.
    """
    temporary = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    plain = {key: tensor.detach().float().cpu().contiguous() for key, tensor in tensors.items()}
    save_file(plain, temporary / WEIGHTS, metadata={"format": "pt"})
    fsync_file(temporary / WEIGHTS)
    write_json(temporary / CONFIG, peft_config(shape, base))
    digest = write_manifest(temporary, [WEIGHTS, CONFIG])
    put_in_place(temporary, directory)
    return digest


def verify_adapter(directory: Path, digest: str) -> AdapterInfo:
    """Hold an adapter directory against its digest and against what a LoRA may be.

    Raises:
        AdapterInvalid: anything is missing, extra, different, not finite or not plain LoRA on linear layers.
    """
    _check_files(directory)
    with told_as(AdapterInvalid):
        # The digest first: of what is not the adapter that was trained nothing else is read.
        found = digest_of(directory / MANIFEST, most=MOST_SMALL)
        if found != digest:
            raise AdapterInvalid(f"{directory}: digest is {found}, not {digest}")
        verify_manifest(directory, most=MOST_WEIGHTS)
        manifest = read_object(directory / MANIFEST, most=MOST_SMALL)
        raw = read_object(directory / CONFIG, most=MOST_SMALL)
        config = validated(_CONFIG, read_bytes(directory / CONFIG, most=MOST_SMALL), directory / CONFIG)
        header = read_header(directory / WEIGHTS, most=MOST_SMALL)
    if set(manifest) != FILES - {MANIFEST}:
        raise AdapterInvalid(f"{directory}: {MANIFEST} must cover {WEIGHTS} and {CONFIG}")
    _check_config(directory, raw, config)
    modules = _check_shapes(directory, header, config)
    _check_finite(directory)
    layers = None if config.layers_to_transform is None else tuple(config.layers_to_transform)
    return AdapterInfo(config.r, config.lora_alpha, modules, layers, digest)


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """PEFT key -> weights. Trust them only after `verify_adapter`."""
    return load_file(directory / WEIGHTS)


def _check_files(directory: Path) -> None:
    if directory.is_symlink() or not directory.is_dir():
        raise AdapterInvalid(f"{directory} is not a directory")
    try:
        entries = list(itertools.islice(directory.iterdir(), len(FILES) + 1))
    except OSError as error:
        raise AdapterInvalid(f"{directory}: {error.strerror}") from error
    for entry in entries:
        if entry.name not in FILES or entry.is_symlink() or not entry.is_file():
            raise AdapterInvalid(f"{entry} has no place in an adapter")
    if missing := FILES - {entry.name for entry in entries}:
        raise AdapterInvalid(f"{directory}: {', '.join(sorted(missing))} missing")


def _check_config(directory: Path, raw: Mapping[str, Any], config: _Config) -> None:
    if config.peft_type != "LORA" or config.bias != "none":
        raise AdapterInvalid(f"{directory}: only LoRA without biases is served")
    if extra := [key for key in FORBIDDEN if raw.get(key)]:
        raise AdapterInvalid(f"{directory}: {', '.join(extra)} is not plain LoRA")


def _check_shapes(directory: Path, header: Header, config: _Config) -> tuple[str, ...]:
    """The modules that are adapted, from the header alone: what is no LoRA is not loaded."""
    sides: dict[str, set[str]] = {}
    for key, entry in header.tensors.items():
        match = _KEY.fullmatch(key)
        if match is None or match["module"].rsplit(".", 1)[-1] not in config.target_modules:
            raise AdapterInvalid(f"{directory}: {key} is not a LoRA weight of a target module")
        rank_axis = 0 if match["side"] == "A" else 1
        if len(entry.shape) != 2 or entry.shape[rank_axis] != config.r:
            raise AdapterInvalid(f"{directory}: {key} has shape {tuple(entry.shape)}, rank is {config.r}")
        if entry.dtype not in FLOATS:
            raise AdapterInvalid(
                f"{directory}: {key} is of type {entry.dtype}, not one of {', '.join(FLOATS)}"
            )
        sides.setdefault(match["module"], set()).add(match["side"])
    if not sides or any(found != {"A", "B"} for found in sides.values()):
        raise AdapterInvalid(f"{directory}: every module needs both A and B")
    if any(module.rsplit(".", 1)[-1] in ("lm_head", "embed_tokens") for module in sides):
        raise AdapterInvalid(f"{directory}: output head and embeddings are never adapted")
    return tuple(sorted(sides))


def _check_finite(directory: Path) -> None:
    try:
        tensors = read_tensors(directory)
    except (SafetensorError, ValueError, LookupError, OSError) as error:
        raise AdapterInvalid(f"{directory / WEIGHTS}: {error}") from error
    for key, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise AdapterInvalid(f"{directory}: {key} has values that are not finite numbers")
