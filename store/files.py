"""Durable files: what is named is complete, and stays after power loss.

The order is the point: content, fsync, rename, fsync of the parent. Without the last step the rename itself
may be lost, and the database row that follows it would point at nothing.

Nothing else in honed syncs or renames: both sides of each are failpoints here.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from store.failpoints import around


def fsync_directory(path: Path) -> None:
    """Make a directory's entries (names, renames) durable."""
    _fsync(path, os.O_RDONLY | os.O_DIRECTORY)


def fsync_file(path: Path) -> None:
    """Make a file's content durable."""
    _fsync(path, os.O_RDONLY)


def _fsync(path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        with around("fsync", lambda: shown(path)):
            os.fsync(fd)
    finally:
        os.close(fd)


def rename(path: Path, target: Path) -> None:
    """Give a file or a folder another name; what had that name before is gone. Lasting only with `put_in_place`."""
    with around("rename", lambda: shown(target)):
        path.replace(target)


def put_in_place(path: Path, target: Path) -> None:
    """Give what is written and synced the name under which it is looked for, durably."""
    rename(path, target)
    fsync_directory(target.parent)


def shown(path: Path) -> str:
    """What a failpoint calls a file: its name and its folder's."""
    return "/".join(path.parts[-2:])


def make_folder(path: Path, *, mode: int = 0o777) -> None:
    """Make a folder that may be there already, and those above it, durably: what is synced in a folder whose own name
    is lost is lost with it.
    """
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(mode=mode, exist_ok=True)
    fsync_directory(path.parent)


def write_durably(path: Path, content: str | bytes, *, mode: int = 0o644) -> None:
    """Replace a file at once: readers see the old content or the new, never a part.

    `mode` holds from the first byte on, so a secret is never readable by others, not even for a moment.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        with around("fsync", lambda: shown(path)):
            os.fsync(file.fileno())
    put_in_place(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON durably; keys keep their order, so equal values give equal bytes."""
    write_durably(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object per line, durably."""
    write_durably(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object per line.

    Splits on the newline byte only: `str.splitlines` would also break at U+2028, which JSON leaves bare.
    """
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
