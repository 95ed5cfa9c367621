"""Swap attestation: the engine must compute what the trainer measured, or the adapter is not published.

Adapters that never arrived, arrived on other weights, or stayed in a stale cache all answer fluently; only
their log-probabilities give them away. Checked after every load, before any user is answered.
"""

from collections.abc import Sequence
from dataclasses import replace

from daemon.runtime import Runtime
from policies.engine import KnownText, Proof
from policies.spec import AttestationRow
from store.errors import AttestationFailed
from store.failpoints import failpoint
from store.records import Adapter, Message


def gap(expected: Sequence[float], measured: Sequence[float]) -> float:
    """Mean absolute difference, nats per token; infinite when the token counts differ."""
    if len(expected) != len(measured):
        return float("inf")
    if not expected:
        return 0.0
    return sum(abs(a - b) for a, b in zip(expected, measured, strict=True)) / len(expected)


def worst_gap(expected: Sequence[Sequence[float]], measured: Sequence[Sequence[float]]) -> float:
    """The largest row's gap; NaN anywhere counts as infinite, so that it never passes."""
    gaps = [gap(a, b) for a, b in zip(expected, measured, strict=True)]
    return max((g if g == g else float("inf") for g in gaps), default=float("inf"))


def proof_of(runtime: Runtime, rows: Sequence[AttestationRow]) -> Proof:
    """The trainer's numbers for an engine that holds every copy against them by itself, now and after restarts."""
    texts = (
        KnownText(
            tuple(Message(turn.role, turn.content) for turn in row.prompt),
            row.continuation,
            tuple(row.logprobs),
            tuple(row.base_logprobs),
        )
        for row in rows
    )
    return Proof(tuple(texts), runtime.config.daemon.gate.attestation_tolerance)


async def attest(runtime: Runtime, version: str, rows: Sequence[AttestationRow]) -> float:
    """Hold a resident adapter, and the base beside it, against the trainer's numbers. Returns the worst gap.

    Raises:
        AttestationFailed: a gap above the tolerance, or nothing to compare with.
    """
    if not rows:
        raise AttestationFailed(f"{version}: the trainer left no log-probabilities to compare with")
    prompts = [[Message(turn.role, turn.content) for turn in row.prompt] for row in rows]
    texts = [row.continuation for row in rows]
    tolerance = runtime.config.daemon.gate.attestation_tolerance
    worst = 0.0
    for adapter, expected in ((version, [r.logprobs for r in rows]), (None, [r.base_logprobs for r in rows])):
        measured = await runtime.engine.score(prompts, texts, adapter=adapter)
        difference = worst_gap(expected, measured)
        if difference > tolerance:
            raise AttestationFailed(
                f"{version}: the engine's log-probabilities for {adapter or 'base'} differ from the trainer's by "
                f"{difference:.4g} nats/token, {tolerance:g} allowed"
            )
        worst = max(worst, difference)
    runtime.attested.add(version)
    return worst


async def load_and_attest(runtime: Runtime, adapter: Adapter, rows: Sequence[AttestationRow]) -> None:
    """Make a version ready to be served; on any failure it is not left in the engine.

    Raises:
        AdapterInvalid: the files do not verify.
        AttestationFailed: the engine does not reproduce the trainer's numbers.
    """
    resident = adapter.version in await runtime.engine.resident()
    if resident and adapter.version in runtime.attested:
        return
    await runtime.engine.load(replace(runtime.reference(adapter), proof=proof_of(runtime, rows)))
    failpoint("iteration.loaded")
    try:
        await attest(runtime, adapter.version, rows)
    except BaseException:  # cancelled in between is not attested either
        runtime.attested.discard(adapter.version)
        await runtime.engine.unload(adapter.version)
        raise
