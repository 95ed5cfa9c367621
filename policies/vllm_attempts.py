"""What becomes of a request that a vLLM server failed: another server, or an error that is fit for a client.

A server is out of rotation only if its engine is: vLLM turns any exception inside one request into an error of that
request, and a request that does it to one server would do it to all of them.
"""

import logging

from policies.vllm_client import AWAY, ServerRefused, ServerSilent
from policies.vllm_replica import Replica, Served
from policies.vllm_rotation import Rotation
from store.errors import EngineBusy, EngineError, EngineUnavailable, HonedError, Invalid

log = logging.getLogger(__name__)

#: Servers that live and fail a request before it is told so.
FAILURES = 2


def failure() -> EngineUnavailable:
    """What a client is told; the log says which server, and why."""
    return EngineUnavailable("the model server failed while answering", retry_after=AWAY)


def refusal(error: ServerRefused) -> HonedError:
    """A server's no, as an error clients know."""
    if error.status in (408, 429):
        return EngineBusy("the model server is busy", retry_after=AWAY)
    if error.status in (400, 413, 422):
        return Invalid("the model server does not take this request")
    return EngineUnavailable("the model server refuses requests", retry_after=AWAY)


class Attempts:
    """One request's way from server to server."""

    def __init__(self, rotation: Rotation, served: Served | None) -> None:
        """`served`: the adapter it names, if any."""
        self._rotation, self._served = rotation, served
        self._tried: set[str] = set()
        self._failures = 0

    def next(self, conversation: object) -> Replica:
        """The server to ask now.

        Raises:
            EngineUnavailable: none is left.
        """
        try:
            return self._rotation.choose(conversation, self._tried)
        except EngineUnavailable:
            if self._failures:
                raise failure() from None
            raise

    async def failed(self, replica: Replica, error: EngineError) -> None:
        """Note that a server failed the request; returns if another may be asked.

        Raises:
            EngineBusy, EngineUnavailable, Invalid: no other is to be asked.
        """
        self._tried.add(replica.url)
        if isinstance(error, ServerRefused):
            if error.status != 404:
                log.warning("a request was refused: %s", error)
                raise refusal(error) from error
            if self._served is not None and self._served.broken:
                raise failure() from error
            # A server that was restarted a moment ago has lost its adapters.
            self._rotation.lost(replica, error)
            return
        if replica not in self._rotation.serving():
            return
        try:
            if isinstance(error, ServerSilent):
                raise error  # health does not see an engine that hangs; its watch has it prove itself
            await replica.client.health()
        except EngineError as dead:
            log.warning("an answer failed: %s", error)
            self._rotation.lost(replica, dead)
            return
        log.warning("a request failed in a server that is well otherwise: %s", error)
        self._failures += 1
        if self._failures >= FAILURES:
            raise failure() from error
