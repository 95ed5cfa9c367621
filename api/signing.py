"""Small facts that a client keeps for us and cannot change: `payload.signature`, both URL-safe base64.

The signature is an HMAC-SHA-256 over the payload and its purpose, so that what was signed for one purpose opens
nothing else.
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Any


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signature(payload: str, *, purpose: str, secret: bytes) -> str:
    return _encode(hmac.digest(secret, f"{purpose}\n{payload}".encode(), hashlib.sha256))


def seal(fields: Sequence[Any], *, purpose: str, secret: bytes) -> str:
    """Fields (plain JSON values) as a text that `unseal` with the same purpose and secret reads."""
    payload = _encode(json.dumps(fields, separators=(",", ":")).encode())
    return f"{payload}.{signature(payload, purpose=purpose, secret=secret)}"


def unseal(text: str, *, purpose: str, secret: bytes) -> list[Any] | None:
    """The fields; None where it was not signed by us for this, or was changed."""
    payload, _, given = text.partition(".")
    if not text.isascii() or not hmac.compare_digest(
        given, signature(payload, purpose=purpose, secret=secret)
    ):
        return None
    try:
        fields = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    return fields if isinstance(fields, list) else None
