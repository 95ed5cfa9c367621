"""The service: one process with the engine, the HTTP server, the loop and the only database writer.

`serve` is the table of contents. What it opens it closes in reverse, and nobody is answered by an adapter that
was not verified and attested by this very process.
"""

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import uvicorn
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from api.app import create_app
from api.auth import load_keys
from api.views import JUDGING
from daemon import heap, lineage, vllm_server
from daemon.batteries import battery_of, check_probes
from daemon.config import Config
from daemon.connections import make_room, server_config
from daemon.judging import check_judge
from daemon.live import restore_canary
from daemon.loop import Loop
from daemon.notify import READY, STOPPING, notify
from daemon.promote import kept_versions, make_ready
from daemon.queue import offer
from daemon.recheck import check_golden
from daemon.runtime import Runtime
from daemon.state_files import DATABASE, LOCK, SECRET, SERVICE
from daemon.vllm_server import model_server
from policies.engines import build_engine, resolve_base
from store.db import StateLock, Store
from store.descent import way_back
from store.errors import AdapterInvalid, AttestationFailed, ConfigError, HonedError
from store.files import make_folder, write_durably, write_json
from store.records import BASE, Adapter, AdapterStatus

log = logging.getLogger(__name__)

#: Seconds between looks at whether the database's writer lives.
WRITER_SECONDS = 1.0
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


async def serve(config: Config) -> None:
    """Run until SIGTERM or SIGINT."""
    check_bind(config)
    check_judge(config.judge)
    battery_of(config.daemon.gate.battery)  # a bad line must stop the start, not the first iteration
    vllm_server.check(config)
    if config.api.keys_file is not None:
        load_keys(config.api.keys_file)  # a bad file must stop the start before anything else happens
    directory = make_directory(config)
    with StateLock(directory / LOCK), contextlib.closing(bind(config)) as listener:
        store = await asyncio.to_thread(Store.open, directory / DATABASE)
        try:
            await asyncio.to_thread(check_golden, store, config.daemon.gate.golden)
            await asyncio.to_thread(store.state.set, JUDGING, config.judge.enabled)
            async with runtime_of(config, store) as runtime:
                loop = Loop(runtime)
                await restore_serving(runtime)
                await loop.recover()
                async with ticking(loop, config.daemon.schedule.tick_seconds):
                    await answer(runtime, listener)
        finally:
            await asyncio.to_thread(store.close)


def make_directory(config: Config) -> Path:
    """The state directory, made if need be.

    Raises:
        ConfigError: it cannot be.
    """
    directory = config.store.directory
    try:
        make_folder(directory, mode=0o700)  # what people said is in it
    except OSError as error:
        raise ConfigError(
            f"store.directory = {str(directory)!r}: {error.strerror}", param="store.directory"
        ) from error
    return directory


def check_bind(config: Config) -> None:
    """Open mode is for one's own machine.

    Raises:
        ConfigError: a public address without keys.
    """
    if config.api.keys_file is None and config.api.host not in LOOPBACK:
        raise ConfigError(
            f"api.host = {config.api.host!r}: without api.keys_file anyone who can reach it may do anything, so only "
            "a loopback address (127.0.0.1, ::1, localhost) is allowed",
            param="api.host",
        )


def bind(config: Config) -> socket.socket:
    """Take the port before anything slow, so that a taken one is told at once.

    Raises:
        ConfigError: the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in config.api.host else socket.AF_INET
    # With the protocol named: asyncio sends small pieces at once only on sockets that say they are TCP, and an answer
    # is two. Without it the second waits for the client's acknowledgement, which a client may put off for 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.api.host, config.api.port))
    except OSError as error:
        listener.close()
        raise taken(config, error) from error
    return listener


def taken(config: Config, error: OSError) -> ConfigError:
    message = f"api.port = {config.api.port}: cannot listen on {config.api.host}: {error.strerror}"
    return ConfigError(message, param="api.port")


@contextlib.asynccontextmanager
async def runtime_of(config: Config, store: Store) -> AsyncIterator[Runtime]:
    """The engine started, and everything the loop works with."""
    lost = await asyncio.to_thread(store.completions.fail_streaming)
    if lost:
        log.warning("%d answers were cut off by the last stop and are marked failed", lost)
    log.info("loading %s", config.policies.engine.model)
    model, digest = await asyncio.to_thread(resolve_base, config.policies.engine, config.store.directory)
    if config.daemon.gate.battery is not None:
        await asyncio.to_thread(check_probes, config.daemon.gate.battery, model)
    async with model_server(config, model) as server:
        engine = build_engine(config.policies.engine, model, digest, server)
        try:
            await (engine.start() if server is None else server.during(engine.start()))
            spare_collector()
            yield Runtime(config, store, engine, model, digest)
        finally:
            await engine.close()


def spare_collector() -> None:
    """Keep the garbage collector from going through libraries and base model, which stay until the end anyhow.

    Adapters are loaded after this: what is frozen, refers to itself and is dropped would never be collected.
    """
    gc.collect()
    gc.freeze()


async def restore_serving(runtime: Runtime) -> None:
    """Load and attest what was served before; if it does not verify any more, go back until something does."""
    store = runtime.store
    while (active := await asyncio.to_thread(store.adapters.active)) is not None:
        try:
            await make_ready(runtime, active)
            break
        except (AdapterInvalid, AttestationFailed) as error:
            # Anything else (an engine that fails, a prompt beyond a smaller context) says nothing about the
            # adapter: it stops the start, and mending the cause brings the same adapter back.
            log.error("%s cannot be served: %s", active.version, error)
            damaged = isinstance(error, AdapterInvalid)
            await asyncio.to_thread(step_back, store, active, str(error), damaged=damaged)
    await restore_canary(runtime)
    for version in await asyncio.to_thread(kept_versions, store, runtime.config.daemon.keep_loaded):
        adapter = await asyncio.to_thread(store.adapters.get, version)
        try:
            await make_ready(runtime, adapter)
        except HonedError as error:
            # Not being served, so not urgent: a rollback to it would try again and say why it fails.
            log.warning("%s is kept for rollback but cannot be loaded: %s", version, error)


def step_back(store: Store, active: Adapter, reason: str, *, damaged: bool) -> None:
    """Serve what an adapter that does not verify came from, as far back as nobody rolled it back.

    Damaged files never come back; a failed attestation may be this engine's or this configuration's doing.
    """
    reason = f"at start: {reason}"
    left_as = AdapterStatus.RETIRED if damaged else AdapterStatus.ROLLED_BACK

    def commit(tx: Store) -> None:
        to = way_back(active, tx.adapters.known())
        tx.adapters.activate(to, actor="start", reason=reason, retire_as=left_as)
        lineage.leave(tx, active, to=to, reason=reason)
        lineage.take_up(tx, to, reason=reason)
        tx.audit.add(actor="start", action="rollback", subject=to or BASE, reason=reason)

    store.atomic(commit)


@contextlib.asynccontextmanager
async def ticking(loop: Loop, seconds: float) -> AsyncIterator[None]:
    """The scheduler, which only ticks: no job store, no truth, never two ticks at once."""
    # An overrun tick is simply late; the library has a line for each.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    scheduler = AsyncIOScheduler(timezone="UTC")

    async def tick() -> None:
        # A stop ends the tick under way, which is no failure; the library would log it as one.
        with contextlib.suppress(asyncio.CancelledError):
            await loop.tick()

    scheduler.add_job(
        tick, "interval", seconds=seconds, max_instances=1, coalesce=True, misfire_grace_time=None
    )
    scheduler.add_job(
        heap.trim, "interval", seconds=heap.TRIM_SECONDS, coalesce=True, misfire_grace_time=None
    )
    scheduler.start()
    try:
        yield
    finally:
        scheduler.shutdown(wait=False)
        await loop.stop()


class Server(uvicorn.Server):
    """Leaves signals to us: uvicorn would raise them again when it is done, and end the process before anything is
    closed.
    """

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def answer(runtime: Runtime, listener: socket.socket) -> None:
    """Serve HTTP until told to stop, then let running answers finish for a while."""
    config = runtime.config
    app = create_app(
        store=runtime.store,
        engine=runtime.engine,
        settings=config.api,
        attested=runtime.attested,
        privacy=config.store.privacy,
        queue=partial(offer, runtime.store, config),
        secret=await asyncio.to_thread(receipt_secret, config.store.directory / SECRET),
    )
    room = make_room(config.api.max_connections)
    if room < config.api.max_connections:
        log.warning("api.max_connections = %d: descriptors for %d", config.api.max_connections, room)
    server = Server(server_config(app, config.api, room=room))
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop_server, server)
    service_file = config.store.directory / SERVICE
    try:
        listener.listen(server.config.backlog)  # from here on who connects waits, and is not refused
    except OSError as error:  # another took the port while the model was loaded
        raise taken(config, error) from error
    write_json(service_file, {"pid": os.getpid(), "url": url})
    log.info("honed serves on %s (page at /, API at /v1, operators at /ops)", url)
    notify(READY)
    watcher = asyncio.create_task(stop_with_writer(runtime.store, server))
    try:
        await server.serve(sockets=[listener])
    finally:
        watcher.cancel()
        service_file.unlink(missing_ok=True)
    if not runtime.store.writable:
        raise HonedError("the database's writer has stopped, and honed with it; the log says why")


async def stop_with_writer(store: Store, server: uvicorn.Server) -> None:
    """End a service that can store nothing any more: a new process can, and whoever watches this one starts it."""
    while store.writable:
        await asyncio.sleep(WRITER_SECONDS)
    log.critical("the database's writer has stopped; the service ends")
    server.should_exit = True


def stop_server(server: uvicorn.Server) -> None:
    """Let running answers finish; asked twice, do not wait for them."""
    notify(STOPPING)
    server.force_exit = server.should_exit
    server.should_exit = True


def receipt_secret(path: Path) -> bytes:
    """The key that signs receipts; made once, readable by the owner only."""
    if not path.is_file():
        write_durably(path, secrets.token_bytes(32), mode=0o600)
    return path.read_bytes()
