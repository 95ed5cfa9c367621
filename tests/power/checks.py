"""What must hold of a state directory after a power cut, whatever else is in it."""

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

from daemon import trainer
from daemon.state_files import DATABASE, ITERATIONS, SECRET
from policies import spec
from policies.adapters import verify_adapter
from store.copying import holdings
from store.db import Store
from store.errors import HonedError
from store.records import SERVABLE, AdapterStatus, Stage

#: Adapters that are served, or may be without another look at a gate.
LOADABLE = SERVABLE | {AdapterStatus.ACTIVE, AdapterStatus.CANARY, AdapterStatus.HELD}
#: Stages in which an iteration goes on from its sealed inputs.
SEALED = (Stage.TRAINING, Stage.EVALUATING)
#: Where each kind of thing that a client was told of must be, exactly once.
QUERIES = {
    "vote": "select count(*) from feedback where id = ?",
    "answer": "select count(*) from completions where id = ? and status = 'done'",
    "order": "select count(*) from intents where id = ?",
}


def violations(state: Path, told: Mapping[str, str]) -> Iterator[str]:
    """What does not hold. `told`: id -> kind, of everything a client had been told is stored before the cut."""
    path = state / DATABASE
    if not path.is_file():
        if told:
            yield f"no database, and {len(told)} things were acknowledged"
        return
    try:
        with contextlib.closing(Store.open(path)) as store:
            yield from served(store, state)
            yield from under_way(store, state)
        holdings(path)
    except (HonedError, OSError, sqlite3.Error) as error:
        yield f"the database does not open: {type(error).__name__}: {error}"
        return
    yield from acknowledged(path, told)
    if "answer" in told.values() and (
        not (state / SECRET).is_file() or len((state / SECRET).read_bytes()) != 32
    ):
        yield "receipts were given, and the key that signs them is gone"


def acknowledged(path: Path, told: Mapping[str, str]) -> Iterator[str]:
    """Each of it is there, once."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        for name, kind in told.items():
            count = db.execute(QUERIES[kind], [name]).fetchone()[0]
            if count != 1:
                yield f"{kind} {name} was acknowledged and is there {count} times"


def served(store: Store, state: Path) -> Iterator[str]:
    """Every adapter that may answer somebody verifies."""
    for adapter in store.adapters.list():
        if adapter.status not in LOADABLE:
            continue
        try:
            verify_adapter(state / adapter.path, adapter.digest)
        except HonedError as error:
            yield f"{adapter.version} is {adapter.status} and does not verify: {error}"


def under_way(store: Store, state: Path) -> Iterator[str]:
    """What is sealed verifies, and the iteration that runs finds what it goes on from."""
    for manifest in sorted(state.glob(f"{ITERATIONS}/*/{spec.MANIFEST}")):
        try:
            spec.verify_manifest(manifest.parent)
            trainer.curve(manifest.parent)
        except (HonedError, ValueError) as error:
            yield f"{manifest} is sealed and cannot be gone on from: {error}"
    running = store.iterations.running()
    if running is not None and running.stage in SEALED:
        try:
            spec.read_snapshot(state / ITERATIONS / f"{running.id:04d}")
        except HonedError as error:
            yield f"iteration {running.id} is {running.stage} and its inputs do not verify: {error}"
