"""One vLLM server among those that serve: what it holds, whether it may answer, and the proof it owes before.

A server answers people only while it is in rotation. It comes in after it holds exactly the adapters that are
served and computes what they must; it goes out at the first sign of being away. The rules of names and slots:

- An adapter's name in the server is its version and digest, so a name never means two things: vLLM's prefix cache
  goes by names.
- `unload` takes only the name away; the weights keep their slot until newer ones push them out. vLLM 0.32 on CPU
  applies whatever lies in the *last* slot to base requests of a mixed batch, so slots are freed explicitly and one is
  always left over.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from policies.engine import AdapterRef
from policies.vllm_client import ServerRefused, VllmClient
from store.errors import AdapterInvalid, AttestationFailed, EngineUnavailable

log = logging.getLogger(__name__)

T = TypeVar("T")
OURS = re.compile(r"it\d{4,}-[0-9a-f]{8}\.[0-9a-f]{12}")
#: Without a trainer's proof, how far (nats per token, mean) two copies of one adapter may be apart.
COPIES_AGREE = 0.05

#: Salt of the base's cached keys and values; an adapter's is its digest.
BASE_SALT = "base"


class State(StrEnum):
    AWAY = "away"
    SERVING = "serving"
    ASLEEP = "asleep"
    LEAVING = "leaving"
    """About to be restarted: nobody looks at it until it is."""


@dataclass(frozen=True, slots=True)
class Expected:
    """Token ids of a text and what they must compute to."""

    prompt: list[int]
    answer: list[int]
    logprobs: tuple[float, ...]


@dataclass(eq=False)
class Served:
    """An adapter as all servers hold it. `users` counts requests that name it; `closed` takes no new ones.

    `broken` failed on a server that is right otherwise: nobody loads it again.
    """

    ref: AdapterRef
    expected: list[Expected] = field(default_factory=list)
    base: list[Expected] = field(default_factory=list)
    tolerance: float = COPIES_AGREE
    users: int = 0
    closed: bool = False
    broken: bool = False

    @property
    def name(self) -> str:
        """The adapter's name in the servers."""
        return f"{self.ref.version}.{self.ref.digest[:12]}"


def mean_gap(expected: Sequence[float], measured: Sequence[float]) -> float:
    """Mean absolute difference, nats per token; infinite for different counts or NaN."""
    if len(expected) != len(measured):
        return float("inf")
    gap = sum(abs(a - b) for a, b in zip(expected, measured, strict=True)) / max(1, len(expected))
    return gap if gap == gap else float("inf")


async def together(works: Iterable[Awaitable[T]]) -> list[T]:
    """Results of works done side by side; the first error only once none of them runs any more."""
    # By task and not by type: some works return an error as their result, and that is no failure.
    tasks = [asyncio.ensure_future(work) for work in works]
    await asyncio.gather(*tasks, return_exceptions=True)
    return [task.result() for task in tasks]


@dataclass(eq=False)
class Replica:
    """A server and honed's view of it. Methods raise `EngineUnavailable` when it is away."""

    client: VllmClient
    state: State = State.AWAY
    running: int = 0
    """honed's requests in it."""
    silences: int = 0
    """Looks in a row that it left unanswered although it took the connection."""
    mismatches: int = 0
    """Proofs failed in a row."""
    detail: str = "not started"
    base: str = ""
    context: int = 0
    slot_of: dict[str, int] = field(default_factory=dict)
    """Slot numbers of the adapters honed loaded here, where the server tells them."""

    @property
    def url(self) -> str:
        return self.client.url

    async def names(self) -> frozenset[str]:
        """The adapters a living server lists."""
        await self.client.health()
        return frozenset(card.name for card in await self.client.cards() if card.parent is not None)

    async def meet(self) -> None:
        """Learn the base's name and context."""
        await self.client.health()
        cards = [card for card in await self.client.cards() if card.parent is None]
        if not cards:
            raise EngineUnavailable(f"{self.url} lists no base model")
        self.base, self.context = cards[0].name, cards[0].context or 0

    async def tidy(self, served: Sequence[Served]) -> None:
        """Take honed's other adapters away; others' adapters are left alone."""
        wanted = {item.name for item in served}
        there = await self.names()
        self.slot_of = {name: slot for name, slot in self.slot_of.items() if name in there}
        for name in sorted(there):
            # One whose slot is not known was loaded by an earlier honed: loaded again, its slot can be freed later.
            if OURS.fullmatch(name) and (name not in wanted or name not in self.slot_of):
                await self.drop(name)
        await self._sweep()

    async def add(self, item: Served) -> None:
        """Load an adapter, under its name for the first time.

        Raises:
            AdapterInvalid: the server does not take it.
        """
        # A last request that was cancelled may have had the server load a dropped adapter once more.
        await self._sweep()
        before = await self._slots()
        try:
            await self._load(item)
        except ServerRefused as error:
            raise AdapterInvalid(f"{item.ref.version}: {error}") from error
        # Loads are made one at a time, so what is new is this one's.
        for slot in (await self._slots()) - before:
            self.slot_of[item.name] = slot

    async def _load(self, item: Served) -> None:
        try:
            await self.client.load(item.name, item.ref.path)
        except ServerRefused as error:
            if "already been loaded" not in str(error):
                raise
            await self.drop(item.name)  # who knows in which slot it is
            await self._sweep()
            await self.client.load(item.name, item.ref.path)

    async def drop(self, name: str) -> None:
        """Take an adapter away, its slot included. One that is not there is no error."""
        try:
            await self.client.unload(name)
        except ServerRefused as error:
            if error.status != 404:
                raise
        slot = self.slot_of.pop(name, None)
        if slot is not None:
            await self.client.free_slot(slot)

    async def _sweep(self) -> None:
        """Free the slots nothing of honed's is in; not where somebody else has adapters, whose they may be."""
        if all(OURS.fullmatch(name) for name in await self.names()):
            for stray in await self._slots() - set(self.slot_of.values()):
                await self.client.free_slot(stray)

    async def _slots(self) -> frozenset[int]:
        try:
            return await self.client.slots()
        except ServerRefused:
            return (
                frozenset()
            )  # a server without development calls: its slots empty by themselves, oldest first

    async def measure(self, name: str, texts: Sequence[Expected], salt: str) -> list[list[float]]:
        """Log-probabilities of texts under one name, all at once."""
        rows = (self.client.score(name, text.prompt, text.answer, salt) for text in texts)
        return await together(rows)

    async def prove(self, item: Served, base: Sequence[Expected]) -> None:
        """Hold an adapter, and the base beside it in the same batches, against what they must compute.

        Args:
            base: the base's own texts, for an adapter that came without a proof.

        Raises:
            AttestationFailed: one of them computes something else.
        """
        plain = item.base or base
        measured, beside = await together(
            [
                self.measure(item.name, item.expected, item.ref.digest),
                self.measure(self.base, plain, BASE_SALT),
            ]
        )
        self._compare(item.ref.version, item.expected, measured, item.tolerance)
        self._compare("base", plain, beside, item.tolerance)

    async def prove_base(self, base: Sequence[Expected]) -> None:
        """The same for the base alone."""
        self._compare("base", base, await self.measure(self.base, base, BASE_SALT), COPIES_AGREE)

    def _compare(
        self, what: str, expected: Sequence[Expected], measured: Sequence[Sequence[float]], tolerance: float
    ) -> None:
        for text, found in zip(expected, measured, strict=True):
            gap = mean_gap(text.logprobs, found)
            if gap > tolerance:
                raise AttestationFailed(
                    f"{what}: {self.url} computes log-probabilities {gap:.4g} nats/token from those expected, "
                    f"{tolerance:g} allowed"
                )
