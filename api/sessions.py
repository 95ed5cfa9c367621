"""An operator's session in a browser: a signed cookie that names a key, and a token that its writes carry.

Nothing is kept here: the cookie holds the key's name, the beginning of its digest and its end. Taking the key out of
the keys file, or changing it, ends its sessions at the next start. The token ties a write to a page that we made:
the cookie is `SameSite=Strict` and other origins are refused already, and neither alone should have to hold.
"""

import hmac

from api.auth import Key
from api.errors import Unauthorised
from api.signing import seal, signature, unseal
from store.errors import Forbidden

COOKIE = "honed_session"
#: Where scripts of the pages put the token.
HEADER = "x-honed-csrf"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

PURPOSE = "honed session 1"
CSRF = "honed csrf 1"
#: Hex digits of a key's digest that its sessions remember.
DIGITS = 16


def begin(key: Key, secret: bytes, *, until: float) -> str:
    """The cookie's value for whoever showed this key."""
    return seal([key.name, key.sha256[:DIGITS], int(until)], purpose=PURPOSE, secret=secret)


def verify(text: str, keys: tuple[Key, ...], secret: bytes, *, now: float) -> Key:
    """The key that a cookie stands for.

    Raises:
        Unauthorised: it was not signed by us, is past its time, or its key is no key any more.
    """
    fields = unseal(text, purpose=PURPOSE, secret=secret)
    if fields is None:
        raise Unauthorised("the session does not verify: log in again")
    name, digest, until = fields
    if until <= now:
        raise Unauthorised("the session has ended: log in again")
    for key in keys:
        if key.name == name and hmac.compare_digest(key.sha256[:DIGITS], str(digest)):
            return key
    raise Unauthorised("the session's key is not known any more: log in again")


def token(text: str | None, secret: bytes) -> str:
    """What a write from a page of this session has to carry; an open service has one session, without a cookie."""
    return signature(text or "open", purpose=CSRF, secret=secret)


def require_token(given: str | None, text: str | None, secret: bytes) -> None:
    """
    Raises:
        Forbidden: the token is not this session's.
    """
    if not hmac.compare_digest((given or "").encode(), token(text, secret).encode()):
        raise Forbidden("this form is not of your session: load the page again and repeat")
