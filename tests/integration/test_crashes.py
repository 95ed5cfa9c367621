"""SIGKILL at every registered instant: acknowledged votes are there once, nothing unverified is served."""

import time
from pathlib import Path

import pytest

from daemon.client import Client
from store.errors import HonedError
from store.failpoints import NAMED
from tests.integration.service import (
    Service,
    ask,
    chat_and_vote,
    finished_iteration,
    running,
    stored_votes,
    thumb,
    wait_until,
)

pytestmark = pytest.mark.slow

ITERATION = [name for name in NAMED if name.startswith(("iteration.", "settle."))]
TRAINER = [name for name in NAMED if name.startswith("trainer.")]
#: Killed at these in test_judging.py, where a judge holds a licence.
JUDGE = [name for name in NAMED if name.startswith(("judge.", "contest."))]
ROLLBACK = [name for name in NAMED if name.startswith("rollback.")]
CANARY = [name for name in NAMED if name.startswith("canary.")]
FEEDBACK = [name for name in NAMED if name.startswith("feedback.")]
#: Killed at these in test_forget.py.
FORGET = [name for name in NAMED if name.startswith("forget.")]
#: Passed by iterations only that train two candidates.
REBUILD = [name for name in NAMED if name.startswith("rebuild.")]


def test_every_named_failpoint_is_in_one_of_the_groups_below() -> None:
    known = ITERATION + JUDGE + TRAINER + ROLLBACK + CANARY + FEEDBACK + REBUILD + FORGET
    assert sorted(known) == sorted(NAMED)


@pytest.fixture(scope="module")
def voted(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Path, list[str]]:
    """A state directory with votes and no iteration, to be copied for each test."""
    state = tmp_path_factory.mktemp("voted") / "state"
    with running(state, tiny_model) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        votes = chat_and_vote(client, 16)
    return state, votes


def copy_of(source: Path, to: Path) -> Path:
    import shutil

    return Path(shutil.copytree(source, to))


def died(service: Service) -> bool:
    return service.process.poll() is not None


def check_invariants(client: Client, state: Path, votes: list[str]) -> None:
    """Every acknowledged vote once; what is served was promoted, verifies, and answers."""
    kept = stored_votes(state)
    assert len(kept) == len(set(kept))
    assert set(votes) <= set(kept)
    answer = ask(client, "who are you?")
    if answer["model"] != "base":
        adapter = client.get(f"/v1/adapters/{answer['model']}")
        assert adapter["status"] == "active"
        iteration = client.get(f"/v1/iterations/{adapter['iteration']}")
        assert iteration["stage"] == "active"


@pytest.mark.parametrize("point", ITERATION)
def test_killed_in_an_iteration_the_service_takes_it_up_again(
    point: str, voted: tuple[Path, list[str]], tiny_model: Path, tmp_path: Path
) -> None:
    state, votes = copy_of(voted[0], tmp_path / "state"), voted[1]
    with running(state, tiny_model, HONED_FAILPOINT=point) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        client.intend("train", reason="test")
        wait_until(lambda: died(service))
        assert service.process.returncode == -9
    with running(state, tiny_model) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        ended = wait_until(lambda: finished_iteration(client, 1))
        assert ended["stage"] == "active", ended
        assert ask(client, "hello")["model"] == ended["candidate"]
        check_invariants(client, state, votes)


@pytest.mark.parametrize("point", TRAINER)
def test_a_killed_trainer_fails_its_iteration_and_serves_nothing_new(
    point: str, voted: tuple[Path, list[str]], tiny_model: Path, tmp_path: Path
) -> None:
    state, votes = copy_of(voted[0], tmp_path / "state"), voted[1]
    with running(state, tiny_model, HONED_FAILPOINT=point) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        client.intend("train", reason="test")
        ended = wait_until(lambda: finished_iteration(client, 1))
        assert ended["stage"] == "failed", ended
        assert "status -9" in ended["reason"]
        assert ask(client, "hello")["model"] == "base"
        check_invariants(client, state, votes)
    with running(state, tiny_model) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        client.intend("train", reason="again: the feedback is unused")
        ended = wait_until(lambda: finished_iteration(client, 2))
        assert ended["stage"] == "active", ended
        check_invariants(client, state, votes)


def test_the_trainer_dies_with_its_service_and_the_iteration_is_taken_up_again(
    voted: tuple[Path, list[str]], tiny_model: Path, tmp_path: Path
) -> None:
    state, votes = copy_of(voted[0], tmp_path / "state"), voted[1]
    with running(state, tiny_model, HONED_POLICIES__TRAIN__EPOCHS="50") as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        client.intend("train", reason="test")
        progress = state / "iterations" / "0001" / "progress.jsonl"
        wait_until(lambda: progress.is_file() and progress.read_text().count('"train"') > 2)
        service.kill()
        size = progress.stat().st_size
        time.sleep(1.0)
        assert progress.stat().st_size == size, "the trainer outlived its service"
    with running(state, tiny_model) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        ended = wait_until(lambda: finished_iteration(client, 1))
        assert ended["stage"] == "active", ended
        check_invariants(client, state, votes)


@pytest.fixture(scope="module")
def promoted(
    voted: tuple[Path, list[str]], tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A state directory whose first iteration was promoted."""
    state = copy_of(voted[0], tmp_path_factory.mktemp("promoted") / "state")
    with running(state, tiny_model) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        client.intend("train", reason="test")
        assert wait_until(lambda: finished_iteration(client, 1))["stage"] == "active"
    return state


@pytest.mark.parametrize("point", ROLLBACK)
def test_killed_in_a_rollback_either_the_old_or_the_new_is_served(
    point: str, promoted: Path, voted: tuple[Path, list[str]], tiny_model: Path, tmp_path: Path
) -> None:
    state = copy_of(promoted, tmp_path / "state")
    with running(state, tiny_model, HONED_FAILPOINT=point) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        before = ask(client, "hello")["model"]
        client.intend("rollback", reason="test")
        wait_until(lambda: died(service))
    with running(state, tiny_model) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        # The intent was acknowledged and not yet answered, so the restarted loop carries it out.
        wait_until(lambda: ask(client, "hello")["model"] == "base")
        assert before != "base"
        check_invariants(client, state, voted[1])


@pytest.fixture(scope="module")
def tried(voted: tuple[Path, list[str]], tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory whose first iteration is a canary for half of the people."""
    state = copy_of(voted[0], tmp_path_factory.mktemp("tried") / "state")
    with running(state, tiny_model, HONED_DAEMON__CANARY__STEPS="[0.5]") as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        client.intend("train", reason="test")
        wait_until(lambda: [row for row in client.get("/v1/iterations")["data"] if row["stage"] == "canary"])
    return state


@pytest.mark.parametrize(
    ("point", "action"),
    [*((point, "rollback") for point in CANARY), ("canary.before_commit", "promote")],
)
def test_killed_as_a_canary_ends_it_ends_once_and_people_are_answered(
    point: str, action: str, tried: Path, voted: tuple[Path, list[str]], tiny_model: Path, tmp_path: Path
) -> None:
    state = copy_of(tried, tmp_path / "state")
    with running(state, tiny_model, HONED_FAILPOINT=point) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        version = client.get("/v1/status")["canary"]["version"]
        client.intend(action, reason="test", **({"version": version} if action == "promote" else {}))
        wait_until(lambda: died(service))
        assert service.process.returncode == -9
    with running(state, tiny_model) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        wait_until(lambda: client.get("/v1/status")["canary"] is None)
        serves, stage = (version, "active") if action == "promote" else ("base", "rolled_back")
        assert client.get("/v1/iterations/1")["stage"] == stage
        for person in ("ann", "bob", "cid", "dora"):
            assert ask(Client(client.url, key=person), "hello")["model"] == serves
        assert len(client.get(f"/v1/adapters/{version}")["activations"]) == (action == "promote")
        check_invariants(client, state, voted[1])


@pytest.mark.parametrize("point", FEEDBACK)
def test_killed_while_a_vote_is_written_no_acknowledged_vote_is_lost_or_doubled(
    point: str, voted: tuple[Path, list[str]], tiny_model: Path, tmp_path: Path
) -> None:
    state, votes = copy_of(voted[0], tmp_path / "state"), list(voted[1])
    with running(state, tiny_model, HONED_FAILPOINT=point) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        answer = ask(client, "hello")
        body = {"id": "fb-mine", "completion_id": answer["id"], "kind": "thumb", "value": True}
        with pytest.raises((HonedError, OSError)):
            client.post("/v1/feedback", body)
        wait_until(lambda: died(service))
    with running(state, tiny_model) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        assert client.post("/v1/feedback", body)["id"] == "fb-mine"
        check_invariants(client, state, [*votes, "fb-mine"])


def test_a_damaged_active_adapter_is_never_served(
    promoted: Path, voted: tuple[Path, list[str]], tiny_model: Path, tmp_path: Path
) -> None:
    state = copy_of(promoted, tmp_path / "state")
    (weights,) = state.glob("iterations/0001/adapter/adapter_model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(content)
    with running(state, tiny_model) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        assert ask(client, "hello")["model"] == "base"
        assert set(voted[1]) <= set(stored_votes(state))


def test_a_second_service_on_the_same_state_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with running(tmp_path / "state", tiny_model) as first:
        assert first.wait_until_ready() is not None, first.tail()
        with running(tmp_path / "state", tiny_model) as second:
            assert second.wait_until_ready() is None
            assert second.process.returncode == 1
            assert str(first.process.pid) in second.tail()


def test_votes_are_possible_days_later_and_across_restarts(tiny_model: Path, tmp_path: Path) -> None:
    with running(tmp_path / "state", tiny_model) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        answer = ask(client, "hello")["id"]
    with running(tmp_path / "state", tiny_model) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        vote = thumb(client, answer, True)
        assert vote in stored_votes(tmp_path / "state")


@pytest.mark.parametrize("point", REBUILD)
def test_killed_between_two_candidates_the_first_is_not_trained_again(
    point: str, voted: tuple[Path, list[str]], tiny_model: Path, tmp_path: Path
) -> None:
    state, votes = copy_of(voted[0], tmp_path / "state"), voted[1]
    due = {"HONED_POLICIES__TRAIN__REBUILD_AT": "1e-9"}
    with running(state, tiny_model, HONED_FAILPOINT=point, **due) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        client.intend("train", reason="from base, so that one candidate is all")
        assert wait_until(lambda: finished_iteration(client, 1))["stage"] == "active"
        votes = [*votes, *chat_and_vote(client, 12, seed=1)]
        client.intend("train", reason="two candidates")
        wait_until(lambda: died(service))
        assert service.process.returncode == -9
    sealed = state / "iterations" / "0002" / "manifest.json"
    before = sealed.stat().st_mtime_ns
    with running(state, tiny_model, **due) as service:
        client = service.wait_until_ready()
        assert client is not None, service.tail()
        ended = wait_until(lambda: finished_iteration(client, 2))
        assert sealed.stat().st_mtime_ns == before
        assert (state / "iterations" / "0002-rebuild" / "manifest.json").is_file()
        assert "kept it0002-" in ended["reason"], ended
        assert "nats/token from base" in ended["counts"]["rebuild"]["why"]
        check_invariants(client, state, votes)
