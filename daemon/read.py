"""The command line's view of the store: read-only, whether or not a service is running."""

import contextlib
from collections.abc import Iterator

from daemon.config import Config
from daemon.state_files import DATABASE
from store.db import Store
from store.errors import NotFound


@contextlib.contextmanager
def open_store(config: Config) -> Iterator[Store]:
    """Open the state directory's database for reading.

    Raises:
        NotFound: there is none.
    """
    path = config.store.directory / DATABASE
    if not path.is_file():
        raise NotFound(f"no database at {path}: nothing has been served from there yet")
    store = Store.read_only(path)
    try:
        yield store
    finally:
        store.close()
