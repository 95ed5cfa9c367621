"""What the vLLM servers behind one engine hold, and how adapters and servers come and go.

`vllm_rotation` says who answers; here each server has a watch of its own that brings it there. The order is always
the same: a server holds the adapters, proves them, and only then answers; an adapter is loaded and proven on every
server in rotation, and only then served. A server that fails or is late on the way leaves the rotation and comes back
through its watch. Loads, unloads and returns take turns (`_changing`), so a server cannot return with an adapter
missing that was loaded meanwhile.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Protocol

from policies.engine import AdapterRef
from policies.vllm_client import AWAY, ServerSilent
from policies.vllm_loading import Loading, base_measured
from policies.vllm_replica import Expected, Replica, Served, State
from policies.vllm_rotation import Rotation
from store.errors import (
    AdapterInvalid,
    AttestationFailed,
    EngineBusy,
    EngineError,
    EngineUnavailable,
    HonedError,
    NotFound,
)

log = logging.getLogger(__name__)

#: Seconds between looks at a server.
LOOK_EVERY = 1.0
#: Looks in a row a server may leave unanswered: so many until it is out, so many until it is started anew.
SILENT, HANGING = 2, 6
#: Seconds for running answers to end before a planned stop cuts them off.
DRAIN = 60.0


class Host(Protocol):
    """The process behind the first server, where honed owns it."""

    def memory(self) -> int:
        """Bytes resident, children included."""
        ...

    async def restart(self, reason: str) -> None:
        """Stop the process and start it anew; returns when it is stopped."""
        ...


@dataclass(frozen=True, slots=True)
class FleetLimits:
    """Seconds, adapters, requests and bytes."""

    load: float
    """For one server to load and prove an adapter, and for a server to be there at all when one is to be loaded."""
    slots: int
    """LoRA slots of every server; one stays empty."""
    growth: int
    """Memory a server may gain over its first adapter before it is started anew."""


class Fleet:
    """What the servers of a rotation hold. Belongs to one event loop."""

    def __init__(self, rotation: Rotation, limits: FleetLimits, host: Host | None) -> None:
        self._rotation, self._limits, self._host = rotation, limits, host
        self._loading = Loading(rotation, limits.load)
        self.served: dict[str, Served] = {}
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._base: list[Expected] = []
        self._memory: int | None = None

    async def start(self, probe: Expected, timeout: float) -> None:
        """Watch the servers; returns when one answers.

        Args:
            probe: a text; what the first server's base computes for it is what every base must.

        Raises:
            EngineUnavailable: none did in `timeout` seconds.
        """
        self._probe = probe
        for replica in self._rotation.replicas:
            self._spawn(self._watch(replica))
        await self._rotation.someone(timeout)

    async def close(self) -> None:
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for replica in self._rotation.replicas:
            replica.state, replica.detail = State.AWAY, "closed"
            await replica.client.close()

    def open(self) -> tuple[str, ...]:
        """Versions that take requests."""
        return tuple(version for version, item in self.served.items() if not item.closed)

    def hold(self, version: str) -> Served:
        """Count a request in for a version.

        Raises:
            NotFound: it takes none.
        """
        item = self.served.get(version)
        if item is None or item.closed:
            raise NotFound(f"adapter {version} is not loaded", param="model")
        item.users += 1
        return item

    def release(self, item: Served) -> None:
        """Count a request out; the last one of a closed version takes it from the servers."""
        item.users -= 1
        if item.closed and not item.users:
            self._spawn(self._drop(item))

    async def load(self, ref: AdapterRef, item: Callable[[AdapterRef], Awaitable[Served]]) -> None:
        """Load a version on every server in rotation, and serve it once those that remain have proven it.

        Args:
            item: verifies the files and says what they must compute; called only if need be.
        """
        if ref.version in self.open():
            return
        fresh = await item(ref)
        await self._rotation.someone(self._limits.load)
        await self._room(ref.version)
        async with self._changing:
            there = self.served.get(ref.version)
            if there is not None and there.broken:
                raise AdapterInvalid(
                    f"{ref.version} failed on a model server and still has answers under way"
                )
            if there is not None:  # it was still draining, or somebody was quicker
                there.closed = False
                return
            targets = self._rotation.serving()
            try:
                await self._loading.on(targets, fresh, self._base, self._probe)
            except BaseException:
                with contextlib.suppress(EngineError):
                    await self._drop_on(self._rotation.serving(), fresh.name)
                raise
            self.served[ref.version] = fresh
        self._watch_memory()

    async def unload(self, version: str) -> None:
        """Take no new request for a version; drop it when its last one has ended."""
        item = self.served.get(version)
        if item is None:
            return
        item.closed = True
        if not item.users:
            await self._drop(item)

    async def put_to_sleep(self) -> None:
        """Give the first server's GPU to a trainer: let answers end, then have it sleep."""
        replica = self._rotation.replicas[0]
        async with self._changing:
            if replica.state is not State.SERVING:
                raise EngineUnavailable(
                    f"{replica.url} cannot sleep: {replica.detail or replica.state}", retry_after=AWAY
                )
            self._rotation.turn(replica, State.ASLEEP)
            try:
                await self._rotation.drained(replica, DRAIN)
                await replica.client.sleep()
            except BaseException:
                self._rotation.turn(replica, State.AWAY)
                raise

    async def wake(self) -> None:
        """Wake it, and prove base and adapters: some versions of vLLM lost them in their sleep."""
        replica = self._rotation.replicas[0]
        if replica.state is not State.ASLEEP:
            return
        try:
            await replica.client.wake()
            await self._take_in(replica)
        except AttestationFailed as error:
            await self._mismatch(replica, error)
        except HonedError as error:
            log.warning("%s did not wake: %s", replica.url, error)
        except Exception:
            log.exception("waking %s failed", replica.url)
        finally:
            # Whatever happened, its watch goes on from there.
            if replica.state is State.ASLEEP:
                self._rotation.turn(replica, State.AWAY)

    # Watching

    async def _watch(self, replica: Replica) -> None:
        while True:
            try:
                await self._look(replica)
                replica.silences = 0
            except ServerSilent as error:
                await self._silence(replica, error)
            except AttestationFailed as error:
                await self._mismatch(replica, error)
                await asyncio.sleep(min(300.0, 2.0**replica.mismatches))
            except HonedError as error:
                self._rotation.lost(replica, error)
            except Exception as error:  # a watch that ends would leave its server out for ever
                log.exception("looking after %s failed", replica.url)
                self._rotation.lost(replica, error)
            await asyncio.sleep(LOOK_EVERY)

    async def _look(self, replica: Replica) -> None:
        if replica.state is State.AWAY:
            await self._take_in(replica)
        elif replica.state is State.SERVING:
            before = list(self.served.values())
            names = await replica.names()
            missing = [item for item in before if item.name not in names and item in self.served.values()]
            if any(not item.broken for item in missing):
                raise EngineUnavailable(f"{replica.url} was restarted: its adapters are gone")

    async def _take_in(self, replica: Replica) -> None:
        await replica.meet()
        if await replica.client.asleep():
            log.info("%s was left asleep: waking it", replica.url)
            await replica.client.wake()
        async with self._changing:
            try:
                # Others wait meanwhile, so a server that falls silent here must not take its time.
                async with asyncio.timeout(self._limits.load):
                    await self._make_right(replica)
            except TimeoutError as error:
                raise ServerSilent(
                    f"{replica.url} did not prove what it computes within {self._limits.load:g} s "
                    "(policies.engine.load_timeout)"
                ) from error
            replica.mismatches, replica.detail = 0, ""
            self._rotation.turn(replica, State.SERVING)
        log.info("%s is in rotation with %d adapters", replica.url, len(self.served))

    async def _make_right(self, replica: Replica) -> None:
        """Have a server hold and compute what is served. A broken adapter keeps nothing else out."""
        wanted = [item for item in self.served.values() if not item.broken]
        await replica.tidy(wanted)
        if not self._base:
            self._base = await base_measured(replica, self._probe)
        await replica.prove_base(self._base)
        held = frozenset(replica.slot_of)
        for item in wanted:
            if item.name not in held:
                await self._unless_broken(replica, item, replica.add(item))
        for item in wanted:
            if not item.broken:
                await self._unless_broken(replica, item, replica.prove(item, self._base), held)

    async def _unless_broken(
        self, replica: Replica, item: Served, work: Awaitable[None], held: frozenset[str] = frozenset()
    ) -> None:
        """Close an adapter that fails where the base is right, and that no other server answers with.

        Args:
            held: names the server had before; it may have lost what is in them, so they get a second chance.
        """
        try:
            await work
        except (AdapterInvalid, AttestationFailed) as error:
            await replica.drop(item.name)
            await replica.prove_base(self._base)  # if this fails, the server is to blame
            if item.name in held or self._rotation.serving():
                raise
            log.error("%s is not served any more: %s", item.ref.version, error)
            item.closed = item.broken = True
            if not item.users:
                self._spawn(self._drop(item))

    async def _silence(self, replica: Replica, error: ServerSilent) -> None:
        replica.silences += 1
        if replica.silences >= SILENT:
            self._rotation.lost(replica, error)
        if replica.silences >= HANGING and self._owned(replica) and self._host is not None:
            replica.silences = 0
            await self._restart(replica, self._host, str(error))

    async def _mismatch(self, replica: Replica, error: AttestationFailed) -> None:
        """A server that computes something else is started anew where honed can."""
        replica.mismatches += 1
        self._rotation.lost(replica, error)
        log.error("%s", error)
        if self._owned(replica) and self._host is not None:
            await self._restart(replica, self._host, str(error))

    async def _restart(self, replica: Replica, host: Host, reason: str) -> None:
        """Restart a server while nobody takes it in again."""
        self._rotation.turn(replica, State.LEAVING)
        replica.detail = reason
        try:
            await host.restart(reason)
        finally:
            self._rotation.turn(replica, State.AWAY)

    # Making room

    async def _room(self, version: str) -> None:
        """Wait for a slot: closed versions keep theirs until their last answer has ended.

        Raises:
            EngineBusy: none became free.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.load):
                while len(self.served.keys() - {version}) >= self._limits.slots - 1:
                    if not any(item.closed for item in self.served.values()):
                        break
                    await asyncio.sleep(0.05)
        if len(self.served.keys() - {version}) >= self._limits.slots - 1:
            raise EngineBusy(
                f"{len(self.served)} adapters are loaded and one slot must stay empty: raise "
                f"policies.engine.max_loras above {self._limits.slots}, or lower daemon.keep_loaded"
            )

    async def _drop(self, item: Served) -> None:
        async with self._changing:
            if not item.closed or item.users or self.served.get(item.ref.version) is not item:
                return
            del self.served[item.ref.version]
            await self._drop_on(self._rotation.serving(), item.name)

    async def _drop_on(self, replicas: Sequence[Replica], name: str) -> None:
        for replica in replicas:
            try:
                await replica.drop(name)
            except EngineError as error:
                self._rotation.lost(replica, error)  # what it still holds goes when it comes back

    # Planned restarts

    def _watch_memory(self) -> None:
        """Start the owned server anew, when nobody is using it, once adapters have made it grow too far."""
        if self._host is None:
            return
        now = self._host.memory()
        if self._memory is None:
            self._memory = now
        elif now - self._memory > self._limits.growth:
            grown, self._memory = now - self._memory, None
            reason = (
                f"it grew by {grown / 2**20:.0f} MiB over its adapters (policies.engine.recycle_growth_mb)"
            )
            self._spawn(self._recycle(self._rotation.replicas[0], self._host, reason))

    async def _recycle(self, replica: Replica, host: Host, reason: str) -> None:
        # Where nobody else answers, wait for a quiet moment rather than make one.
        while True:
            async with self._changing:
                quiet = not replica.running or len(self._rotation.serving()) > 1
                if quiet and replica.state is State.SERVING:
                    self._rotation.turn(replica, State.LEAVING)
                    break
            await asyncio.sleep(LOOK_EVERY)
        replica.detail = f"a planned restart: {reason}"
        await self._rotation.drained(replica, None)
        await self._restart(replica, host, reason)
        self._memory = None

    # Small things

    def _owned(self, replica: Replica) -> bool:
        return self._host is not None and replica is self._rotation.replicas[0]

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
