"""The app, as the tests of the API have it."""

from tests.api.conftest import app, clock, engine, settings, store

__all__ = ["app", "clock", "engine", "settings", "store"]
