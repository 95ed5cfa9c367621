"""Linear layers in the layout oneDNN multiplies fastest, for decoding on a CPU.

Decoding multiplies a few rows (one per answer) by every weight. torch's default matrix product is poor at that shape:
with weights packed once by oneDNN, eight rows take half to a quarter of the time (docs/performance.md).
The numbers are the same float32 products summed in another order.

Memory: the packed weights are a copy. The plain ones stay mapped from their file, untouched unless an adapter is
merged, so the system may take those pages back.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

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


#: Packed layers by the ids of the plain weights they hold, which must outlive the table.
Table = dict[tuple[int, ...], PackedLinear]


def worth_packing(model: Any) -> bool:
    """Whether this machine and these weights gain from it."""
    weight = next(model.parameters())
    return bool(
        weight.device.type == "cpu" and weight.dtype is torch.float32 and torch.backends.mkldnn.is_available()
    )


def packed(linears: Sequence[Any], known: Table) -> PackedLinear:
    """Linear layers that read the same states, as one: their outputs one after the other.

    Args:
        linears: plain layers; not changed.
        known: ids of plain weights -> their packed layer. Layers met for the first time are added, so hand over the
            base's table (or a copy of it) when packing an adapter's merge.
    """
    key = tuple(id(linear.weight) for linear in linears)
    if key not in known:
        weight = torch.cat([linear.weight.detach() for linear in linears])
        biased = any(linear.bias is not None for linear in linears)
        known[key] = PackedLinear(
            weight, torch.cat([bias_of(linear) for linear in linears]) if biased else None
        )
    return known[key]


def bias_of(linear: Any) -> Tensor:
    """A layer's bias, noughts where it has none."""
    return linear.weight.new_zeros(len(linear.weight)) if linear.bias is None else linear.bias.detach()


def packed_copy(model: Any, known: Table) -> Any:
    """The same model with its linear layers packed; everything else, and layers packed before, are shared.

    Args:
        model: plain; not changed.
        known: as in `packed`.
    """
    shared: dict[int, Any] = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    result = copy.deepcopy(model, shared)
    for name, module in list(result.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, leaf = name.rpartition(".")
            setattr(result.get_submodule(parent), leaf, packed([module], known))
    return result
