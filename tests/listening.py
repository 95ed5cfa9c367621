"""An app on a loopback port, for clients that are not ours."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from api.config import ApiConfig
from daemon.connections import server_config
from tests.integration.service import wait_until


@contextmanager
def listening(app: FastAPI, settings: ApiConfig | None = None) -> Iterator[str]:
    """Serve as `honed serve` does, for the length of a block; yields the address."""
    config = server_config(app, settings or ApiConfig(drain_seconds=5))
    config.port = 0
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
