"""An adapter merged into a copy of the model that shares every tensor it does not change.

W + scaling * B A is computed once, in float32, so an adapter costs no extra time per token, and neither base nor
adapter is an approximation of itself: the base's tensors are never written to. The price is memory: one more copy
of each adapted weight (for the embedded model 14 MB per adapted block in float32, 142 MB for the top ten).
Switching layers on and off in one shared model was left out: it is global state inside a forward.
"""

import copy
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from policies.adapters import CONFIG, read_tensors
from store.errors import AdapterInvalid

PREFIX = "base_model.model."


def merged_copy(model: nn.Module, directory: Path) -> nn.Module:
    """The model with a verified adapter directory merged in; `model` itself is untouched.

    Raises:
        AdapterInvalid: it adapts modules this model has not, or of other shapes, or the result is not finite.
    """
    config = json.loads((directory / CONFIG).read_bytes())
    scaling = lora_scaling(config)
    tensors = read_tensors(directory)
    adapted = {
        name: merge(linear_of(model, name), factors, scaling=scaling, name=name)
        for name, factors in pairs_of(tensors).items()
    }
    shared: dict[int, Any] = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    config_object = getattr(model, "config", None)
    shared[id(config_object)] = config_object
    merged = copy.deepcopy(model, shared)
    for name, weight in adapted.items():
        merged.get_submodule(name).weight = nn.Parameter(weight, requires_grad=False)
    return merged


def lora_scaling(config: Mapping[str, Any]) -> float:
    """What multiplies B A: alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA."""
    rank, alpha = int(config["r"]), float(config["lora_alpha"])
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def pairs_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Module name -> (A (r, in), B (out, r)), from PEFT's keys."""
    names = sorted({key.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for key in tensors})
    try:
        return {
            name: (tensors[f"{PREFIX}{name}.lora_A.weight"], tensors[f"{PREFIX}{name}.lora_B.weight"])
            for name in names
        }
    except KeyError as error:
        raise AdapterInvalid(f"no weight {error}") from error


def linear_of(model: nn.Module, name: str) -> nn.Linear:
    """The linear layer of that name."""
    try:
        module = model.get_submodule(name)
    except AttributeError:
        module = None
    if not isinstance(module, nn.Linear):
        raise AdapterInvalid(f"the base model has no linear layer {name}")
    return module


def merge(linear: nn.Linear, factors: tuple[Tensor, Tensor], *, scaling: float, name: str) -> Tensor:
    """W + scaling * B A, rounded once to W's type."""
    weight = linear.weight
    down, up = (factor.to(weight.device, torch.float32) for factor in factors)
    if (up.shape[0], down.shape[1]) != tuple(weight.shape) or up.shape[1] != down.shape[0]:
        raise AdapterInvalid(
            f"{name}: B {tuple(up.shape)} A {tuple(down.shape)} does not fit {tuple(weight.shape)}"
        )
    merged = torch.addmm(weight.detach().float(), up, down, alpha=scaling)
    if not bool(torch.isfinite(merged).all()):
        raise AdapterInvalid(f"{name}: merged weights are not finite numbers")
    return merged.to(weight.dtype)
