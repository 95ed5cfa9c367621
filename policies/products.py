"""The trainer's matrix products: with frozen weights packed by oneDNN on a CPU, and a LoRA as part of its layer's.

torch's default product of some hundred rows with a weight of this size does 95 GFLOP/s a core, the packed one 110
(docs/log.md). A frozen weight never changes, so it is packed once for x W' and once for the gradient's g W. A LoRA's
share is added to its layer's product in place, where PEFT makes, scales and adds tensors of the output's size.

The numbers are the same sums in another order. `Fast` can be switched off, and then the model is PEFT's own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

from policies.mapped import give_back
from policies.packing import ROWS, worth_packing


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    return packed


def _packed_product(rows: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")
    return result


class Product:
    """Products with one frozen weight (n, m). No gradient goes through them by itself.

    Args:
        packed: make packed copies of the weight, the second for `backward`; else torch's own products are used.
        backward: whether many gradients will come; a packed product without such a copy takes them the plain way.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, packed: bool, backward: bool = False) -> None:
        self.weight = weight.detach()
        self.bias = None if bias is None else bias.detach()
        self._forward = _pack(self.weight) if packed else None
        self._backward = _pack(self.weight.t().contiguous()) if packed and backward else None

    def forward(self, rows: Tensor) -> Tensor:
        """rows W' + b: (N, m) -> (N, n)."""
        if self._forward is None:
            return nn.functional.linear(rows, self.weight, self.bias)
        return _packed_product(rows, self._forward, self.bias)

    def backward(self, gradients: Tensor) -> Tensor:
        """gradients W: (N, n) -> (N, m)."""
        if self._backward is None:
            return gradients @ self.weight
        return _packed_product(gradients, self._backward, None)


class _Frozen(torch.autograd.Function):
    """x W' + b, with the gradient to x."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, product: Product) -> Tensor:
        ctx.product = product
        return product.forward(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.product.backward(gradients[0]), None


class _WithLora(torch.autograd.Function):
    """y = x W' + b + s x A' B' for a frozen W, with the gradients to x, A and B.

    dA = s (g B)' x, dB = s g' (x A'), dx = g W + s (g B) A.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, a: Tensor, b: Tensor, scale: float, product: Product) -> Tensor:
        out = product.forward(rows)
        low = rows @ a.t()
        out.addmm_(low, b.t(), alpha=scale)
        ctx.save_for_backward(rows, low, a, b)
        ctx.scale, ctx.product = scale, product
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        rows, low, a, b = ctx.saved_tensors
        gradient = gradients[0]
        back = (gradient @ b).mul_(ctx.scale)
        to_rows = None
        if ctx.needs_input_grad[0]:
            to_rows = ctx.product.backward(gradient).addmm_(back, a)
        return to_rows, back.t() @ rows, (gradient.t() @ low).mul_(ctx.scale), None, None


def lora_linear(layer: LoraLinear, name: str, product: Product) -> Callable[[Tensor], Tensor]:
    """What a LoRA layer computes, as one operation. Scale and whether it is off are looked up at each call."""
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight

    def forward(values: Tensor) -> Tensor:
        rows = values.reshape(-1, values.shape[-1])
        if layer.disable_adapters:
            out = _Frozen.apply(rows, product)
        else:
            out = _WithLora.apply(rows, a, b, layer.scaling[name], product)
        result: Tensor = out.view(*values.shape[:-1], out.shape[-1])
        return result

    return forward


def frozen_linear(product: Product) -> Callable[[Tensor], Tensor]:
    """What a frozen layer computes."""

    def forward(values: Tensor) -> Tensor:
        out = _Frozen.apply(values.reshape(-1, values.shape[-1]), product)
        result: Tensor = out.view(*values.shape[:-1], out.shape[-1])
        return result

    return forward


class Fast:
    """A PEFT model's linear layers under the head, computed as above where that is worth it.

    The plain weights stay where they are, mapped from their file; their pages are handed back until they are needed.

    Attributes:
        packed: whether it is: a CPU, float32, oneDNN. Elsewhere the model stays as PEFT made it.
    """

    def __init__(self, model: Any, name: str) -> None:
        self.packed = worth_packing(model)
        self._forwards: dict[nn.Module, Callable[[Tensor], Tensor]] = {}
        if not self.packed:
            return
        inner = model.get_base_model().base_model
        adapted = [module for module in inner.modules() if isinstance(module, LoraLinear)]
        within = {part for module in adapted for part in module.modules()}
        plain = [part for part in inner.modules() if type(part) is nn.Linear and part not in within]
        for module in adapted:
            base = module.get_base_layer()
            product = Product(base.weight, base.bias, packed=True, backward=True)
            self._forwards[module] = lora_linear(module, name, product)
        for layer in plain:
            self._forwards[layer] = frozen_linear(Product(layer.weight, layer.bias, packed=True))
        give_back([layer.weight for layer in (*plain, *(module.get_base_layer() for module in adapted))])
        self._switch(on=True)

    def _switch(self, *, on: bool) -> None:
        for module, forward in self._forwards.items():
            if on:
                module.forward = forward  # an instance's own, over its class's
            else:
                del module.forward

    @contextmanager
    def off(self) -> Iterator[None]:
        """The model as PEFT made it, for a while."""
        self._switch(on=False)
        try:
            yield
        finally:
            self._switch(on=True)
