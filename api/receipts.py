"""Receipts: proof, given with an answer, that whoever holds it received that answer and may vote on it.

A browser keeps the receipt instead of a key. It is `payload.signature`, both URL-safe base64, the signature an
HMAC-SHA-256 over the payload. It opens nothing but feedback on its own completion.
"""

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import dataclass

from api.errors import Unauthorised


@dataclass(frozen=True, slots=True)
class Receipt:
    """`expires_at` in seconds since the epoch."""

    completion_id: str
    principal: str
    expires_at: float


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _signature(payload: str, secret: bytes) -> str:
    return _encode(hmac.digest(secret, b"honed receipt 1\n" + payload.encode(), hashlib.sha256))


def sign(receipt: Receipt, secret: bytes) -> str:
    fields = [receipt.completion_id, receipt.principal, int(receipt.expires_at)]
    payload = _encode(json.dumps(fields, separators=(",", ":")).encode())
    return f"{payload}.{_signature(payload, secret)}"


def verify(text: str, secret: bytes, *, now: float) -> Receipt:
    """Read a receipt back.

    Raises:
        Unauthorised: it was not signed by us, was changed, or is past its time.
    """
    payload, _, signature = text.partition(".")
    if not text.isascii() or not hmac.compare_digest(signature, _signature(payload, secret)):
        raise Unauthorised("x-honed-receipt does not verify")
    try:
        fields = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (binascii.Error, ValueError) as error:
        raise Unauthorised("x-honed-receipt does not verify") from error
    receipt = Receipt(*fields)
    if receipt.expires_at <= now:
        raise Unauthorised("x-honed-receipt has expired")
    return receipt
