"""Requests and answers between honed and vLLM, without a server."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from policies.chat import load_tokenizer
from policies.engine import Delta, Usage
from policies.vllm_client import Patience, VllmClient
from policies.vllm_replica import Replica, State, mean_gap
from policies.vllm_rotation import Rotation, least_loaded
from policies.vllm_stream import Writer, deltas, request_body
from store.errors import EngineUnavailable
from store.records import Sampling

END = 2


def read(
    tiny_model: Path, *chunks: tuple[str, str | None], stop: tuple[str, ...] = (), ended: bool = False
) -> list[Delta]:
    """The deltas of chunks that hold so much text each, and a finish reason."""
    tokenizer = load_tokenizer(tiny_model)

    async def served() -> AsyncGenerator[dict[str, Any], None]:
        for text, reason in chunks:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
            if ended and reason:
                ids = [*ids, END]
            yield {"choices": [{"token_ids": ids, "finish_reason": reason}]}

    async def gather() -> list[Delta]:
        writer = Writer(7, Sampling(stop=stop), tokenizer, frozenset({END}))
        return [delta async for delta in deltas(served(), writer)]

    return asyncio.run(gather())


def text_of(found: list[Delta]) -> str:
    return "".join(delta.text for delta in found)


def test_text_comes_whole_with_counts_at_the_end(tiny_model: Path) -> None:
    found = read(tiny_model, ("he", None), ("llo", "length"))
    assert text_of(found) == "hello"
    assert [delta.finish_reason for delta in found] == [None] * (len(found) - 1) + ["length"]
    assert found[-1].usage == Usage(7, 5)


def test_the_end_token_is_counted_and_not_shown(tiny_model: Path) -> None:
    found = read(tiny_model, ("hi", None), ("", "stop"), ended=True)
    assert text_of(found) == "hi"
    assert (found[-1].finish_reason, found[-1].usage) == ("stop", Usage(7, 3))


def test_a_stop_string_across_chunks_ends_the_answer(tiny_model: Path) -> None:
    found = read(tiny_model, ("one EN", None), ("D two", None), ("three", "length"), stop=("END",))
    assert text_of(found) == "one "
    assert found[-1].finish_reason == "stop"
    assert found[-1].usage == Usage(7, len("one END"))


def test_no_delta_ends_inside_a_character(tiny_model: Path) -> None:
    found = read(tiny_model, ("né", None), ("e €", "length"))
    assert text_of(found) == "née €"
    assert not any("\ufffd" in delta.text for delta in found)


@pytest.mark.parametrize("reason", ["abort", None], ids=["given up", "cut off"])
def test_an_answer_without_an_end_is_an_error(tiny_model: Path, reason: str | None) -> None:
    with pytest.raises(EngineUnavailable):
        read(tiny_model, ("he", None), ("llo", reason))


def test_a_request_names_every_setting() -> None:
    body = request_body([5, 6], Sampling(temperature=1e-6, seed=3, logprobs=True, top_logprobs=2), [2, 0])
    assert body["temperature"] == 0.0
    assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (-1, 0.0, 1.0)
    assert (body["seed"], body["logprobs"], body["stop_token_ids"]) == (3, 2, [2, 0])
    assert "seed" not in request_body([5], Sampling(), [2])


def replica(port: int, running: int, state: State = State.SERVING) -> Replica:
    return Replica(VllmClient(f"http://127.0.0.1:{port}", Patience()), state=state, running=running)


def test_a_conversation_stays_on_its_server_until_another_is_much_freer() -> None:
    busy, free = replica(1, 5), replica(2, 1)
    assert least_loaded([busy, free], None, 4) is free
    assert least_loaded([busy, free], busy, 4) is busy
    assert least_loaded([busy, free], busy, 3) is free
    assert least_loaded([free], busy, 100) is free


def test_only_servers_in_rotation_are_chosen_and_the_reason_is_told_when_none_is() -> None:
    counts: list[int] = []
    away, serving = replica(1, 0, State.AWAY), replica(2, 9)
    rotation = Rotation([away, serving], slack=1, changed=counts.append)
    assert rotation.choose("a", set()) is serving
    with pytest.raises(EngineUnavailable):
        rotation.choose("a", {serving.url})
    rotation.lost(serving, EngineUnavailable("it burned down"))
    with pytest.raises(EngineUnavailable, match="^no model server answers now$"):
        rotation.choose("a", set())
    assert "http://127.0.0.1:2: away it burned down" in rotation.details()
    rotation.turn(serving, State.ASLEEP)
    with pytest.raises(EngineUnavailable, match="policies.engine.share") as asleep:
        rotation.choose("a", set())
    assert asleep.value.retry_after >= 10
    assert counts == [0, 0]


@pytest.mark.parametrize(
    ("expected", "measured", "gap"),
    [
        ((-1.0, -2.0), (-1.1, -1.9), 0.1),
        ((-1.0,), (-1.0, -1.0), float("inf")),
        ((-1.0,), (float("nan"),), float("inf")),
        ((), (), 0.0),
    ],
)
def test_a_gap_is_the_mean_and_never_passes_on_nan(
    expected: tuple[float, ...], measured: tuple[float, ...], gap: float
) -> None:
    assert mean_gap(expected, measured) == pytest.approx(gap)
