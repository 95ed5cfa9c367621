"""What `honed doctor` finds in the state directory: who may read it, the database, its log, adapters, the model."""

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from daemon.config import Config
from daemon.retention import MAY_SERVE
from daemon.state_files import DATABASE, SECRET, SERVICE
from store.db import Store
from store.errors import HonedError
from store.reading import read_model

Finding = dict[str, Any]

#: Seconds by which what was recorded may lie ahead of the clock.
CLOCK_SLACK = 60.0
#: Bytes of `service.json` at the most.
SERVICE_BYTES = 4096


class Running(BaseModel):
    """`service.json`: which process serves, and where."""

    pid: int
    url: str


_RUNNING = TypeAdapter(Running)


def finding(name: str, ok: bool, detail: str, remedy: str = "") -> Finding:
    return {"name": name, "ok": ok, "detail": detail, "remedy": "" if ok else remedy}


def service(directory: Path) -> Running | None:
    """The service that runs on this directory; a file that a killed one left, or that is none, says nothing."""
    try:
        running = read_model(directory / SERVICE, _RUNNING, most=SERVICE_BYTES)
    except HonedError:
        return None
    return running if is_alive(running.pid) else None


def is_alive(pid: int) -> bool:
    """Whether a process of that number exists; the file of a killed service stays behind."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def private(name: str, path: Path, detail: str) -> Finding:
    """Whether nobody but its owner can read or write a file or folder."""
    mode = stat.S_IMODE(path.stat().st_mode)
    ok = not mode & 0o077
    remedy = f"chmod {'700' if path.is_dir() else '600'} {path}"
    return finding(name, ok, detail if ok else f"{path} is open to other users (mode {mode:04o})", remedy)


def who(directory: Path) -> list[Finding]:
    """Who else may read what people said, or put files there."""
    if not directory.is_dir():
        return []
    found = [private("state", directory, f"{directory} is its owner's only")]
    if (directory / SECRET).is_file():
        found.append(private("receipt key", directory / SECRET, str(directory / SECRET)))
    return found


def database(directory: Path) -> Iterator[Finding]:
    """Whether it can be read, is of this version, holds its log, and is not ahead of the clock."""
    path = directory / DATABASE
    if not path.is_file():
        yield finding("database", True, f"none yet at {path}; the first start makes it")
        return
    try:
        store = Store.read_only(path)
    except HonedError as error:
        yield finding("database", False, str(error), "install the honed that wrote it, or restore a backup")
        return
    try:
        counts = f"{store.completions.count()} answers, {store.feedback.count()} events"
        yield finding("database", True, counts)
        yield audit(store)
        yield clock(store, time.time())
    finally:
        store.close()


def audit(store: Store) -> Finding:
    """Whether the audit log is what was written."""
    from daemon.audit import told

    found = store.audit.verify()
    remedy = (
        "somebody changed the database: find out who can write to it, compare with a backup "
        "(`honed backup` shows its log), and see docs/security.md"
    )
    return finding("audit log", found.broken is None, told(found), remedy)


def clock(store: Store, now: float) -> Finding:
    """Whether the clock is behind what was recorded by it."""
    latest = max((entry.at for entry in store.audit.list(limit=1)), default=0.0)
    latest = max(latest, *(one.created_at for one in store.completions.recent(limit=1)), 0.0)
    ahead = latest - now
    ok = ahead <= CLOCK_SLACK
    detail = "not behind what was recorded" if ok else f"{ahead:.0f} s behind what was recorded"
    remedy = "set the clock (NTP); keys to receipts, quiet hours, canaries and retention go by it"
    return finding("clock", ok, detail, remedy)


def served(directory: Path) -> list[Finding]:
    """Whether the files of every adapter that may answer people are what was trained."""
    path = directory / DATABASE
    if not path.is_file():
        return []
    from policies.adapters import verify_adapter

    try:
        store = Store.read_only(path)
    except HonedError:
        return []  # told of already
    try:
        adapters = [one for one in store.adapters.list() if one.status in MAY_SERVE]
    finally:
        store.close()
    remedy = "restore its files from a backup, or `honed rollback` to another version"
    found = []
    for one in adapters:
        try:
            verify_adapter(directory / one.path, one.digest)
        except HonedError as error:
            found.append(finding(f"adapter {one.version}", False, str(error), remedy))
    return found or [finding("adapters", True, f"{len(adapters)} that may be served are what was trained")]


def model(config: Config) -> Finding:
    """Whether the base model is there, and its weights whole."""
    from policies.engines import locate_model
    from policies.weights import check_weights, local_model

    remedy = "set policies.engine.model, or run `make install`"
    try:
        where = locate_model(config.policies.engine, config.store.directory)
        folder = local_model(config.policies.engine.model, config.store.directory)
        if folder is not None:
            own = folder.is_relative_to(config.store.directory)
            remedy = f"delete {folder}: it is converted again" if own else f"fetch {folder} again"
            size = check_weights(folder)
            where = f"{where}, {size / 2**20:.0f} MiB of weights"
    except HonedError as error:
        return finding("model", False, str(error), remedy)
    return finding("model", True, where)
