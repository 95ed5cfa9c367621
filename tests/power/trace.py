"""What a process asked the kernel to do to files, as strace wrote it down: names, contents and answers, in order.

strace stops a process before and after each call, so the order of its lines is the order things happened in: whoever
was told that a sync succeeded can only have acted on it after the line that says so. A call that another thread's
call came in between has two lines; it is given here as its beginning and its end.
"""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Every call that changes files or names, that makes them lasting, or that tells somebody something.
CALLS = (
    "openat,open,creat,write,writev,pwrite64,pwritev,pwritev2,lseek,ftruncate,truncate,fallocate,rename,renameat,"
    "renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat,symlink,symlinkat,fsync,fdatasync,sync_file_range,"
    "msync,mmap,sendfile,copy_file_range,splice,sendto,sendmsg"
)
_LINE = re.compile(rb"(\d+) +(.*)")
_RESUMED = re.compile(rb"<\.\.\. (\w+) resumed>(.*)", re.DOTALL)
_CALL = re.compile(rb"(\w+)\((.*)", re.DOTALL)
_RESULT = re.compile(rb"\) += (-?\d+|0x[0-9a-f]+|\?)")
_FD = re.compile(rb"(?:AT_FDCWD|\b\d+)<((?:\\x[0-9a-f]{2})*)>(\(deleted\))?")
_NUMBER = re.compile(rb"\b(\d+)<\\")
_STRING = re.compile(rb'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')


@dataclass(frozen=True, slots=True)
class File:
    """A file descriptor and the path it stands for; `path` None where the name is gone."""

    fd: int | None
    path: bytes | None


@dataclass(frozen=True, slots=True)
class Call:
    """One call, or one end of it. `begins` and `ends`: a call nobody came in between of does both."""

    name: str
    files: tuple[File, ...]
    texts: tuple[bytes, ...]
    """Paths, or what was written."""
    told: bytes
    """The arguments without texts and files, for flags and numbers."""
    result: int | None
    opened: File | None
    """What an open gave."""
    begins: bool
    ends: bool

    @property
    def failed(self) -> bool:
        return self.ends and (self.result is None or self.result < 0)


def available() -> str | None:
    """Why nothing can be recorded here; None where it can."""
    if shutil.which("strace") is None:
        return "strace is not installed (apt-get install strace)"
    tried = subprocess.run(["strace", "-f", "-o", "/dev/null", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else f"strace may not trace here: {tried.stderr.decode().strip()}"


def command(output: Path, *inject: str) -> list[str]:
    """What to put before a command to record it: the command keeps its process id, and the recorder its own.

    `inject`: faults, as strace's option of that name takes them.
    """
    faults = [f"--inject={one}" for one in inject]
    return [
        *("strace", "-D", "-f", "-y", "-xx", "-s", "100000000", "--seccomp-bpf", "-o", str(output)),
        *("-e", f"trace={CALLS}", "-e", "signal=none", *faults),
    ]


def wait_for(output: Path, *, seconds: float = 60.0) -> None:
    """Until the recorder, which ends after what it recorded, has written everything.

    Raises:
        ValueError: it does not end.
    """
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        with output.open("rb") as file:
            first = file.readline().split(b" ")[0]
            file.seek(max(0, output.stat().st_size - 4096))
            end = file.read()
        if re.search(rb"(?m)^" + first + rb" +\+\+\+ (exited with|killed by) .*\n\Z", end):
            return
        time.sleep(0.05)
    raise ValueError(f"{output} is not complete after {seconds:g} s")


def calls(path: Path) -> Iterator[Call]:
    """Read a recording.

    Raises:
        ValueError: a line is not what strace writes, or a text was cut.
    """
    begun: dict[bytes, bytes] = {}
    with path.open("rb") as lines:
        for line in lines:
            found = _LINE.fullmatch(line.rstrip(b"\n"))
            if found is None:
                raise ValueError(f"{line[:200]!r} is no line of strace")
            pid, rest = found.groups()
            if rest.startswith((b"+++", b"---")):
                continue
            resumed = _RESUMED.fullmatch(rest)
            if resumed is not None:
                if pid not in begun:
                    raise ValueError(f"{line[:200]!r} goes on with what never began")
                yield _parse(begun.pop(pid) + resumed[2], begins=False, ends=True)
            elif rest.endswith(b"<unfinished ...>"):
                begun[pid] = rest.removesuffix(b"<unfinished ...>")
                yield _parse(begun[pid], begins=True, ends=False)
            else:
                yield _parse(rest, begins=True, ends=True)


def _parse(line: bytes, *, begins: bool, ends: bool) -> Call:
    found = _CALL.fullmatch(line)
    if found is None:
        raise ValueError(f"{line[:200]!r} is no call")
    name, rest = found[1].decode(), found[2]
    if any(text[2] for text in _STRING.finditer(rest)):
        raise ValueError(f"{line[:200]!r}: a text was cut")
    results = list(_RESULT.finditer(rest)) if ends else []
    arguments = rest[: results[-1].start()] if results else rest
    result, opened = None, None
    if results:
        after = rest[results[-1].start() :]
        answer = results[-1][1]
        result = None if answer == b"?" else int(answer, 0)
        opened = next(iter(_files(after)), None)
    bare = _STRING.sub(b"", _FD.sub(b"", arguments))
    texts = tuple(_bytes(text[1]) for text in _STRING.finditer(arguments))
    return Call(name, tuple(_files(arguments)), texts, bare, result, opened, begins, ends)


def _files(text: bytes) -> Iterator[File]:
    for found in _FD.finditer(text):
        number = _NUMBER.match(found[0])
        yield File(int(number[1]) if number else None, None if found[2] else _bytes(found[1]))


def _bytes(text: bytes) -> bytes:
    return bytes.fromhex(text.replace(b"\\x", b"").decode())
