"""Who may run now, in an engine whose rows lie in other processes: people first, background work in what is left.

The model servers are never given more than they decode together. What waits, waits here, where a chat can pass
background work and a client that leaves frees its place at once. Belongs to one event loop.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from policies.engine import Priority
from store.errors import EngineBusy


class Admission:
    """Counts requests. `capacity` is the number of rows there are now; servers come and go."""

    def __init__(self, rows: int, queue: int) -> None:
        self.capacity = rows
        self._rows, self._queue = rows, queue
        self._live = dict.fromkeys(Priority, 0)
        self._running = dict.fromkeys(Priority, 0)
        self._waiting: dict[Priority, deque[asyncio.Future[None]]] = {
            priority: deque() for priority in Priority
        }

    @property
    def running(self) -> int:
        return sum(self._running.values())

    @property
    def waiting(self) -> int:
        return max(0, sum(self._live.values()) - self.running)

    def resize(self, servers: int) -> None:
        """So many servers answer now; with none, a row still lets a request through to be told so."""
        self.capacity = self._rows * max(1, servers)
        self._wake()

    def count_in(self, priority: Priority) -> None:
        """Take a request on. Each priority by itself: background work never fills the queue for people.

        Raises:
            EngineBusy: as many run or wait as may.
        """
        if self._live[priority] >= self.capacity + self._queue:
            raise EngineBusy(
                f"{self._live[priority]} requests run or wait already (policies.engine.max_queue)",
                retry_after=1.0,
            )
        self._live[priority] += 1

    def count_out(self, priority: Priority) -> None:
        self._live[priority] -= 1

    @asynccontextmanager
    async def row(self, priority: Priority) -> AsyncIterator[None]:
        """Wait for a row and hold it."""
        await self._enter(priority)
        try:
            yield
        finally:
            self._running[priority] -= 1
            self._wake()

    async def _enter(self, priority: Priority) -> None:
        if not self._waiting[priority] and self._free(priority):
            self._running[priority] += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[priority].append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # Its turn had come just as it left.
                self._running[priority] -= 1
            else:
                with suppress(ValueError):  # `_wake` may have passed over it already
                    self._waiting[priority].remove(turn)
            self._wake()
            raise

    def _free(self, priority: Priority) -> bool:
        if self.running >= self.capacity:
            return False
        # One row in four stays free for people while background work runs.
        background = max(1, self.capacity - max(1, self.capacity // 4))
        return priority is Priority.CHAT or self._running[priority] < background

    def _wake(self) -> None:
        for priority in Priority:
            turns = self._waiting[priority]
            while turns and self._free(priority):
                turn = turns.popleft()
                # Counted here and not by whoever wakes: two that wake together must not take one row.
                if not turn.cancelled():
                    self._running[priority] += 1
                    turn.set_result(None)
