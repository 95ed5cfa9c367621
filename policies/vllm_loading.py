"""Loading an adapter onto several vLLM servers: each takes and proves it, in time, or leaves the rotation."""

import asyncio
from collections.abc import Awaitable, Sequence

from policies.vllm_client import AWAY
from policies.vllm_replica import BASE_SALT, Expected, Replica, Served, together
from policies.vllm_rotation import Rotation
from store.errors import AdapterInvalid, AttestationFailed, EngineError, EngineUnavailable, HonedError

#: Which of several servers' reasons is told: a fault of the adapter says more than a server that is away.
_GRAVITY: dict[type[HonedError], int] = {AttestationFailed: 2, AdapterInvalid: 1}


class Loading:
    """Belongs to one event loop."""

    def __init__(self, rotation: Rotation, patience: float) -> None:
        """`patience`: seconds for one server to load an adapter, and again to prove it."""
        self._rotation, self._patience = rotation, patience

    async def on(
        self, targets: Sequence[Replica], item: Served, base: Sequence[Expected], probe: Expected
    ) -> None:
        """Load and prove on each; those that are away or late leave the rotation.

        Args:
            base: what the base must compute.
            probe: what an adapter without a proof is asked, so that all copies agree.

        Raises:
            AdapterInvalid, AttestationFailed, EngineUnavailable: no server has it now; the gravest reason.
        """
        added = await together(self._within(replica, replica.add(item)) for replica in targets)
        ready = [replica for replica, error in zip(targets, added, strict=True) if error is None]
        if ready and not item.expected:
            item.expected = await measured(ready[0], item.name, probe, item.ref.digest)
        proven = await together(self._within(replica, replica.prove(item, base)) for replica in ready)
        errors = [error for error in (*added, *proven) if error is not None]
        if ready and None in proven:
            for replica, error in zip([*targets, *ready], [*added, *proven], strict=True):
                if error is not None:
                    self._rotation.lost(replica, error)
            return
        raise max(errors, key=lambda error: _GRAVITY.get(type(error), 0), default=self._rotation.nobody())

    async def _within(self, replica: Replica, work: Awaitable[None]) -> HonedError | None:
        """Run a server's share of a load. Returns what went wrong."""
        try:
            async with asyncio.timeout(self._patience):
                await work
        except TimeoutError:
            late = EngineUnavailable(
                f"{replica.url} did not load an adapter within {self._patience:g} s "
                "(policies.engine.load_timeout)",
                retry_after=AWAY,
            )
            self._rotation.lost(replica, late)
            return late
        except (AdapterInvalid, AttestationFailed) as error:
            return error
        except EngineError as error:
            self._rotation.lost(replica, error)
            return error
        return None


async def base_measured(replica: Replica, probe: Expected) -> list[Expected]:
    """What a server's base computes for the probe, as what others must."""
    return await measured(replica, replica.base, probe, BASE_SALT)


async def measured(replica: Replica, name: str, probe: Expected, salt: str) -> list[Expected]:
    """What one server computes for the probe, as what others must."""
    (found,) = await replica.measure(name, [probe], salt)
    return [Expected(probe.prompt, probe.answer, tuple(found))]
