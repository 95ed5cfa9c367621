"""Which of several vLLM servers answers a request: those in rotation, the freest first, a known conversation's own.

vLLM keeps a conversation's keys and values on the server that answered it, so the next turn goes there unless
another server is much freer.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence

from policies.vllm_client import AWAY
from policies.vllm_replica import Replica, State
from store.errors import EngineUnavailable

log = logging.getLogger(__name__)

#: Seconds a client is told to wait while the model sleeps for a trainer.
ASLEEP_RETRY = 30.0
#: Conversations whose server is remembered.
REMEMBERED = 4096


class Rotation:
    """`changed` is told how many servers answer, whenever that changes. Belongs to one event loop."""

    def __init__(self, replicas: Sequence[Replica], *, slack: int, changed: Callable[[int], None]) -> None:
        """`slack`: requests a conversation's usual server may have more than the freest."""
        self.replicas, self._slack, self._changed = tuple(replicas), slack, changed
        self._usual: OrderedDict[object, Replica] = OrderedDict()

    def serving(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.state is State.SERVING]

    @property
    def context(self) -> int:
        """Tokens that fit into every server met so far."""
        return min((replica.context for replica in self.replicas if replica.context), default=0)

    def choose(self, conversation: object, without: set[str]) -> Replica:
        """A server for a request of this conversation, other than those at the URLs `without`.

        Raises:
            EngineUnavailable: none answers now.
        """
        able = [replica for replica in self.serving() if replica.url not in without]
        if not able:
            raise self.nobody()
        chosen = least_loaded(able, self._usual.get(conversation), self._slack)
        self._usual[conversation] = chosen
        self._usual.move_to_end(conversation)
        while len(self._usual) > REMEMBERED:
            self._usual.popitem(last=False)
        return chosen

    def turn(self, replica: Replica, state: State) -> None:
        """Move a server into rotation or out of it."""
        replica.state = state
        self._changed(len(self.serving()))

    def lost(self, replica: Replica, error: Exception) -> None:
        """Take a server out of rotation; whoever watches it brings it back when it is well."""
        if replica.state is State.SERVING:
            log.warning("%s is out of rotation: %s", replica.url, error)
            self.turn(replica, State.AWAY)
        elif replica.detail != str(error):
            log.info("%s stays out of rotation: %s", replica.url, error)
        replica.detail = str(error)

    async def someone(self, timeout: float) -> None:
        """Wait for a server to be in rotation.

        Raises:
            EngineUnavailable: none was in `timeout` seconds.
        """
        await _until(lambda: bool(self.serving()), timeout)
        if not self.serving():
            log.warning("no model server answers after %g s: %s", timeout, self.details())
            raise self.nobody()

    async def drained(self, replica: Replica, timeout: float | None) -> None:
        """Wait for a server's answers to end, at most `timeout` seconds."""
        await _until(lambda: not replica.running, timeout)

    def nobody(self) -> EngineUnavailable:
        """Why no request can be answered, for clients: addresses and causes are in the log and in `details`."""
        if any(replica.state is State.ASLEEP for replica in self.replicas):
            return EngineUnavailable(
                "the model sleeps while an iteration trains (policies.engine.share)", retry_after=ASLEEP_RETRY
            )
        return EngineUnavailable("no model server answers now", retry_after=AWAY)

    def details(self) -> str:
        """Every server out of rotation and why, for operators."""
        away = [replica for replica in self.replicas if replica.state is not State.SERVING]
        return "; ".join(f"{replica.url}: {replica.state} {replica.detail}".strip() for replica in away)


def least_loaded(replicas: Sequence[Replica], usual: Replica | None, slack: int) -> Replica:
    """The usual server unless another has more than `slack` requests less; `replicas` is not empty."""
    freest = min(replicas, key=lambda replica: replica.running)
    if usual is not None and usual in replicas and usual.running <= freest.running + slack:
        return usual
    return freest


async def _until(condition: Callable[[], bool], timeout: float | None) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            while not condition():
                await asyncio.sleep(0.05)
