"""A store whose disk refuses to write for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from store.db import Store
from store.session import Live


@contextmanager
def read_only(store: Store) -> Iterator[None]:
    """As on a file system that the kernel made read-only after an error."""
    session = store._session
    assert isinstance(session, Live)

    def set_to(value: str) -> None:
        session.writer.submit(
            lambda db: db.execute(f"pragma query_only = {value}") and None, frozenset(), alone=True
        )

    set_to("on")
    try:
        yield
    finally:
        set_to("off")
