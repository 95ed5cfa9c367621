"""What the service does around the loop: its socket, and the garbage collector's share."""

import asyncio
import gc
import socket
import weakref
from pathlib import Path

import pytest
import uvicorn

from daemon.config import Config
from daemon.loop import Loop
from daemon.serve import bind, make_directory, runtime_of, stop_with_writer, ticking
from store.db import Store


def test_pieces_of_an_answer_are_sent_at_once() -> None:
    config = Config.model_validate({"api": {"port": 0}})

    async def accepted() -> int:
        told: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            own = writer.get_extra_info("socket")
            told.set_result(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = bind(config)
        async with await asyncio.start_server(connected, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname()[:2])
            no_delay = await asyncio.wait_for(told, 10)
            writer.close()
        return no_delay

    assert asyncio.run(accepted())


class Loaded:
    """Something that is loaded later and refers to itself, as modules with hooks do."""

    def __init__(self) -> None:
        self.own = self


def test_what_the_start_made_is_spared_and_what_comes_later_is_collected(
    tmp_path: Path, store: Store
) -> None:
    config = Config.model_validate(
        {"policies": {"engine": {"kind": "fake"}}, "store": {"directory": tmp_path}}
    )

    async def started() -> tuple[int, bool]:
        async with runtime_of(config, store):
            later = weakref.ref(Loaded())
            gc.collect()
            return gc.get_freeze_count(), later() is None

    try:
        frozen, collected = asyncio.run(started())
    finally:
        gc.unfreeze()
    assert frozen > 10_000 and collected


def test_a_new_state_directory_is_its_owner_s_only(tmp_path: Path) -> None:
    made = make_directory(Config.model_validate({"store": {"directory": tmp_path / "deep" / "state"}}))
    assert made.stat().st_mode & 0o777 == 0o700
    made.chmod(0o750)
    assert (
        make_directory(Config.model_validate({"store": {"directory": made}})).stat().st_mode & 0o777 == 0o750
    )


def test_a_service_whose_writer_has_stopped_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.serve.WRITER_SECONDS", 0.01)
    store = Store.open(tmp_path / "honed.db")
    server = uvicorn.Server(uvicorn.Config("none"))

    async def work() -> None:
        watcher = asyncio.create_task(stop_with_writer(store, server))
        await asyncio.sleep(0.05)
        assert not server.should_exit
        await asyncio.to_thread(store.close)
        await asyncio.wait_for(watcher, 10)

    asyncio.run(work())
    assert server.should_exit


class Busy(Loop):
    """A loop whose tick lasts."""

    def __init__(self) -> None:
        self.began, self.ended = asyncio.Event(), False

    async def tick(self) -> None:
        self.began.set()
        try:
            await asyncio.sleep(60)
        finally:
            self.ended = True

    async def stop(self) -> None:
        await asyncio.sleep(0.05)


def test_a_stop_in_the_middle_of_a_tick_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async def stopped() -> Busy:
        loop = Busy()
        async with ticking(loop, 0.01):
            await asyncio.wait_for(loop.began.wait(), 10)
        return loop

    assert asyncio.run(stopped()).ended
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
