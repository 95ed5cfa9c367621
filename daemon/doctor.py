"""`honed doctor`: look at what a running service depends on, and say what to do about what is wrong.

Every finding is something looked at just now; nothing is changed. What lies in the state directory is looked at by
`daemon.doctor_state`.
"""

import asyncio
import importlib.metadata
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from packaging.requirements import Requirement

from daemon.config import Config
from daemon.doctor_state import Finding, database, finding, model, private, served, service, who
from store.errors import HonedError

#: Free bytes below which a service should not start: a model, a database and a few adapters.
DISK_FLOOR = 2 * 1024**3
#: Seconds a vLLM server has to say that it is well.
HEALTH_TIMEOUT = 3.0
INSTALL = "run `make install` (or `pip install -e .`) in honed's folder"


def python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return finding("python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer")


def sqlite() -> Finding:
    from store import db

    wanted, found = (".".join(map(str, one)) for one in (db.SQLITE_NEEDED, db.SQLITE))
    return finding(
        "sqlite", db.SQLITE >= db.SQLITE_NEEDED, found, f"use a Python with SQLite {wanted} or newer"
    )


def packages() -> list[Finding]:
    """Every package that honed names, in a version that it was made for."""
    try:
        named = importlib.metadata.requires("honed") or []
    except importlib.metadata.PackageNotFoundError:
        return [finding("honed", False, "not installed", INSTALL)]
    wanted = [
        one for one in map(Requirement, named) if one.marker is None or one.marker.evaluate({"extra": ""})
    ]
    return [package(one) for one in wanted]


def package(wanted: Requirement) -> Finding:
    try:
        version = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return finding(wanted.name, False, "not installed", INSTALL)
    fits = wanted.specifier.contains(version, prereleases=True)
    detail = version if fits else f"{version}, and honed wants {wanted.specifier}"
    return finding(wanted.name, fits, detail, INSTALL)


def nearest_existing(path: Path) -> Path:
    """The deepest part of a path that exists."""
    path = path.resolve()
    while not path.exists():
        path = path.parent
    return path


def disk(directory: Path) -> Finding:
    free = shutil.disk_usage(nearest_existing(directory)).free
    remedy = f"free some space, or move store.directory; {DISK_FLOOR / 2**30:.0f} GiB are needed"
    return finding("disk", free >= DISK_FLOOR, f"{free / 2**30:.1f} GiB free at {directory}", remedy)


def writable(directory: Path) -> Finding:
    where = nearest_existing(directory)
    ok = os.access(where, os.W_OK | os.X_OK)
    return finding(
        "permissions", ok, f"{where} is {'writable' if ok else 'not writable'}", f"chown or chmod {where}"
    )


def port(config: Config) -> Finding:
    """Free, or taken by our own service."""
    where = f"{config.api.host}:{config.api.port}"
    running = service(config.store.directory)
    if running is not None:
        return finding("port", True, f"a service runs at {running.url} (pid {running.pid})")
    with socket.socket(socket.AF_INET6 if ":" in config.api.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.api.host, config.api.port))
        except OSError as error:
            return finding("port", False, f"{where}: {error.strerror}", "stop what uses it, or set api.port")
    return finding("port", True, f"{where} is free")


def engine(config: Config) -> Finding:
    """Whether the configured engine can be started with these settings."""
    from daemon.vllm_server import check

    kind = config.policies.engine.kind
    try:
        check(config)
    except HonedError as error:
        return finding("engine", False, str(error), "see docs/vllm.md")
    return finding("engine", True, kind)


def vllm(config: Config) -> list[Finding]:
    """Whether the server that honed starts would get its port, and whether the others answer."""
    chosen = config.policies.engine
    if chosen.kind != "vllm":
        return []
    own = [engine_port(config)] if chosen.spawn else []

    async def others() -> list[Finding]:
        return await asyncio.gather(*map(engine_url, chosen.urls))

    return [*own, *asyncio.run(others())]


def engine_port(config: Config) -> Finding:
    """Free, or taken by our own server."""
    from daemon.leash import left_over
    from daemon.vllm_server import RECORD, check_port

    number = config.policies.engine.port
    own = left_over(config.store.directory / RECORD)
    if own is not None and service(config.store.directory) is not None:
        return finding("engine port", True, f"honed's own vLLM server runs (pid {own})")
    if own is not None:
        return finding("engine port", True, f"left to a vLLM server of honed (pid {own}); a start ends it")
    try:
        check_port(number)
    except HonedError as error:
        return finding("engine port", False, str(error), "stop what uses it, or set policies.engine.port")
    return finding("engine port", True, f"127.0.0.1:{number} is free")


async def engine_url(url: str) -> Finding:
    """Whether a server that somebody else runs answers."""
    from policies.vllm_client import Patience, VllmClient

    client = VllmClient(url, Patience(), key=os.environ.get("VLLM_API_KEY"))
    remedy = "start that server, or mend policies.engine.urls (docs/vllm.md)"
    try:
        await asyncio.wait_for(client.health(), HEALTH_TIMEOUT)
    except TimeoutError:
        return finding("engine url", False, f"{url} has not answered in {HEALTH_TIMEOUT:g} s", remedy)
    except HonedError as error:
        return finding("engine url", False, str(error), remedy)
    finally:
        await client.close()
    return finding("engine url", True, f"{url} answers")


def memory(config: Config) -> Finding:
    """Whether a trainer would be started, on the GPU where there is one."""
    from daemon.memory import free_gpu, free_ram, require_free

    needed = config.policies.train.free_memory_mb
    remedy = "stop what uses it, or set policies.train.free_memory_mb"

    async def look() -> str:
        await require_free(needed)
        on_gpu = await free_gpu() if needed else None
        free, where = (free_ram(), "of main memory") if on_gpu is None else (on_gpu, "on the GPU")
        return f"{free / 2**20:.0f} MiB {where} are free, a trainer needs {needed}"

    try:
        return finding("memory", True, asyncio.run(look()))
    except HonedError as error:
        return finding("memory", False, str(error), remedy)


def keys(config: Config) -> list[Finding]:
    """Whether the file of API keys can be read by the service, and by nobody else."""
    from api.auth import load_keys

    path = config.api.keys_file
    if path is None:
        return []
    remedy = "make one with `honed key NAME`, or mend [api] keys_file (docs/security.md)"
    try:
        count = len(load_keys(path))
    except HonedError as error:
        return [finding("keys", False, str(error), remedy)]
    return [private("keys", path, f"{count} in {path}")]


def judge(config: Config) -> list[Finding]:
    """Whether the external judge's address is one that people's words may be sent to."""
    if "external" not in config.judge.scorers:
        return []
    from daemon.judging import check_judge

    try:
        check_judge(config.judge)
    except HonedError as error:
        return [finding("judge", False, str(error), "mend [judge.external] (docs/judging.md)")]
    return [finding("judge", True, f"people's prompts and answers are sent to {config.judge.external.url}")]


def examine(config: Config) -> list[Finding]:
    """Every check, in the order a start would trip over them."""
    directory = config.store.directory
    looks: list[tuple[str, Callable[[], Finding | Iterable[Finding]]]] = [
        ("python", python),
        ("sqlite", sqlite),
        ("packages", packages),
        ("disk", lambda: disk(directory)),
        ("permissions", lambda: writable(directory)),
        ("state", lambda: who(directory)),
        ("keys", lambda: keys(config)),
        ("database", lambda: database(directory)),
        ("adapters", lambda: served(directory)),
        ("model", lambda: model(config)),
        ("engine", lambda: engine(config)),
        ("vllm", lambda: vllm(config)),
        ("judge", lambda: judge(config)),
        ("memory", lambda: memory(config)),
        ("port", lambda: port(config)),
    ]
    found: list[Finding] = []
    for name, look in looks:
        try:
            told = look()
        except OSError as error:  # a folder that may not be looked into, a disk that fails
            told = finding(name, False, str(error), "see that the service's user may read and write there")
        found += [told] if isinstance(told, dict) else told
    return found
