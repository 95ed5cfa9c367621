"""An order to forget: how far it goes, and that nothing between its steps slips through."""

import pytest

from daemon.forget import Reach, scrub
from daemon.runtime import Runtime
from store.errors import HonedError
from store.records import Example, Intent, IntentKind, IntentStatus, Message, Split
from store.scrubbing import Person
from tests.daemon.conftest import run, settle_one
from tests.store.conftest import completion, event

ONE = "it0001-00000001"
ANN = Person("ann", "forgotten:1")


def test_words_stay_until_every_adapter_and_run_that_shows_them_was_seen_to(runtime: Runtime) -> None:
    store = runtime.store
    store.completions.begin(completion("a1", messages=(Message("user", "my herons sleep"),)))
    store.feedback.add(event("f1", "a1"))

    async def serve() -> None:
        await settle_one(runtime, ONE)

    run(serve, runtime)
    order = Intent("i1", 1.0, IntentKind.FORGET, "op", "asked", {"user": "ann"}, IntentStatus.RUNNING)
    store.intents.add(order)
    before = store.forgetting.of(ANN)
    store.iterations.add_examples([Example(1, "f1", "a1", Split.TRAIN, "kto", True, 1.0)])
    with pytest.raises(HonedError, match="looked through again"):
        scrub(store, order, ANN, Reach(before, frozenset(), ()), files=0)
    assert store.completions.get("a1").messages and store.intents.get("i1").outcome == {}
    scrub(store, order, ANN, Reach(before, frozenset({1}), (ONE,)), files=0)
    assert not store.completions.get("a1").messages
