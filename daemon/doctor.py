"""`honed doctor`: look at what a running service depends on, and say what to do about what is wrong.

Every finding is something looked at just now; nothing is changed.
"""

import asyncio
import importlib.metadata
import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

from daemon.config import Config
from daemon.state_files import DATABASE, SERVICE
from store.errors import HonedError

Finding = dict[str, Any]

#: Free bytes below which a service should not start: a model, a database and a few adapters.
DISK_FLOOR = 2 * 1024**3
#: Seconds a vLLM server has to say that it is well.
HEALTH_TIMEOUT = 3.0
PACKAGES = ("torch", "transformers", "peft", "sqlite-utils", "fastapi", "apscheduler")


def finding(name: str, ok: bool, detail: str, remedy: str = "") -> Finding:
    return {"name": name, "ok": ok, "detail": detail, "remedy": "" if ok else remedy}


def python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return finding("python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer")


def package(name: str) -> Finding:
    try:
        return finding(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return finding(name, False, "not installed", "run `pip install -e .` in honed's folder")


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


def service(directory: Path) -> dict[str, Any] | None:
    file = directory / SERVICE
    row: dict[str, Any] | None = json.loads(file.read_text()) if file.is_file() else None
    return row if row is not None and is_alive(int(row["pid"])) else None


def is_alive(pid: int) -> bool:
    """Whether a process of that number exists; the file of a killed service stays behind."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def port(config: Config) -> Finding:
    """Free, or taken by our own service."""
    where = f"{config.api.host}:{config.api.port}"
    running = service(config.store.directory)
    if running is not None:
        return finding("port", True, f"a service runs at {running['url']} (pid {running['pid']})")
    with socket.socket(socket.AF_INET6 if ":" in config.api.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.api.host, config.api.port))
        except OSError as error:
            return finding("port", False, f"{where}: {error.strerror}", "stop what uses it, or set api.port")
    return finding("port", True, f"{where} is free")


def database(directory: Path) -> Finding:
    from store.db import Store

    path = directory / DATABASE
    if not path.is_file():
        return finding("database", True, f"none yet at {path}; the first start makes it")
    try:
        store = Store.read_only(path)
        try:
            return finding(
                "database", True, f"{store.completions.count()} answers, {store.feedback.count()} events"
            )
        finally:
            store.close()
    except HonedError as error:
        return finding("database", False, str(error), "install the honed that wrote it, or restore a backup")


def model(config: Config) -> Finding:
    from policies.engines import locate_model

    try:
        return finding("model", True, locate_model(config.policies.engine, config.store.directory))
    except HonedError as error:
        return finding("model", False, str(error), "set policies.engine.model, or run `make install`")


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


def examine(config: Config) -> list[Finding]:
    """Every check, in the order a start would trip over them."""
    directory = config.store.directory
    return [
        python(),
        *map(package, PACKAGES),
        disk(directory),
        writable(directory),
        database(directory),
        model(config),
        engine(config),
        *vllm(config),
        port(config),
    ]
