"""Promotion and rollback move one row, after the engine proved it can follow."""

from pathlib import Path

import pytest

from daemon.gate import Claim, Decision, Outcome
from daemon.iteration import prove
from daemon.promote import Order, final_decision, kept_versions, promote, roll_back
from daemon.rebuild import Trained
from daemon.runtime import Runtime
from policies.fake_engine import FakeEngine, FakeLimits
from store.db import Store
from store.errors import AdapterInvalid, AttestationFailed, Invalid, NotFound, RefusedByGate
from store.records import AdapterStatus, Intent, IntentKind, IntentStatus, Stage
from tests.daemon.conftest import Stale, attestation, candidate_of, report_of, run, runtime_with, settle_one

ONE, TWO, THREE = "it0001-00000001", "it0002-00000002", "it0003-00000003"
ORDER = Order("ann", "because")


def serving(runtime: Runtime) -> str:
    active = runtime.store.adapters.active()
    return active.version if active else "base"


def test_a_promoted_candidate_is_served_and_everything_is_written_together(runtime: Runtime) -> None:
    ended = run(lambda: settle_one(runtime, ONE), runtime)
    assert (ended.stage, ended.candidate, serving(runtime)) == (Stage.ACTIVE, ONE, ONE)
    assert runtime.store.adapters.get(ONE).status is AdapterStatus.ACTIVE
    assert runtime.store.metrics.get(ended.id) == {"train/steps": 3.0}
    (entry,) = runtime.store.audit.list()
    assert (entry.actor, entry.action, entry.subject) == ("gate", "promote", ONE)


@pytest.mark.parametrize(
    ("outcome", "stage", "status"),
    [
        (Outcome.REJECT, Stage.REJECTED, AdapterStatus.REJECTED),
        (Outcome.HOLD, Stage.HELD, AdapterStatus.HELD),
    ],
)
def test_what_is_not_promoted_changes_nothing_served(
    runtime: Runtime, outcome: Outcome, stage: Stage, status: AdapterStatus
) -> None:
    async def work() -> tuple[str, ...]:
        await settle_one(runtime, ONE, outcome)
        return await runtime.engine.resident()

    assert run(work, runtime) == ()
    last = runtime.store.iterations.last()
    assert last is not None
    assert (last.stage, serving(runtime)) == (stage, "base")
    assert runtime.store.adapters.get(ONE).status is status


def test_rollback_goes_to_the_parent_and_then_to_base(runtime: Runtime) -> None:
    async def work() -> list[str]:
        await settle_one(runtime, ONE)
        await settle_one(runtime, TWO)
        return [await roll_back(runtime, None, ORDER), await roll_back(runtime, None, ORDER)]

    assert run(work, runtime) == [ONE, "base"]
    assert serving(runtime) == "base"
    assert runtime.store.adapters.get(TWO).status is AdapterStatus.ROLLED_BACK
    assert [i.stage for i in runtime.store.iterations.list()] == [Stage.ROLLED_BACK, Stage.ROLLED_BACK]


def test_a_rollback_passes_over_a_parent_that_was_rolled_back_itself(runtime: Runtime) -> None:
    async def work() -> str:
        await settle_one(runtime, ONE)
        await settle_one(runtime, TWO, Outcome.HOLD)
        await roll_back(runtime, None, ORDER)
        await promote(runtime, TWO, ORDER)
        return await roll_back(runtime, None, ORDER)

    assert run(work, runtime) == "base"


def test_a_rolled_back_adapter_can_be_promoted_again_by_hand(runtime: Runtime) -> None:
    async def work() -> str:
        await settle_one(runtime, ONE)
        await roll_back(runtime, None, ORDER)
        return await promote(runtime, ONE, ORDER)

    assert run(work, runtime) == ONE
    last = runtime.store.iterations.last()
    assert last is not None and last.stage is Stage.ACTIVE
    assert serving(runtime) == ONE


def test_a_held_adapter_waits_for_a_person(runtime: Runtime) -> None:
    async def work() -> str:
        await settle_one(runtime, ONE, Outcome.HOLD)
        return await promote(runtime, ONE, ORDER)

    assert run(work, runtime) == ONE
    assert serving(runtime) == ONE


def test_what_a_gate_rejected_cannot_be_served_by_any_door(runtime: Runtime) -> None:
    async def work() -> None:
        await settle_one(runtime, ONE, Outcome.REJECT)
        with pytest.raises(RefusedByGate):
            await promote(runtime, ONE, ORDER)
        with pytest.raises(RefusedByGate):
            await roll_back(runtime, ONE, ORDER)

    run(work, runtime)
    assert serving(runtime) == "base"


def test_orders_that_make_no_sense_are_refused(runtime: Runtime) -> None:
    async def work() -> None:
        with pytest.raises(Invalid, match="nothing to roll back"):
            await roll_back(runtime, None, ORDER)
        with pytest.raises(NotFound):
            await promote(runtime, "it0009-00000009", ORDER)
        await settle_one(runtime, ONE)
        with pytest.raises(Invalid, match="already"):
            await roll_back(runtime, ONE, ORDER)
        with pytest.raises(Invalid, match="already"):
            await promote(runtime, ONE, ORDER)

    run(work, runtime)


def test_a_candidate_measured_against_another_incumbent_is_held(runtime: Runtime) -> None:
    """An operator rolled back while it trained."""

    async def work() -> None:
        await settle_one(runtime, ONE)
        store = runtime.store
        begun = store.iterations.begin(trigger="test", incumbent=ONE, config={})
        await roll_back(runtime, None, ORDER)
        from daemon.promote import Settlement, settle
        from tests.daemon.conftest import attestation, candidate_of, report_of

        report = report_of(TWO, await attestation(TWO))
        decision = Decision(Outcome.PROMOTE, (), ("fine",))
        ended = await settle(runtime, Settlement(begun, candidate_of(begun, TWO), report, decision, {}))
        assert ended.stage is Stage.HELD
        assert "changed while" in (ended.reason or "")

    run(work, runtime)
    assert serving(runtime) == "base"


def test_a_rollback_to_what_the_engine_cannot_reproduce_does_not_happen(store: Store, tmp_path: Path) -> None:
    good = runtime_with(store, Stale(FakeLimits(verify=False)), tmp_path)

    async def work() -> None:
        # Attested while the engine was honest; a new engine process has to prove itself again.
        good.attested.update({ONE, TWO})
        from policies.engine import AdapterRef

        for version in (ONE, TWO):
            await good.engine.load(AdapterRef(version, tmp_path, ""))
            await settle_one(good, version)
        good.attested.clear()
        with pytest.raises(AttestationFailed):
            await roll_back(good, ONE, ORDER)

    run(work, good)
    assert serving(good) == TWO


def test_the_intent_is_closed_with_the_rollback_it_asked_for(runtime: Runtime) -> None:
    intent = Intent("i1", 1.0, IntentKind.ROLLBACK, "ann", "worse", {}, IntentStatus.PENDING)

    async def work() -> None:
        await settle_one(runtime, ONE)
        runtime.store.intents.add(intent)
        await roll_back(runtime, None, Order("ann", "worse", "i1"))

    run(work, runtime)
    assert runtime.store.intents.get("i1").outcome == {"serving": "base"}
    assert runtime.store.intents.pending() == []


def test_only_the_last_served_versions_stay_in_the_engine(runtime: Runtime) -> None:
    async def work() -> tuple[str, ...]:
        for version in (ONE, TWO, THREE):
            await settle_one(runtime, version)
        return await runtime.engine.resident()

    assert set(run(work, runtime)) == {TWO, THREE}
    assert kept_versions(runtime.store, 2) == (THREE, TWO)
    assert kept_versions(runtime.store, 9) == (THREE, TWO, ONE)


@pytest.mark.parametrize(
    ("outcome", "moved", "held"),
    [
        (Outcome.PROMOTE, True, "was changed while"),
        (Outcome.CANARY, False, "daemon.canary.steps has none"),
    ],
)
def test_a_candidate_that_is_held_after_all_keeps_what_the_gate_found(
    store: Store, outcome: Outcome, moved: bool, held: str
) -> None:
    verdict = Decision(outcome, (), ("every limit is kept", "improved: 60%"), Claim.IMPROVED)
    incumbent = ONE if moved else None
    found = final_decision(store, verdict, incumbent=incumbent, shares=())
    assert (found.outcome, found.claim, found.reasons[1:]) == (Outcome.HOLD, Claim.IMPROVED, verdict.reasons)
    assert held in found.reasons[0]


def test_an_adapter_whose_files_are_damaged_is_not_gone_back_to_nor_promoted_and_nothing_changes(
    runtime: Runtime, tmp_path: Path
) -> None:
    strict = runtime_with(runtime.store, FakeEngine(), tmp_path)  # believes no files that do not verify

    async def settled() -> None:
        await settle_one(runtime, ONE)
        await settle_one(runtime, TWO)
        await settle_one(runtime, THREE, Outcome.HOLD)

    async def moved() -> None:
        with pytest.raises(AdapterInvalid, match=ONE):
            await roll_back(strict, None, ORDER)
        with pytest.raises(AdapterInvalid, match=THREE):
            await promote(strict, THREE, ORDER)
        assert await roll_back(strict, "base", ORDER) == "base", "base needs no files"

    run(settled, runtime)
    before = [(one.version, one.status) for one in runtime.store.adapters.list()]
    moves = len(runtime.store.adapters.activations())
    run(moved, strict)
    after = [(one.version, one.status) for one in runtime.store.adapters.list()]
    assert len(runtime.store.adapters.activations()) == moves + 1
    assert [one for one in after if one not in before] == [(TWO, AdapterStatus.ROLLED_BACK)]


def test_a_candidate_damaged_after_it_was_trained_is_rejected_whatever_the_gate_said(
    store: Store, tmp_path: Path
) -> None:
    runtime = runtime_with(store, FakeEngine(), tmp_path)

    async def work() -> Decision:
        begun = store.iterations.begin(trigger="test", incumbent=None, config={})
        report = report_of(ONE, await attestation(ONE))
        fine = Decision(Outcome.PROMOTE, (), ("within limits",))
        return await prove(runtime, Trained(candidate_of(begun, ONE), report, {}, fine, rebuilt=False))

    decision = run(work, runtime)
    assert decision.outcome is Outcome.REJECT
    assert ONE in decision.reason
