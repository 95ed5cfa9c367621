"""A model behind somebody else's OpenAI-compatible endpoint, asked one short question at a time.

Everything that can go wrong out there ends in one error that names the endpoint and never the key: the endpoint may
be down, slow, overloaded, lying about lengths, or somewhere else than it says. A redirect is a failure, because the
prompts are people's own and go where the operator said and nowhere else; nor do they go to an address that no judge
has (`policies.addresses`). One connection per call: calls are few and
slow beside a handshake, and nothing is left open between iterations.
"""

import asyncio
import contextlib
import json
import math
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from policies.addresses import literal, proxied, resolve, why_not
from store.errors import ConfigError, EngineError, EngineUnavailable
from store.records import Message

#: Bytes of a reply at the most. A score is a few hundred; more is not a score.
MAX_REPLY = 1024 * 1024
#: Seconds before the first further attempt; doubled with each, then jittered down to as little as half.
BACK_OFF = 0.5
BACK_OFF_MAX = 8.0
#: Statuses that may pass by themselves, besides every 5xx.
PASSING = frozenset({408, 425, 429})
#: How endpoints without log-probabilities refuse a request for them.
REFUSED = frozenset({400, 422})


@dataclass(frozen=True, slots=True)
class RemoteReply:
    """What came back. `alternatives`: (token, log-probability) at the first place, empty where none are given."""

    text: str
    alternatives: tuple[tuple[str, float], ...] = ()


class RemoteModel:
    """One model of one endpoint. `timeout_s` bounds a call as a whole, further attempts and waits included."""

    def __init__(
        self, url: str, model: str, *, key: str | None = None, timeout_s: float = 20.0, retries: int = 2
    ) -> None:
        """Raises ConfigError: not an address, or a key that cannot be sent."""
        self.endpoint = checked_url(url)
        self.model = model
        self._headers = headers_with(key)
        self._timeout_s, self._retries = timeout_s, retries
        self._tls = httpx.create_ssl_context()
        # Learnt from the first refusal, so that it costs one attempt and not one per call.
        self._gives_logprobs = True

    def __repr__(self) -> str:
        return f"RemoteModel({self.model!r} at {self.endpoint})"

    async def complete(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0, top_logprobs: int = 0
    ) -> RemoteReply:
        """Ask once; further attempts only for what may pass.

        Raises:
            EngineUnavailable: no answer in time, not even to further attempts.
            EngineError: an answer that is none: a redirect, a refusal, too large, not a chat completion.
        """
        body = {
            "model": self.model,
            "messages": [message.as_dict() for message in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
        }
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._persist(body, top_logprobs)
        except TimeoutError as error:
            raise EngineUnavailable(f"{self.endpoint}: no answer within {self._timeout_s:g} s") from error

    async def _persist(self, body: dict[str, Any], top_logprobs: int) -> RemoteReply:
        """Attempts, with growing waits between them."""
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        attempt = 0
        while True:
            try:
                return await self._ask(body, top_logprobs)
            except EngineUnavailable as error:
                if attempt >= self._retries:
                    raise
                wait = max(back_off(attempt), error.retry_after)
                # Waiting past the deadline would only turn this reason into a mere "no answer in time".
                if asyncio.get_running_loop().time() + wait >= deadline:
                    raise EngineUnavailable(
                        f"{error}; it may not take the {wait:.0f} s to ask again"
                    ) from error
                attempt += 1
                await asyncio.sleep(wait)

    async def _ask(self, body: dict[str, Any], top_logprobs: int) -> RemoteReply:
        """One attempt, and one without log-probabilities where the endpoint will not have them."""
        if top_logprobs and self._gives_logprobs:
            with contextlib.suppress(Refused):
                return await self._attempt({**body, "logprobs": True, "top_logprobs": top_logprobs})
        try:
            reply = await self._attempt(body)
        except Refused as error:
            raise EngineError(str(error)) from None
        if top_logprobs:
            # Only now is it known that they were the reason.
            self._gives_logprobs = False
        return reply

    async def _attempt(self, body: dict[str, Any]) -> RemoteReply:
        async with self._posted(body) as response:
            self._check_status(response)
            content = await self._read(response)
        try:
            return read_reply(json.loads(content))
        # A megabyte of opening brackets exhausts the parser's stack.
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            raise EngineError(f"{self.endpoint}: the answer is not a chat completion") from error

    @contextlib.asynccontextmanager
    async def _posted(self, body: dict[str, Any]) -> AsyncIterator[httpx.Response]:
        """The response, its body not read yet. Trouble of transport becomes an EngineUnavailable."""
        try:
            async with contextlib.AsyncExitStack() as stack:
                client = await stack.enter_async_context(
                    httpx.AsyncClient(verify=self._tls, timeout=self._timeout_s, follow_redirects=False)
                )
                yield await self._connected(stack, client, body)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, UnicodeError) as error:
            # Else the kind only: the text of some of these quotes what was sent or received.
            what = (
                f"no connection: {error}" if isinstance(error, httpx.ConnectError) else type(error).__name__
            )
            raise EngineUnavailable(f"{self.endpoint}: {what}", retry_after=0.0) from None

    async def _connected(
        self, stack: contextlib.AsyncExitStack, client: httpx.AsyncClient, body: dict[str, Any]
    ) -> httpx.Response:
        """The request sent to the first address of the host that takes it: one that was looked at, whatever the name
        leads to a moment later.
        """
        parts = urlsplit(f"{self.endpoint}/chat/completions")
        host, port = parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme]
        if proxied(parts.scheme, host):
            targets = [parts.netloc]
        else:
            found = await resolve(host, port)
            targets = [f"[{one}]:{port}" if ":" in one else f"{one}:{port}" for one in found]
        headers = {**self._headers, "Host": parts.netloc}
        for left, target in zip(reversed(range(len(targets))), targets, strict=True):
            url = parts._replace(netloc=target).geturl()
            try:
                return await stack.enter_async_context(
                    client.stream("POST", url, json=body, headers=headers, extensions={"sni_hostname": host})
                )
            except httpx.ConnectError:
                if not left:
                    raise
        raise EngineUnavailable(f"{host} has no address", retry_after=0.0)

    def _check_status(self, response: httpx.Response) -> None:
        """Raises for everything but a 200. What the endpoint says about it is not repeated: it may quote the key."""
        status = response.status_code
        if status == 200:
            return
        if 300 <= status < 400:
            raise EngineError(
                f"{self.endpoint}: answers with a redirect ({status}), which is not followed; "
                "set judge.external.url to where it really is"
            )
        if status in PASSING or status >= 500:
            wait = retry_after(response.headers.get("retry-after"))
            raise EngineUnavailable(f"{self.endpoint}: HTTP {status}", retry_after=wait)
        if status in REFUSED:
            raise Refused(f"{self.endpoint}: HTTP {status}, the request is refused")
        why = {401: ", the key is refused", 403: ", the key may not", 404: f", no model {self.model!r} there"}
        raise EngineError(f"{self.endpoint}: HTTP {status}{why.get(status, '')}")

    async def _read(self, response: httpx.Response) -> bytes:
        """The body as it came over the wire, counted while it comes."""
        if response.headers.get("content-encoding", "identity") != "identity":
            # None was asked for, and a megabyte of it may unfold to a gigabyte.
            raise EngineError(f"{self.endpoint}: the answer is compressed, which was not asked for")
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > MAX_REPLY:
                raise EngineError(f"{self.endpoint}: the answer is larger than {MAX_REPLY} bytes")
        return bytes(content)


class Refused(Exception):
    """The endpoint does not take this request as it is."""


def checked_url(url: str) -> str:
    """A base URL without its trailing slash.

    Raises:
        ConfigError: not http(s), or with more in it than an address: a password there would end up in messages.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ConfigError("judge.external.url is not an address", param="judge.external.url") from None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ConfigError(
            "judge.external.url holds a user, password, query or fragment; give the key in the environment "
            "variable that judge.external.key_env names",
            param="judge.external.url",
        )
    if not usable or not url.isprintable() or " " in url:
        raise ConfigError(
            f"judge.external.url = {url!r}: not an http:// or https:// address", param="judge.external.url"
        )
    address = literal(parts.hostname or "")
    if address is not None and (why := why_not(address)):
        raise ConfigError(f"judge.external.url = {url!r}: {address} is {why}", param="judge.external.url")
    return url.rstrip("/")


def headers_with(key: str | None) -> dict[str, str]:
    """Headers of every call. Another honed logs the question as a side job and never trains on it.

    Raises:
        ConfigError: the key cannot be put in a header. (The HTTP library would say so too, and quote the key.)
    """
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", "X-Honed-Task": "judge"}
    key = (key or "").strip()
    if key and not (key.isascii() and key.isprintable()):
        raise ConfigError("the key of judge.external has characters that no header may carry")
    return {**headers, "Authorization": f"Bearer {key}"} if key else headers


def read_reply(row: Any) -> RemoteReply:
    """A chat completion's first choice. Raises whatever a row of another shape makes Python raise."""
    choice = row["choices"][0]
    text = choice["message"]["content"] or ""
    if not isinstance(text, str):
        raise TypeError("content is no text")
    places = (choice.get("logprobs") or {}).get("content") or []
    top = places[0]["top_logprobs"] if places else []
    return RemoteReply(text, tuple((str(one["token"]), log_probability(one["logprob"])) for one in top))


def log_probability(value: Any) -> float:
    """A log-probability as it should be: a number, not above zero (but for rounding)."""
    number = float(value)
    if math.isnan(number) or number > 1e-3:
        raise ValueError("not a log-probability")
    return min(number, 0.0)


def back_off(attempt: int) -> float:
    """Seconds before a further attempt; jittered, lest all clients of a server that fell return at once."""
    return min(BACK_OFF * 2.0**attempt, BACK_OFF_MAX) * random.uniform(0.5, 1.0)


def retry_after(value: str | None) -> float:
    """Seconds a server asks to be left alone: a number or a date; 0 where it says nothing that can be read."""
    if value is None:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
        except ValueError:
            return 0.0
        seconds = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    return seconds if 0.0 < seconds < math.inf else 0.0
