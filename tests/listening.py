"""An app on a loopback port, for clients that are not ours."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from tests.integration.service import wait_until


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """Serve for the length of a block; yields the address."""
    settings = uvicorn.Config(app, port=0, log_level="warning", log_config=None, timeout_graceful_shutdown=5)
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
