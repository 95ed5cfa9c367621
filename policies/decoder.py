"""Which form of the model decodes: the base, and an adapter merged into it."""

from typing import Any

import torch

from policies import lean
from policies.adapters import verify_adapter
from policies.engine import AdapterRef
from policies.forward import Forward, Whole
from policies.merging import merged_copy
from policies.pace import Way
from policies.packing import THIN, Table, packed_copy, worth_packing
from store.errors import EngineUnavailable


class Base:
    """The base model: its plain weights, which adapters are merged with, and the form it decodes in."""

    def __init__(self, plain: Any) -> None:
        self.plain = plain
        self.packed: Table | None = Table() if worth_packing(plain) else None
        self.decoder = decoder(plain, self.packed)

    @property
    def thin(self) -> int:
        """Up to so many rows there is a choice of weights."""
        return 0 if self.packed is None else THIN

    def go(self, way: Way) -> None:
        """Compute in this way from now on."""
        torch.set_num_threads(way.threads)
        if self.packed is not None:
            self.packed.mode.plain = way.plain


def decoder(model: Any, known: Table | None) -> Forward:
    """The form a plain model decodes fastest in.

    Args:
        model: plain; only read.
        known: as in `policies.packing.packed`; None where packing is not worth it.
    """
    if known is None:
        return Whole(model)
    return lean.Lean(model, known) if lean.fits(model) else Whole(packed_copy(model, known))


@torch.no_grad()
def verified_decoder(base: Base | None, adapter: AdapterRef) -> Forward:
    """The base with an adapter merged in, in the form it decodes in; its files are verified first.

    Raises:
        EngineUnavailable: there is no base yet.
        AdapterInvalid: the files do not verify, or do not fit this base.
    """
    if base is None:
        raise EngineUnavailable("the engine is not running")
    verify_adapter(adapter.path, adapter.digest)
    # A copy of the table: this adapter's own layers must go when it goes.
    return decoder(merged_copy(base.plain, adapter.path), None if base.packed is None else base.packed.fork())
