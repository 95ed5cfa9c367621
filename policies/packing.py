"""Linear layers in the layouts a CPU multiplies fastest, for decoding.

Decoding multiplies a few rows (one per answer) by every weight. torch's default matrix product is poor at that shape:
with weights packed once by oneDNN, eight rows take half to a quarter of the time (docs/performance.md). For one or
two rows MKL's product of the plain weight with the rows' transpose can be faster still, and for one row only where it
is given twice: which way to go is the caller's to find out (`policies.pace`). The numbers are the same float32
products summed in another order.

Memory: the packed weights are a copy. The plain ones of the base stay mapped from their file, and the system may take
those pages back; an adapter's merged layers have both.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

#: Rows the layout is chosen for. It serves other counts too.
ROWS = 8
#: The most rows that plain weights are asked for. For three the packed ones take four fifths of their time with one
#: thread, and about as long with two (docs/log.md).
THIN = 2


@dataclass
class Mode:
    """How layers multiply from now on."""

    plain: bool = False
    """Up to `THIN` rows by the plain weights."""


class PackedLinear(nn.Module):
    """x W^T + b with W packed. Stateless in use, so models share it."""

    def __init__(self, weights: Sequence[Tensor], bias: Tensor | None, mode: Mode) -> None:
        """
        Args:
            weights: of layers that read the same states, [out, in] each; kept, and not changed.
            bias: of all of them, one after the other.
            mode: which whoever computes may change between two forwards.
        """
        super().__init__()
        weight = weights[0] if len(weights) == 1 else torch.cat(list(weights))
        self.out_features, self.in_features = weight.shape
        # Plain attributes: a packed tensor can be neither copied nor saved as a buffer is.
        self._packed = [torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)]
        self._plain = [one.detach() for one in weights]
        self._bias, self._mode = bias, mode

    def forward(self, rows: Tensor) -> Tensor:
        if self._mode.plain and rows.numel() <= THIN * self.in_features:
            return self.plain(rows)
        return self.packed(rows)

    def packed(self, rows: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._packed[0], self._bias, "none", [], "")
        return result

    def plain(self, rows: Tensor) -> Tensor:
        flat = rows.reshape(-1, self.in_features)
        # One row alone would be a product of a matrix and a vector: MKL takes longer for that than for two rows.
        turned = (torch.cat((flat, flat)) if len(flat) == 1 else flat).t()
        parts = [torch.mm(weight, turned).t()[: len(flat)] for weight in self._plain]
        result = torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0].contiguous()
        if self._bias is not None:
            result += self._bias
        return result.view(*rows.shape[:-1], self.out_features)


@dataclass
class Table:
    """Packed layers by the ids of the plain weights they hold, which live as long as the table."""

    layers: dict[tuple[int, ...], PackedLinear] = field(default_factory=dict)
    mode: Mode = field(default_factory=Mode)

    def fork(self) -> "Table":
        """A table that begins with these layers, shares their mode, and goes its own way."""
        return replace(self, layers=dict(self.layers))


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
        known: layers met for the first time are added, so hand over the base's table (or a fork of it) when packing
            an adapter's merge.
    """
    key = tuple(id(linear.weight) for linear in linears)
    if key not in known.layers:
        biased = any(linear.bias is not None for linear in linears)
        bias = torch.cat([bias_of(linear) for linear in linears]) if biased else None
        known.layers[key] = PackedLinear([linear.weight for linear in linears], bias, known.mode)
    return known.layers[key]


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
