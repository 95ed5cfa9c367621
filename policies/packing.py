"""Linear layers in the layout oneDNN multiplies fastest, for decoding on a CPU.

Decoding multiplies a few rows (one per answer) by every weight. torch's default matrix product is poor at that shape:
with weights packed once by oneDNN, eight rows take half to a quarter of the time (docs/performance.md).
The numbers are the same float32 products summed in another order.

Memory: the packed weights are a copy. The plain ones stay mapped from their file, untouched unless an adapter is
merged, so the system may take those pages back.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from policies.adapters import verify_adapter
from policies.engine import AdapterRef
from policies.merging import merged_copy
from store.errors import EngineUnavailable

#: Rows the layout is chosen for. It serves other counts too.
ROWS = 8


class PackedLinear(nn.Module):
    """x W^T + b with W packed. Stateless in use, so models share it."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        # A plain attribute: a packed tensor can be neither copied nor saved as a buffer is.
        self._packed = [torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)]
        self._bias = bias

    def forward(self, rows: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._packed[0], self._bias, "none", [], "")
        return result


def worth_packing(model: Any) -> bool:
    """Whether this machine and these weights gain from it."""
    weight = next(model.parameters())
    return bool(
        weight.device.type == "cpu" and weight.dtype is torch.float32 and torch.backends.mkldnn.is_available()
    )


def packed_copy(model: Any, known: dict[int, PackedLinear]) -> Any:
    """The same model with its linear layers packed; everything else, and layers packed before, are shared.

    Args:
        model: plain; not changed.
        known: id of a plain weight -> its packed layer. Layers met for the first time are added, so hand over the
            base's table (or a copy of it) when packing an adapter's merge.
    """
    shared: dict[int, Any] = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    result = copy.deepcopy(model, shared)
    for name, module in list(result.named_modules()):
        if not isinstance(module, nn.Linear):
            continue
        key = id(module.weight)
        if key not in known:
            known[key] = PackedLinear(module.weight, module.bias)
        parent, _, leaf = name.rpartition(".")
        setattr(result.get_submodule(parent), leaf, known[key])
    return result


class Base:
    """The base model: its plain weights, which adapters are merged with, and the form it decodes in."""

    def __init__(self, plain: Any) -> None:
        self.plain = plain
        self.packed: dict[int, PackedLinear] | None = {} if worth_packing(plain) else None
        self.decoder = plain if self.packed is None else packed_copy(plain, self.packed)


@torch.no_grad()
def verified_copy(base: Base | None, adapter: AdapterRef) -> Any:
    """The base with an adapter merged in, in the form it decodes in; its files are verified first.

    Raises:
        EngineUnavailable: there is no base yet.
        AdapterInvalid: the files do not verify, or do not fit this base.
    """
    if base is None:
        raise EngineUnavailable("the engine is not running")
    verify_adapter(adapter.path, adapter.digest)
    model = merged_copy(base.plain, adapter.path)
    # A copy of the table: this adapter's own layers must go when it goes.
    return model if base.packed is None else packed_copy(model, dict(base.packed))
