"""Packed layers say what plain ones do, whichever weights they take."""

import pytest
import torch
from torch import nn

from policies.packing import THIN, Mode, PackedLinear, Table, packed


def layers(*sizes: tuple[int, int], bias: bool = False) -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(inner, out, bias=bias) for inner, out in sizes]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1,), (1, 1), (2, 1), (1, 3), (5, 1)])
@pytest.mark.parametrize("plain", [False, True])
def test_both_ways_say_what_the_layers_say(plain: bool, shape: tuple[int, ...], bias: bool) -> None:
    table = Table(mode=Mode(plain=plain))
    for asked in (layers((48, 20), bias=bias), layers((48, 20), (48, 4), (48, 4), bias=bias)):
        with torch.inference_mode():
            rows = torch.randn(*shape, 48)
            found = packed(asked, table)(rows)
            wanted = torch.cat([layer(rows) for layer in asked], dim=-1)
        assert found.shape == wanted.shape and found.is_contiguous()
        assert torch.allclose(found, wanted, atol=1e-6)


def test_rows_that_are_no_slice_of_memory() -> None:
    layer = packed(layers((48, 20)), Table(mode=Mode(plain=True)))
    with torch.inference_mode():
        rows = torch.randn(48, 2).t()
        assert torch.allclose(layer(rows), layer.packed(rows), atol=1e-6)


def test_few_rows_take_the_plain_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    plain = PackedLinear.plain
    monkeypatch.setattr(
        PackedLinear, "plain", lambda self, rows: taken.append(rows.shape[0]) or plain(self, rows)
    )
    table = Table(mode=Mode(plain=True))
    base, adapter = packed(layers((48, 20)), table), packed(layers((48, 20)), table.fork())
    with torch.inference_mode():
        for count in range(1, THIN + 3):
            base(torch.randn(count, 48))
        assert taken == list(range(1, THIN + 1))
        adapter(torch.randn(1, 48))
        assert taken.pop() == 1
        table.mode.plain = False
        base(torch.randn(1, 48))
        adapter(torch.randn(1, 48))
    assert len(taken) == THIN
