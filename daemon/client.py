"""The command line's way to a running service: its own HTTP API, found through `service.json`.

Plain `http.client`: the command line should start quickly and needs nothing but JSON over loopback.
"""

import http.client
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from store.errors import EngineUnavailable, Forbidden, HonedError, Invalid, NotFound
from store.reading import read_object

#: Seconds an answer may take.
TIMEOUT = 60.0
#: Seconds between looks at something that is being waited for.
POLL = 0.5
ERRORS: dict[int, type[HonedError]] = {
    400: Invalid,
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    422: Invalid,
    503: EngineUnavailable,
}


class Client:
    """JSON over HTTP to one service."""

    def __init__(self, url: str, *, key: str | None = None) -> None:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise Invalid(f"{url!r} is not an http:// or https:// address", param="url")
        self.url = url
        self._parts = parts
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key or 'local'}"}

    def get(self, path: str) -> Any:
        return self._call("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("POST", path, body)

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=TIMEOUT)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, body=content, headers=self._headers)
            response = connection.getresponse()
            text = response.read().decode()
        except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
            raise EngineUnavailable(f"no answer from {self.url}: {error}") from error
        finally:
            connection.close()
        if response.status >= 400:
            raise ERRORS.get(response.status, HonedError)(message_of(text, response.status))
        try:
            return json.loads(text)
        except ValueError as error:
            raise EngineUnavailable(f"{self.url} does not answer as honed does: {text[:100]!r}") from error

    def intend(self, kind: str, **arguments: Any) -> str:
        """Write an operator intent; returns its id."""
        body = {key: value for key, value in arguments.items() if value is not None}
        return str(self.post(f"/v1/operator/{kind}", body)["id"])

    def wait(self, intent: str, on_poll: Callable[[dict[str, Any]], None] = lambda _: None) -> dict[str, Any]:
        """Poll an intent until the loop has dealt with it."""
        while True:
            row: dict[str, Any] = self.get(f"/v1/operator/intents/{intent}")
            if row["status"] not in ("pending", "running"):
                return row
            on_poll(row)
            time.sleep(POLL)


def message_of(text: str, status: int) -> str:
    """The message of an error envelope, or whatever came instead of one."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {status}: {text[:200]}"


def connect(directory: Path, url: str | None) -> Client:
    """A client of the service named, or of the one that runs on this state directory.

    Raises:
        EngineUnavailable: no service is running there.
    """
    key = os.environ.get("HONED_API_KEY")
    if url is not None:
        return Client(url, key=key)
    file = directory / "service.json"
    if not file.is_file():
        raise EngineUnavailable(f"no service is running on {directory}; start one with `honed serve`")
    try:
        url = str(read_object(file, most=4096)["url"])
    except (HonedError, LookupError) as error:
        raise EngineUnavailable(f"{file} does not say where the service is: {error}") from error
    return Client(url, key=key)
