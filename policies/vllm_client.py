"""One vLLM server over HTTP: exactly the calls honed makes, and its failures as honed's errors.

Prompts go as token ids to `/v1/completions`, so that honed's reading of a conversation (`policies.chat`) holds for
every engine and for the trainer. Left out: any call that changes an adapter in place; vLLM's `load_inplace` swaps
weights inside running answers.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from store.errors import EngineError, EngineLost, EngineUnavailable

#: Seconds a client is told to wait while a server is away.
AWAY = 5.0
#: Seconds for calls that compute nothing.
BRIEF = 10.0
LOAD = "/v1/load_lora_adapter"


class ServerRefused(EngineError):
    """The server is there and said no; `status` is HTTP's."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class ServerSilent(EngineUnavailable):
    """The server took the connection and then said nothing in time: it hangs, or is very busy."""


@dataclass(frozen=True, slots=True)
class Card:
    """A row of `/v1/models`; the base has no `parent`."""

    name: str
    parent: str | None
    context: int | None


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: for an adapter to load, and of silence inside an answer before its server counts as gone."""

    load: float = 120.0
    stall: float = 300.0


class VllmClient:
    """Every method raises `EngineUnavailable` when the server is away, `ServerRefused` when it says no."""

    def __init__(self, url: str, patience: Patience, *, key: str | None = None) -> None:
        self.url, self._patience = url.rstrip("/"), patience
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers={"authorization": f"Bearer {key}"} if key else {},
            # honed counts requests itself; a second limit here would only queue them out of sight.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            timeout=httpx.Timeout(BRIEF),
            # A server next door is never behind the proxy of the environment.
            trust_env=False,
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def health(self) -> None:
        """Returns if the engine behind the server lives."""
        await self._request("GET", "/health")

    async def metrics(self) -> str:
        """What the server tells Prometheus."""
        return (await self._request("GET", "/metrics")).text

    async def cards(self) -> list[Card]:
        """The base and the adapters requests may name."""
        async with self._errors():
            rows = (await self._request("GET", "/v1/models")).json()["data"]
            return [Card(row["id"], row.get("parent"), row.get("max_model_len")) for row in rows]

    async def load(self, name: str, path: Path) -> None:
        """Load an adapter under a name that is not in use; `path` must be readable where the server runs."""
        body = {"lora_name": name, "lora_path": str(path)}
        await self._request("POST", LOAD, body, timeout=self._patience.load)

    async def unload(self, name: str) -> None:
        """Take the name away. The weights stay in their slot: see `free_slot`."""
        await self._request("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    async def slots(self) -> frozenset[int]:
        """Numbers of the adapters whose weights the server holds, named or not.

        A development call (VLLM_SERVER_DEV_MODE=1); `ServerRefused` with status 404 where it is off.
        """
        body = {"method": "list_loras"}
        async with self._errors():
            workers = (await self._request("POST", "/collective_rpc", body)).json()["results"]
            return frozenset(int(number) for worker in workers for number in worker)

    async def free_slot(self, number: int) -> None:
        """Drop the weights of an adapter from the server's slots (development call, as `slots`)."""
        await self._request("POST", "/collective_rpc", {"method": "remove_lora", "args": [number]})

    async def sleep(self) -> None:
        """Level 1: weights go to host memory, keys and values are dropped (development call, as `slots`)."""
        await self._request("POST", "/sleep?level=1", {}, timeout=self._patience.load)

    async def wake(self) -> None:
        await self._request("POST", "/wake_up", {}, timeout=self._patience.load)

    async def asleep(self) -> bool:
        """Whether it sleeps; one without development calls never does."""
        try:
            async with self._errors():
                return (await self._request("GET", "/is_sleeping")).json()["is_sleeping"] is True
        except ServerRefused as error:
            if error.status not in (404, 405):
                raise
            return False

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A completion in one piece."""
        async with self._errors():
            response = await self._request("POST", "/v1/completions", body, timeout=self._patience.stall)
            answer: dict[str, Any] = response.json()
            return answer

    async def score(self, name: str, prompt: Sequence[int], answer: Sequence[int], salt: str) -> list[float]:
        """Log-probabilities (nats) of `answer`'s tokens after `prompt`, before any temperature; one forward."""
        if not answer:
            return []
        ids = [*prompt, *answer]
        body = {"model": name, "prompt": ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        async with self._errors():
            rows = (await self.complete({**body, "cache_salt": salt}))["choices"][0]["prompt_logprobs"]
            return [float(rows[at][str(ids[at])]["logprob"]) for at in range(len(prompt), len(ids))]

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of a completion whose body says `stream`. Closing the iterator aborts the request in the server.

        Raises:
            EngineUnavailable: the server went away, or fell silent, before the answer had ended.
        """
        timeout = httpx.Timeout(BRIEF, read=self._patience.stall)
        async with self._errors():
            request = self._http.build_request("POST", "/v1/completions", json=dict(body), timeout=timeout)
            response = await self._http.send(request, stream=True)
            try:
                if response.status_code >= 400:
                    await response.aread()
                self._check(response)
                async for line in response.aiter_lines():
                    if line == "data: [DONE]":
                        return
                    if line.startswith("data: "):
                        yield self._chunk(json.loads(line[6:]))
            finally:
                await response.aclose()
        raise EngineLost(f"{self.url} ended an answer half-way", retry_after=AWAY)

    def _chunk(self, row: dict[str, Any]) -> dict[str, Any]:
        # vLLM says so when its engine dies under a stream, and when this one request fails in it.
        if "error" in row:
            raise EngineUnavailable(f"{self.url} failed while answering: {row['error']}", retry_after=AWAY)
        return row

    async def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, timeout: float = BRIEF
    ) -> httpx.Response:
        async with self._errors():
            response = await self._http.request(method, path, json=body, timeout=timeout)
        self._check(response)
        return response

    @asynccontextmanager
    async def _errors(self) -> AsyncIterator[None]:
        try:
            yield
        except httpx.ReadTimeout as error:
            raise ServerSilent(f"{self.url} does not answer", retry_after=AWAY) from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            reason = str(error) or type(error).__name__
            raise EngineLost(f"{self.url} is away: {reason}", retry_after=AWAY) from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise EngineUnavailable(
                f"{self.url} answers something else than vLLM: {error!r}", retry_after=AWAY
            ) from error
        except RuntimeError as error:  # how httpx says that `close` came first
            if not self._http.is_closed:
                raise
            raise EngineLost(f"{self.url} is not spoken to any more", retry_after=AWAY) from error

    def _check(self, response: httpx.Response) -> None:
        if response.status_code < 400:
            return
        # Loading answers 500 for an adapter that does not fit; anywhere else 5xx means the engine is in trouble.
        if response.status_code >= 500 and response.url.path != LOAD:
            raise EngineUnavailable(
                f"{self.url} answers {response.status_code}: its engine is down", retry_after=AWAY
            )
        try:
            message = str(response.json()["error"]["message"])
        except (ValueError, LookupError, TypeError):
            message = response.text[:300]
        raise ServerRefused(
            f"{self.url} answers {response.status_code}: {message}", status=response.status_code
        )
