"""Who is asking, and what they may do.

Open mode (no keys file) is for one's own machine: everybody has every scope, and names only tell people apart.
Keyed mode knows keys by their SHA-256 only, so the file is no secret worth stealing. Browsers may send the key as
the password of HTTP Basic, which they remember without a cookie or a script that handles secrets.
"""

import base64
import binascii
import errno
import hashlib
import hmac
import os
import secrets
import stat
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.errors import Unauthorised
from store.errors import ConfigError, Forbidden, HonedError, Invalid
from store.files import write_durably
from store.reading import first_problem, read_bytes

Scope = Literal["chat", "feedback", "operate"]
SCOPES: frozenset[Scope] = frozenset(("chat", "feedback", "operate"))
LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))


@dataclass(frozen=True, slots=True)
class Principal:
    name: str
    scopes: frozenset[Scope]

    def require(self, scope: Scope) -> None:
        """Raises Forbidden without the scope."""
        if scope not in self.scopes:
            raise Forbidden(f"this key has no scope {scope!r}; it has {sorted(self.scopes)}")


class Key(BaseModel):
    """One `[[key]]` table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_.@-]{1,64}$")
    """Who holds it; recorded as the principal of what it asks."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Hex digest of the key: `printf %s KEY | sha256sum`."""
    scopes: frozenset[Scope] = Field(min_length=1)
    """What it opens: chat, feedback, operate."""
    requests_per_minute: int | None = Field(default=None, ge=0)
    """Instead of `api.requests_per_minute`; 0: any number."""


class KeysFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    key: tuple[Key, ...] = Field(min_length=1)


def load_keys(path: Path) -> tuple[Key, ...]:
    """Read a keys file.

    Raises:
        ConfigError: it cannot be read, is not TOML, holds no keys or one that is not allowed.
    """
    try:
        keys = KeysFile.model_validate(tomllib.loads(read_bytes(path).decode())).key
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error)}", param="api.keys_file") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply", param="api.keys_file") from None
    except (HonedError, ValueError) as error:  # TOML has numbers that are too long for Python
        raise ConfigError(f"{path}: {error}", param="api.keys_file") from error
    if len({key.name for key in keys}) < len(keys):
        raise ConfigError(f"{path}: two keys have the same name", param="api.keys_file")
    return keys


def add_key(path: Path, name: str, scopes: Collection[str], *, requests_per_minute: int | None = None) -> str:
    """Make a key and add its digest to a keys file, which is made if need be. Returns the key; nothing keeps it.

    Raises:
        Invalid: the name or a scope is not allowed, or the name is taken.
        ConfigError: the file cannot be read or written.
    """
    made = f"honed-{secrets.token_urlsafe(32)}"
    values = {"name": name, "sha256": hashlib.sha256(made.encode()).hexdigest(), "scopes": frozenset(scopes)}
    try:
        key = Key.model_validate({**values, "requests_per_minute": requests_per_minute})
    except ValidationError as error:
        first = error.errors()[0]
        raise Invalid(f"{first['loc'][0]}: {first['msg']}", param=str(first["loc"][0])) from error
    known = load_keys(path) if path.exists() else ()
    if any(one.name == name for one in known):
        raise Invalid(f"{path} has a key of {name} already; take it out first", param="name")
    table = f'[[key]]\nname = "{key.name}"\nsha256 = "{key.sha256}"\nscopes = {sorted(key.scopes)}\n'.replace(
        "'", '"'
    )
    if requests_per_minute is not None:
        table += f"requests_per_minute = {requests_per_minute}\n"
    try:
        before = path.read_text(encoding="utf-8").rstrip("\n") + "\n\n" if known else ""
        tomllib.loads(before + table)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_in_place(path, before + table)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", param="api.keys_file") from error
    except tomllib.TOMLDecodeError as error:
        message = f"{path} is not written as [[key]] tables, so none can be added: {error}"
        raise ConfigError(message, param="api.keys_file") from error
    return made


def replace_in_place(path: Path, text: str) -> None:
    """Write a file that only its owner reads; one that is there keeps owner and mode, so that who read it still can.

    Raises:
        PermissionError: somebody else's file, whose owner cannot be kept.
    """
    known = path.stat() if path.exists() else None
    if known is not None and known.st_uid != os.geteuid() and os.geteuid() != 0:
        raise PermissionError(errno.EPERM, "it belongs to somebody else", str(path))
    write_durably(path, text, mode=0o600 if known is None else stat.S_IMODE(known.st_mode))
    if known is not None and os.geteuid() == 0:
        os.chown(path, known.st_uid, known.st_gid)


def find_key(keys: tuple[Key, ...], token: str) -> Key | None:
    """The key whose digest the token has. Every key is compared, so the time tells nothing about them."""
    digest = hashlib.sha256(token.encode()).hexdigest()
    found = None
    for key in keys:
        if hmac.compare_digest(key.sha256, digest):
            found = key
    return found


def token_of(headers: Mapping[str, str]) -> str | None:
    """The bearer token, or the password of HTTP Basic; None when there is neither."""
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip() or None
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest, validate=True).decode().partition(":")[2] or None
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None


def identify(headers: Mapping[str, str], keys: tuple[Key, ...] | None) -> Principal:
    """Tell who sends these headers. `keys` None is open mode.

    Raises:
        Unauthorised: keyed mode, and the key is missing or unknown.
    """
    token = token_of(headers)
    if keys is None:
        return Principal(_open_name(headers, token), SCOPES)
    if token is None:
        raise Unauthorised("no API key: send `Authorization: Bearer KEY`")
    key = find_key(keys, token)
    if key is None:
        raise Unauthorised("unknown API key")
    return Principal(f"key:{key.name}", key.scopes)


def _open_name(headers: Mapping[str, str], token: str | None) -> str:
    if user := headers.get("x-openwebui-user-id"):
        return f"owui:{user[:128]}"
    if token is None:
        return "local"
    return "key:" + hashlib.sha256(token.encode()).hexdigest()[:12]


def name_of(host: str) -> str | None:
    """The name in a Host header; None when it is not one."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def refuse_strangers(headers: Mapping[str, str], *, method: str, loopback_only: bool) -> None:
    """Keep web pages of other sites from using a visitor's browser against this service.

    A page may not write from another origin (cross-site request forgery). In open mode on loopback the Host must
    be a loopback name as well, or a hostile domain that resolves to 127.0.0.1 would count as the same origin.

    Raises:
        Forbidden: one of the two.
    """
    host = headers.get("host", "")
    if loopback_only and name_of(host) not in LOOPBACK:
        raise Forbidden(f"Host {host!r} is not this machine; set [api] keys_file to serve other names")
    origin = headers.get("origin")
    if origin and method not in ("GET", "HEAD") and origin.partition("://")[2] != host:
        raise Forbidden(f"requests from pages of {origin} are not taken")
