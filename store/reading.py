"""Files that others may have written, read within bounds: a regular file, not too large, JSON that is JSON.

Whatever is wrong is told by a `HonedError` that names the file; a pipe or a device is never waited for.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from store.errors import HonedError

T = TypeVar("T")

#: Bytes of a JSON file at the most, where its reader says nothing else.
MOST = 64 * 2**20
#: Characters of a name in a file that an error shows.
LONGEST = 200
#: Bytes of a line of a JSONL file at the most.
MOST_LINE = 16 * 2**20


def open_plain(path: Path) -> int:
    """A descriptor of a regular file, for reading.

    Raises:
        HonedError: it is missing, may not be read, or is a folder, a pipe, a device.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no name of a file"
        raise HonedError(f"{path}: {why}") from error
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise HonedError(f"{path} is not a plain file")


def read_bytes(path: Path, *, most: int = MOST) -> bytes:
    """A whole file.

    Raises:
        HonedError: as `open_plain`; or it is larger than `most` bytes.
    """
    with os.fdopen(open_plain(path), "rb") as file:
        if os.fstat(file.fileno()).st_size > most:
            raise HonedError(f"{path} is larger than {most} bytes")
        try:
            content = file.read(most + 1)
        except OSError as error:
            raise HonedError(f"{path}: {error.strerror}") from error
    if len(content) > most:
        raise HonedError(f"{path} is larger than {most} bytes")
    return content


def parsed(content: bytes, what: object) -> Any:
    """JSON of any kind.

    Raises:
        HonedError: it is none, or nested too deeply; names `what`.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise HonedError(f"{what} is not JSON: {why}") from None


def read_object(path: Path, *, most: int = MOST) -> dict[str, Any]:
    """A JSON object.

    Raises:
        HonedError: as `read_bytes`; or it is no JSON object.
    """
    value = parsed(read_bytes(path, most=most), path)
    if not isinstance(value, dict):
        raise HonedError(f"{path} is not a JSON object")
    return value


def read_model(path: Path, kind: TypeAdapter[T], *, most: int = MOST) -> T:
    """A JSON file as what it should be.

    Raises:
        HonedError: as `read_bytes`; or it is not that, and names the field.
    """
    return validated(kind, read_bytes(path, most=most), path)


def validated(kind: TypeAdapter[T], content: bytes, what: object) -> T:
    """
    Raises:
        HonedError: the JSON is not what it should be; names `what` and the field.
    """
    try:
        return kind.validate_json(content)
    except ValidationError as error:
        raise HonedError(f"{what}: {first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """The field and what is wrong with it, without what was found there."""
    first = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(map(str, first["loc"]))[:LONGEST]
    return f"{f'{field}: ' if field else ''}{first['msg'][:LONGEST]}"


def lines_of(path: Path, *, most: int = MOST, most_line: int = MOST_LINE) -> Iterator[tuple[int, bytes]]:
    """(number, content) of every line that is not blank.

    Splits on the newline byte only: `str.splitlines` would also break at U+2028, which JSON leaves bare.

    Raises:
        HonedError: as `open_plain`; or the file is larger than `most` bytes, a line than `most_line`.
    """
    with os.fdopen(open_plain(path), "rb") as file:
        if os.fstat(file.fileno()).st_size > most:
            raise HonedError(f"{path} is larger than {most} bytes")
        number = 0
        while line := file.readline(most_line + 1):
            number += 1
            if len(line) > most_line:
                raise HonedError(f"{path}, line {number} is longer than {most_line} bytes")
            if line.strip():
                yield number, line


def rows_of(path: Path, kind: TypeAdapter[T], *, most: int = MOST) -> list[T]:
    """A JSONL file's rows, each as what it should be.

    Raises:
        HonedError: as `lines_of`; or a row is not that; names the line and the field.
    """
    return [validated(kind, line, f"{path}, line {number}") for number, line in lines_of(path, most=most)]


def digest_of(path: Path, *, most: int = MOST) -> str:
    """Hex SHA-256 of a file's content.

    Raises:
        HonedError: as `open_plain`; or the file is larger than `most` bytes, however little of it is on disk.
    """
    with os.fdopen(open_plain(path), "rb") as file:
        if os.fstat(file.fileno()).st_size > most:
            raise HonedError(f"{path} is larger than {most} bytes")
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside(name: str) -> bool:
    """Whether a name, written in a file, is that of something below the folder that the file describes."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\0" not in name


@contextmanager
def told_as(kind: type[HonedError], before: str = "") -> Iterator[None]:
    """What is wrong with a file, as the error that its reader promises."""
    try:
        yield
    except kind:
        raise
    except HonedError as error:
        raise kind(f"{before}{error}") from error
