"""`honed backup` and `honed restore`: all that a service cannot get again, in one folder, verified both ways.

In a backup: the database as of one moment, the run directories with their adapters, the key that signs receipts, and
`backup.json`, which names every file with its digest and is written last. Not in it: the model, which the
configuration names; the configuration; logs.

A backup is taken beside a running service. A run directory without a manifest is being written just then: its inputs
are taken, which never change, and the iteration trains again after a restore. All others do not change, but may go:
where somebody is forgotten after the database was copied, an adapter's files go with them, and all is copied again.
"""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from daemon.state_files import DATABASE, ITERATIONS, LOCK, SECRET
from policies.spec import BATTERY, EXAMPLES, HELDOUT, MANIFEST, PROBES, SNAPSHOT, SPEC
from store.copying import copy_database, holdings
from store.db import StateLock
from store.errors import HonedError, Invalid, NotFound
from store.files import fsync_directory, fsync_file, make_folder, put_in_place, sha256_file, write_json
from store.reading import digest_of, inside, read_model

Row = dict[str, Any]

#: Names every file of a backup; there only when all of them are.
INDEX = "backup.json"
#: What a run directory holds from the moment its iteration trains on it.
INPUTS = (SPEC, EXAMPLES, HELDOUT, PROBES, BATTERY, SNAPSHOT)
#: Times that a backup is begun while files that it needs go.
ATTEMPTS = 3
#: What is never copied: locks, and files that were being replaced.
LEFT = (LOCK, "lock")


class ServedMissing(HonedError):
    """The files of the adapter that is served are not there."""


class Entry(BaseModel):
    """A file of a backup."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int
    sha256: str


class Index(BaseModel):
    """`backup.json`. `files`: path below the backup -> size and digest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    honed: str
    created_at: float
    files: dict[str, Entry]


_INDEX = TypeAdapter(Index)


def backup(directory: Path, target: Path, *, at: float) -> Row:
    """Copy a state directory's contents into a new folder; it is there complete, or not at all.

    Raises:
        NotFound: there is nothing to save.
        Invalid: the target exists, or lies where it must not.
        HonedError: the database or an adapter is damaged: an older backup may be all there is, and is left alone.
    """
    if not (directory / DATABASE).is_file():
        raise NotFound(f"no database at {directory / DATABASE}: nothing has been served from there yet")
    if target.exists():
        raise Invalid(f"{target} exists; a backup is a new folder", param="directory")
    if target.resolve().is_relative_to(directory.resolve()):
        raise Invalid(f"{target} lies inside what it would save, {directory}", param="directory")
    part = target.with_name(f".{target.name}.part")
    try:
        row = gathered(directory, part, at=at)
        fsync_folders(part, read_index(part).files)
        put_in_place(part, target)
    except OSError as error:
        raise HonedError(f"no backup at {target}: {error.filename or ''} {error.strerror}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return {"backup": str(target), **row}


def gathered(directory: Path, part: Path, *, at: float) -> Row:
    """A whole and verified copy of the state directory in `part`, begun again where files went meanwhile.

    Raises:
        OSError, HonedError: there is none, after so many attempts.
    """
    for _ in range(ATTEMPTS - 1):
        with suppress(FileNotFoundError, ServedMissing):
            return gather(directory, part, at=at)
    return gather(directory, part, at=at)


def gather(directory: Path, part: Path, *, at: float) -> Row:
    """One attempt: the database first, so that what it names is there already."""
    shutil.rmtree(part, ignore_errors=True)
    make_folder(part, mode=0o700)  # what people said is in it
    copy_database(directory / DATABASE, part / DATABASE)
    for name in files_of(directory):
        copy_file(directory / name, part / name)
    entries = {name: entry_of(part / name) for name in names_below(part)}
    index = Index(honed=version("honed"), created_at=at, files=entries)
    write_json(part / INDEX, index.model_dump(mode="json"))
    return verify(part)


def restore(source: Path, directory: Path, *, broken_audit: bool = False) -> Row:
    """Put a backup into a state directory that has no database. The database comes last: what was cut short is begun
    again by another `restore`, and nothing serves half of it.

    Args:
        source: folder that `backup` made.
        directory: the state directory.
        broken_audit: also where the backup's audit log is not what was written.

    Raises:
        NotFound, HonedError: there is no backup, or it is damaged.
        Invalid: the state directory holds a database already.
        AlreadyRunning: a service uses it.
    """
    row = verify(source)
    audit = row["audit"] or {}
    if audit.get("broken") is not None and not broken_audit:
        raise HonedError(
            f"{source}: its audit log is broken at entry {audit['broken']}: {audit['why']}; restore another backup, "
            "or this one with --broken-audit"
        )
    try:
        make_folder(directory)
        with StateLock(directory / LOCK):
            if (directory / DATABASE).exists():
                message = (
                    f"{directory} has a database already; restore into a folder without one (store.directory)"
                )
                raise Invalid(message, param="store.directory")
            for leftover in (
                directory / ITERATIONS,
                directory / f"{DATABASE}-wal",
                directory / f"{DATABASE}-shm",
            ):
                remove(leftover)
            names = [name for name in read_index(source).files if name != DATABASE]
            for name in names:
                copy_file(source / name, directory / name)
            fsync_folders(directory, names)
            arriving = directory / f".{DATABASE}.tmp"
            copy_file(source / DATABASE, arriving)
            put_in_place(arriving, directory / DATABASE)
    except OSError as error:
        raise HonedError(f"{source} is not restored: {error.filename or ''} {error.strerror}") from error
    return {"restored": str(directory), **row}


def verify(source: Path) -> Row:
    """Hold every file of a backup against its index, the database against itself, adapters against the database.

    Returns:
        created_at (Unix seconds), honed (the version that wrote it), files, bytes, rows (by table), active,
        missing: paths of adapters the database knows whose files were gone when it was taken (retired long ago), and
        audit: what a look through the audit log finds; null in a backup from before it was chained.

    Raises:
        NotFound: there is no backup.
        HonedError: a file is missing or differs.
    """
    index = read_index(source)
    for name, entry in index.files.items():
        file = source / name
        if not file.is_file():
            raise HonedError(f"{file} is missing from the backup")
        if file.stat().st_size != entry.bytes or digest_of(file, most=entry.bytes) != entry.sha256:
            raise HonedError(f"{file} differs from what {INDEX} recorded")
    found = holdings(source / DATABASE)
    missing = []
    for path, digest in found.adapters.items():
        manifest = f"{path}/{MANIFEST}"
        if manifest not in index.files:
            missing.append(path)
        elif index.files[manifest].sha256 != digest:
            raise HonedError(f"{source / manifest} is not the adapter that the database knows")
    if found.active_path in missing:
        raise ServedMissing(f"{source}: the files of {found.active}, which is served, are not in it")
    return {
        "created_at": index.created_at,
        "honed": index.honed,
        "files": len(index.files),
        "bytes": sum(entry.bytes for entry in index.files.values()),
        "rows": found.rows,
        "active": found.active,
        "missing": missing,
        "audit": None if found.audit is None else asdict(found.audit),
    }


def read_index(source: Path) -> Index:
    """
    Raises:
        NotFound: there is none.
        HonedError: it is none of ours, or names a file outside the backup.
    """
    if not (source / INDEX).is_file():
        raise NotFound(f"no {INDEX} in {source}: that is no backup, or one that was never finished")
    index = read_model(source / INDEX, _INDEX)
    for name in index.files:
        if not inside(name) or (source / name).is_symlink():
            raise HonedError(f"{source / INDEX} names {name!r}, which is not a plain file inside the backup")
    if DATABASE not in index.files:
        raise HonedError(f"{source / INDEX} names no {DATABASE}")
    return index


def files_of(directory: Path) -> Iterator[str]:
    """What is saved beside the database, as paths below the state directory."""
    if (directory / SECRET).is_file():
        yield SECRET
    runs = directory / ITERATIONS
    for run in sorted(runs.iterdir()) if runs.is_dir() else ():
        sealed = (run / MANIFEST).is_file()
        names = names_below(run) if sealed else [name for name in INPUTS if (run / name).is_file()]
        yield from (f"{ITERATIONS}/{run.name}/{name}" for name in names)


def names_below(folder: Path) -> list[str]:
    """Every plain file, as a path below the folder; neither locks nor files that are being replaced."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file()
        and not path.is_symlink()
        and path.name not in LEFT
        and not path.name.endswith(".tmp")
    )


def entry_of(path: Path) -> Entry:
    return Entry(bytes=path.stat().st_size, sha256=sha256_file(path))


def copy_file(source: Path, target: Path) -> None:
    """Copy content and mode, durably."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target, follow_symlinks=False)
    shutil.copymode(source, target)
    fsync_file(target)


def fsync_folders(root: Path, names: Iterable[str]) -> None:
    """Make the entries of every folder that leads to these files durable, deepest first."""
    folders = {folder for name in names for folder in Path(name).parents}
    for folder in sorted(folders, key=lambda one: len(one.parts), reverse=True):
        fsync_directory(root / folder)


def remove(path: Path) -> None:
    """What an earlier attempt left."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
