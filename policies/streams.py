"""What every engine needs between drawing a token and handing it to a reader; nothing here knows tensors.

`DeltaStream` is a class and not an async generator on purpose: closing a generator that never started runs
none of its code, so a client gone before the first token would keep its row for ever.
"""

import asyncio
from collections.abc import Callable, Sequence

from policies.engine import Delta


class DeltaStream:
    """An answer as it comes. `put` belongs to the event loop that made the stream."""

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._items: asyncio.Queue[Delta | Exception] = asyncio.Queue()
        self._cancel = cancel
        self._ended = False

    def put(self, item: Delta | Exception) -> None:
        """Add the next piece, or the error that ends the answer."""
        self._items.put_nowait(item)

    def __aiter__(self) -> "DeltaStream":
        return self

    async def __anext__(self) -> Delta:
        if self._ended:
            raise StopAsyncIteration
        item = await self._items.get()
        if isinstance(item, Exception):
            self._ended = True
            raise item
        self._ended = item.finish_reason is not None
        return item

    async def aclose(self) -> None:
        """Give the answer up; the engine frees its row at the next step. Closing twice does nothing."""
        if not self._ended:
            self._ended = True
            self._cancel()


class StopGate:
    """Lets text through up to the first stop string, holding back whatever may yet become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Returns what may be shown now, and whether a stop string was met (it is not shown)."""
        if not self._stops:
            return text, False
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            shown, self._held = self._held[: min(found)], ""
            return shown, True
        keep = _overlap(self._held, self._stops)
        shown = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return shown, False

    def flush(self) -> str:
        """What was held back, now that no more text comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that begins one of the stop strings."""
    longest = min(len(text), max(len(stop) for stop in stops) - 1)
    for size in range(longest, 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops):
            return size
    return 0
