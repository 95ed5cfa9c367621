"""The power is cut while a store is made, votes are written and an adapter is published; see `make power-loss`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.power import needed, record
from tests.power.replay import Check, Recording, replay
from tests.power.trace import Call

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Recording, Check]]:
    needed.strace()
    yield record.store_alone(tmp_path_factory.mktemp("power"))


def test_what_was_acknowledged_outlives_a_power_cut_at_any_instant(
    recording: tuple[Recording, Check], tmp_path: Path
) -> None:
    found = replay(*recording, tmp_path, drawn=1, every=6)
    assert found.violations == []
    assert (found.acknowledged, found.bad) == (16, 0)
    assert found.instants >= 20 and found.images == 5 * found.instants


def about(call: Call, name: bytes) -> bool:
    return call.name in ("fsync", "fdatasync") and (call.files[0].path or b"").endswith(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (b"/honed.db-wal", "was acknowledged and is there 0 times"),
        (b"/state", "no database"),
        (b"/iterations", "does not verify"),
        (b"/adapter_model.safetensors", "does not verify"),
    ],
)
def test_without_one_of_the_syncs_it_would_not(
    recording: tuple[Recording, Check], tmp_path: Path, name: bytes, said: str
) -> None:
    found = replay(*recording, tmp_path, drawn=0, every=23, unheard=lambda call: about(call, name))
    assert any(said in violation for violation in found.violations), found


@pytest.mark.parametrize("after", ["on", "die"])
def test_after_a_failed_sync_nothing_that_is_acknowledged_later_rests_on_what_it_left_in_memory(
    tmp_path: Path, after: str
) -> None:
    needed.strace()
    recording, check = record.refused_once(tmp_path / "recorded", after=after)
    found = replay(recording, check, tmp_path / "images", drawn=1, every=9)
    assert found.violations == []
    assert found.acknowledged == len(recording.told) == {"on": 41, "die": 36}[after]
