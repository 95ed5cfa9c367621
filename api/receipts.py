"""Receipts: proof, given with an answer, that whoever holds it received that answer and may vote on it.

A browser keeps the receipt instead of a key (`api.signing`). It opens nothing but feedback on its own completion.
"""

from dataclasses import dataclass

from api.errors import Unauthorised
from api.signing import seal, unseal

PURPOSE = "honed receipt 1"


@dataclass(frozen=True, slots=True)
class Receipt:
    """`expires_at` in seconds since the epoch."""

    completion_id: str
    principal: str
    expires_at: float


def sign(receipt: Receipt, secret: bytes) -> str:
    fields = [receipt.completion_id, receipt.principal, int(receipt.expires_at)]
    return seal(fields, purpose=PURPOSE, secret=secret)


def verify(text: str, secret: bytes, *, now: float) -> Receipt:
    """Read a receipt back.

    Raises:
        Unauthorised: it was not signed by us, was changed, or is past its time.
    """
    fields = unseal(text, purpose=PURPOSE, secret=secret)
    if fields is None:
        raise Unauthorised("x-honed-receipt does not verify")
    receipt = Receipt(*fields)
    if receipt.expires_at <= now:
        raise Unauthorised("x-honed-receipt has expired")
    return receipt
