"""What is recorded: a real service on a tiny model, the commands beside it, and the store alone.

Each gives a `Recording` and what to hold its disks against.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from daemon.backup import restore, verify
from daemon.client import Client
from daemon.state_files import DATABASE
from store.copying import holdings
from store.errors import HonedError
from tests.integration.service import ROOT, Service, ask, finished_iteration, thumb, wait_until
from tests.power import trace
from tests.power.checks import violations
from tests.power.replay import Check, Recording

STATE = "state"


def recorded(
    work: Path, command: list[str], *inject: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, its calls in `work/calls`."""
    done = subprocess.run(
        [*trace.command(work / "calls", *inject), *command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    trace.wait_for(work / "calls")
    return done


def prepared(work: Path) -> Path:
    """An empty folder to record in."""
    for name in ("root", "before"):
        (work / name).mkdir(parents=True)
    return work / "root"


def store_alone(work: Path) -> tuple[Recording, Check]:
    """`tests.power.small` from nothing: the state directory lies in a folder that is not there either."""
    root = prepared(work)
    below = Path("deep") / STATE
    done = recorded(work, [sys.executable, "-m", "tests.power.small", str(root / below)])
    done.check_returncode()
    told = dict.fromkeys(done.stdout.split(), "vote")
    return Recording(work / "before", work / "calls", root, told), in_folder(below)


def refused_once(work: Path, *, after: str) -> tuple[Recording, Check]:
    """Votes of one process whose disk refuses one sync in the middle, killed there ("die") or not ("on"), and of the
    next one, on the same machine without a restart of that.
    """
    root = prepared(work)
    for name in ("root", "before"):
        (work / name / STATE).mkdir()
    runs = [[sys.executable, "-m", "tests.power.failing", str(root / STATE), run, after] for run in "ab"]
    # Counted by thread: the writer of the first process comes so far, nobody else does.
    done = recorded(work, ["sh", "-c", "; ".join(map(shlex.join, runs))], "fdatasync:error=EIO:when=26")
    assert done.stderr.count("the disk fails (disk I/O error); send it again later") == 1, done.stderr
    told = dict.fromkeys(done.stdout.split(), "vote")
    return Recording(work / "before", work / "calls", root, told), in_folder(Path(STATE))


def in_folder(below: Path) -> Check:
    def check(image: Path, told: Mapping[str, str]) -> Iterator[str]:
        yield from violations(image / below, told)

    return check


def service(work: Path, model: Path) -> tuple[Recording, Check]:
    """A first start, answers and votes, an iteration to its promotion, votes, a rollback, votes, a stop in order."""
    root = prepared(work)
    for name in ("root", "before"):
        (work / name / STATE).mkdir()
        (work / name / STATE / "service.log").touch()
    told: dict[str, str] = {}
    process = Service(root / STATE, model, prefix=trace.command(work / "calls"))
    try:
        client = process.wait_until_ready()
        assert client is not None, process.tail()
        talk(client, told, 16, seed=0)
        told[client.intend("train", reason="test")] = "order"
        ended = wait_until(lambda: finished_iteration(client, 1), seconds=300)
        assert ended["stage"] == "active", ended
        talk(client, told, 4, seed=1)
        back = client.intend("rollback", reason="test")
        told[back] = "order"
        assert client.wait(back)["status"] == "done"
        talk(client, told, 4, seed=2)
    finally:
        process.close()
    trace.wait_for(work / "calls")
    return Recording(work / "before", work / "calls", root, told), in_folder(Path(STATE))


def talk(client: Client, told: dict[str, str], count: int, *, seed: int) -> None:
    """Ask and vote, and note what came back."""
    for number in range(count):
        answer = ask(client, f"question {seed}/{number}", seed=1000 * seed + number, temperature=1.0)
        told[answer["id"]] = "answer"
        if answer["choices"][0]["message"]["content"].strip():
            told[thumb(client, answer["id"], number % 2 == 0)] = "vote"


def backed_up(work: Path, state: Path) -> tuple[Recording, Check]:
    """`honed backup` into a folder below one that is not there yet."""
    root = prepared(work)
    target = root / "backups" / "monday"
    command = [sys.executable, "-m", "daemon", "backup", str(target)]
    recorded(work, command, HONED_STORE__DIRECTORY=str(state)).check_returncode()
    told = {str(target): "backup"}

    def check(image: Path, told: Mapping[str, str]) -> Iterator[str]:
        made = image / "backups" / "monday"
        if made.exists():
            yield from fails(partial(verify, made))
        elif told:
            yield "the backup was told of and is not there"

    return Recording(work / "before", work / "calls", root, told), check


def put_back(work: Path, backup: Path) -> tuple[Recording, Check]:
    """`honed restore` into a state directory that is not there yet."""
    root = prepared(work)
    command = [sys.executable, "-m", "daemon", "restore", str(backup)]
    recorded(work, command, HONED_STORE__DIRECTORY=str(root / STATE)).check_returncode()
    expected = holdings(backup / DATABASE)

    def check(image: Path, told: Mapping[str, str]) -> Iterator[str]:
        state = image / STATE
        if (state / DATABASE).exists():
            yield from violations(state, {})
            if holdings(state / DATABASE) != expected:
                yield "the database is not the backup's"
        elif told:
            yield "the restore was told of and there is no database"
        else:  # it can be repeated
            yield from fails(partial(restore, backup, state))

    return Recording(work / "before", work / "calls", root, {str(root / STATE): "restored"}), check


def fails(action: partial[object]) -> Iterator[str]:
    try:
        action()
    except HonedError as error:
        yield str(error)
