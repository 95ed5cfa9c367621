"""The chat route against the fake engine, whose every answer can be said beforehand."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from api.app import create_app
from api.config import ApiConfig
from policies.fake_engine import FakeEngine, FakeLimits, answer_deltas, answer_tokens
from store.db import Store
from store.records import Adapter, AdapterStatus, CompletionStatus, Message, Sampling, Source
from tests.api.conftest import NOW, URL, ask, error_of

HELLO = [Message("user", "Hello")]


def frames_of(text: str) -> list[Any]:
    """The JSON of each event; [DONE] as a string."""
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    assert all(block.startswith("data: ") for block in blocks)
    return ["[DONE]" if block == "data: [DONE]" else json.loads(block[6:]) for block in blocks]


def streamed_text(frames: list[Any], index: int = 0) -> str:
    choices = [choice for frame in frames[:-1] for choice in frame["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content", "") for choice in choices)


def test_an_answer_has_openais_shape_and_the_resolved_model(client: TestClient) -> None:
    response = ask(client, seed=7)
    body = response.json()
    assert set(body) == {"id", "object", "created", "model", "choices", "usage", "system_fingerprint"}
    assert (body["object"], body["model"], body["created"]) == ("chat.completion", "base", int(NOW))
    assert body["id"].startswith("chatcmpl-") and body["system_fingerprint"].startswith("fp_")
    text = "".join(answer_tokens(HELLO, None, 7))
    message = {"role": "assistant", "content": text, "refusal": None}
    assert body["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0


def test_the_row_holds_the_conversation_and_the_answer(client: TestClient, store: Store) -> None:
    body = ask(client, seed=7, temperature=0.1, user="ann").json()
    row = store.completions.get(body["id"])
    assert (row.status, row.source, row.principal) == (CompletionStatus.DONE, Source.CHAT, "local")
    assert row.messages == tuple(HELLO)
    assert row.choices[0].text == body["choices"][0]["message"]["content"]
    assert (row.choices[0].tokens, row.completion_tokens) == (body["usage"]["completion_tokens"],) * 2
    assert row.sampling.temperature == 0.1 and row.metadata == {"user": "ann"}


def test_a_stream_is_framed_byte_for_byte(client: TestClient, store: Store) -> None:
    response = ask(client, seed=7, max_tokens=2, stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    [row] = store.completions.recent()
    first, second = answer_tokens(HELLO, None, 7)[:2]
    fingerprint = frames_of(response.text)[0]["system_fingerprint"]

    def chunk(choices: str, usage: str = "null") -> str:
        return (
            f'data: {{"id":"{row.id}","object":"chat.completion.chunk","created":{int(NOW)},"model":"base",'
            f'"choices":[{choices}],"system_fingerprint":"{fingerprint}","usage":{usage}}}\n\n'
        )

    def choice(delta: str, finish: str = "null") -> str:
        return f'{{"index":0,"delta":{{{delta}}},"logprobs":null,"finish_reason":{finish}}}'

    assert response.text == "".join(
        [
            chunk(choice('"role":"assistant","content":""')),
            chunk(choice(f'"content":{json.dumps(first)}')),
            chunk(choice(f'"content":{json.dumps(second, ensure_ascii=False)}')),
            chunk(choice("", '"length"')),
            chunk("", '{"prompt_tokens":2,"completion_tokens":2,"total_tokens":4}'),
            "data: [DONE]\n\n",
        ]
    )


def test_without_stream_options_no_chunk_speaks_of_usage(client: TestClient) -> None:
    frames = frames_of(ask(client, stream=True).text)
    assert frames[-1] == "[DONE]"
    assert all("usage" not in frame and frame["choices"] for frame in frames[:-1])


def test_n_choices_have_distinct_seeds_and_count_the_prompt_once(client: TestClient, store: Store) -> None:
    body = ask(client, n=3, seed=5).json()
    texts = [choice["message"]["content"] for choice in body["choices"]]
    assert texts == ["".join(answer_tokens(HELLO, None, seed)) for seed in (5, 6, 7)]
    assert [choice.text for choice in store.completions.get(body["id"]).choices] == texts
    assert body["usage"]["prompt_tokens"] == 2
    assert len({choice["message"]["content"] for choice in ask(client, n=3).json()["choices"]}) == 3


def test_n_choices_stream_side_by_side_and_finish_together(client: TestClient) -> None:
    frames = frames_of(ask(client, n=2, seed=5, stream=True).text)
    assert [streamed_text(frames, index) for index in (0, 1)] == [
        "".join(answer_tokens(HELLO, None, seed)) for seed in (5, 6)
    ]
    assert [frame["choices"][0]["finish_reason"] for frame in frames[-3:-1]] == ["stop", "stop"]


def test_logprobs_have_openais_shape(client: TestClient) -> None:
    body = ask(client, seed=7, max_tokens=2, logprobs=True, top_logprobs=2).json()
    content = body["choices"][0]["logprobs"]["content"]
    drawn = [
        delta.logprobs[0]
        for delta in answer_deltas(HELLO, Sampling(2, seed=7, logprobs=True), None)
        if delta.text
    ]
    assert [entry["token"] for entry in content] == [one.token for one in drawn]
    assert content[0]["bytes"] == list(drawn[0].token.encode())
    assert len(content[0]["top_logprobs"]) == 2 and set(content[0]["top_logprobs"][0]) == {
        "token",
        "logprob",
        "bytes",
    }
    frames = frames_of(ask(client, seed=7, max_tokens=2, logprobs=True, stream=True).text)
    assert frames[1]["choices"][0]["logprobs"]["content"][0]["token"] == drawn[0].token


def test_stop_strings_and_text_parts_are_taken(client: TestClient) -> None:
    parts = [{"type": "text", "text": "Hello"}]
    whole = "".join(answer_tokens(HELLO, None, 7))
    stop = whole.split()[3]
    response = client.post(
        "/v1/chat/completions",
        json={"model": "base", "messages": [{"role": "user", "content": parts}], "seed": 7, "stop": stop},
    )
    assert response.json()["choices"][0]["message"]["content"] == whole[: whole.index(stop)]


def test_defaults_come_from_the_settings_and_newer_max_tokens_wins(client: TestClient, store: Store) -> None:
    row = store.completions.get(ask(client).json()["id"])
    assert (row.sampling.max_tokens, row.sampling.temperature, row.sampling.top_p) == (160, 0.7, 0.95)
    row = store.completions.get(
        ask(client, max_tokens=9, max_completion_tokens=3, temperature=0).json()["id"]
    )
    assert (row.sampling.max_tokens, row.sampling.temperature) == (3, 0.0)


def test_unknown_keys_are_ignored_and_nulls_mean_the_default(client: TestClient) -> None:
    harmless = {"top_k": 3, "chat_id": "x", "functions": None, "stop": None, "n": None, "tool_choice": "none"}
    assert (
        ask(client, **harmless, response_format={"type": "text"}, tools=[], logit_bias={}).status_code == 200
    )


def test_store_false_keeps_every_word_out_of_the_log(client: TestClient, store: Store) -> None:
    body = ask(client, "my secret", store=False, user="ann", metadata={"a": "b"}, stop=["secret"]).json()
    row = store.completions.get(body["id"])
    assert not row.stored and row.messages == () and row.metadata == {} and row.sampling.stop == ()
    assert [choice.text for choice in row.choices] == [""]
    assert row.completion_tokens == body["usage"]["completion_tokens"]


@pytest.mark.parametrize("header", ["X-OpenWebUI-Task", "X-Honed-Task"])
def test_side_jobs_of_front_ends_are_marked(client: TestClient, store: Store, header: str) -> None:
    body = ask(client, headers={header: "title_generation"}).json()
    assert store.completions.get(body["id"]).source is Source.TASK


def test_the_alias_follows_the_active_adapter_and_a_version_pins_it(
    client: TestClient, store: Store, add_adapter: Callable[..., Adapter]
) -> None:
    add_adapter("it0001-aaaaaaaa")
    add_adapter("it0002-bbbbbbbb", AdapterStatus.ACTIVE)
    answers = {name: ask(client, model=name, seed=1) for name in ("honed", "base", "it0001-aaaaaaaa")}
    models = [response.json()["model"] for response in answers.values()]
    assert models == ["it0002-bbbbbbbb", "base", "it0001-aaaaaaaa"]
    assert [response.headers["x-honed-adapter"] for response in answers.values()] == models
    assert len({response.json()["system_fingerprint"] for response in answers.values()}) == 2
    assert store.completions.get(answers["honed"].json()["id"]).adapter == "it0002-bbbbbbbb"
    store.adapters.activate("it0001-aaaaaaaa", actor="t", reason="t")
    assert ask(client).json()["model"] == "it0001-aaaaaaaa"


def test_the_fingerprint_tells_adapters_apart(
    client: TestClient, store: Store, add_adapter: Callable[..., Adapter]
) -> None:
    before = ask(client).json()["system_fingerprint"]
    add_adapter("it0001-aaaaaaaa", AdapterStatus.ACTIVE)
    assert ask(client).json()["system_fingerprint"] != before


@pytest.mark.parametrize("status", [AdapterStatus.CANDIDATE, AdapterStatus.HELD, AdapterStatus.REJECTED])
def test_adapters_that_passed_no_gate_are_not_served(
    client: TestClient, add_adapter: Callable[..., Adapter], status: AdapterStatus
) -> None:
    add_adapter("it0001-aaaaaaaa", status)
    error = error_of(ask(client, model="it0001-aaaaaaaa"), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")


def test_an_adapter_that_is_not_loaded_is_404_but_the_alias_says_retry(
    client: TestClient, add_adapter: Callable[..., Adapter]
) -> None:
    add_adapter("it0001-aaaaaaaa", AdapterStatus.ACTIVE, resident=False)
    assert error_of(ask(client, model="it0001-aaaaaaaa"), 404)["code"] == "model_not_found"
    response = ask(client)
    assert error_of(response, 503)["code"] == "engine_unavailable"
    assert response.headers["retry-after"] == "2"


BAD = [
    ({"messages": []}, "messages", "at least 1"),
    ({"messages": "hi"}, "messages", "list"),
    ({"messages": [{"role": "bot", "content": "x"}]}, "messages[0].role", "'system', 'developer', 'user'"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "required"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "string"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content", "surrogate"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", "images"),
    (
        {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]},
        "messages[0].tool_calls",
        "support",
    ),
    ({"model": None}, "model", "string"),
    ({"temperature": 2.1}, "temperature", "less than or equal to 2"),
    ({"temperature": "hot"}, "temperature", "number"),
    ({"top_p": 0}, "top_p", "greater than 0"),
    ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ({"max_completion_tokens": -1}, "max_completion_tokens", "greater than or equal to 1"),
    ({"n": 0}, "n", "greater than or equal to 1"),
    ({"n": 9}, "n", "at most 8"),
    ({"n": 1.5}, "n", "integer"),
    ({"seed": 2**63}, "seed", "less than"),
    ({"stop": ["a"] * 5}, "stop", "at most 4"),
    ({"stop": [""]}, "stop[0]", "at least 1"),
    ({"stream": "yes"}, "stream", "boolean"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
    ({"top_logprobs": 2}, "top_logprobs", "logprobs: true"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
    ({"frequency_penalty": 3}, "frequency_penalty", "less than or equal to 2"),
    ({"presence_penalty": -3}, "presence_penalty", "greater than or equal to -2"),
    ({"metadata": {str(k): "v" for k in range(17)}}, "metadata", "at most 16"),
    ({"metadata": {"k": "v" * 513}}, "metadata", "512"),
    ({"metadata": {"k": ["v"]}}, "metadata", "must be text"),
    ({"metadata": {"k": "\ud800"}}, "metadata", "surrogate"),
    ({"user": 5}, "user", "string"),
    ({"tools": [{"type": "function"}]}, "tools", "not supported"),
    ({"functions": [{}]}, "functions", "not supported"),
    ({"tool_choice": "auto"}, "tool_choice", "'none'"),
    ({"function_call": "auto"}, "function_call", "'none'"),
    ({"response_format": {"type": "json_object"}}, "response_format", "text"),
    ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
    ({"audio": {"voice": "x"}}, "audio", "not supported"),
    ({"modalities": ["text", "audio"]}, "modalities", "text"),
    ({"prediction": {"type": "content"}}, "prediction", "not supported"),
    ({"web_search_options": {}}, "web_search_options", "not supported"),
    ({"reasoning_effort": "high"}, "reasoning_effort", "not supported"),
]


@pytest.mark.parametrize(("change", "param", "says"), BAD, ids=lambda value: str(value)[:40])
def test_bad_requests_name_the_field_and_what_is_allowed(
    client: TestClient, store: Store, change: dict[str, Any], param: str, says: str
) -> None:
    body = {"model": "honed", "messages": [{"role": "user", "content": "Hello"}], **change}
    text = json.dumps(body)
    response = client.post("/v1/chat/completions", content=text, headers={"content-type": "application/json"})
    error = error_of(response, 400)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert says in error["message"]
    assert store.completions.count() == 0


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b'"x"', b"\xff"])
def test_a_body_that_is_no_json_object_is_400(client: TestClient, body: bytes) -> None:
    response = client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    error_of(response, 400)


def test_a_prompt_longer_than_the_context_is_400(client: TestClient) -> None:
    assert error_of(ask(client, "word " * 3000), 400)["param"] == "messages"


def app_with(store: Store, engine: FakeEngine, **settings: Any) -> FastAPI:
    asyncio.run(engine.start())
    return create_app(store=store, engine=engine, settings=ApiConfig(**settings))


def test_a_version_that_is_still_being_proved_answers_nobody(
    store: Store, engine: FakeEngine, add_adapter: Callable[..., Adapter]
) -> None:
    attested: set[str] = set()
    named = add_adapter("it0001-aaaaaaaa")
    active = add_adapter("it0002-bbbbbbbb", AdapterStatus.ACTIVE)
    app = create_app(store=store, engine=engine, settings=ApiConfig(), attested=attested)
    with TestClient(app, base_url=URL) as client:
        error_of(ask(client, model=named.version), 404)
        error_of(ask(client), 503)
        listed = [row["id"] for row in client.get("/v1/models").json()["data"]]
        assert listed == ["honed", "base"]
        attested.update((named.version, active.version))
        assert ask(client, model=named.version).json()["model"] == named.version
        assert ask(client).json()["model"] == active.version


def test_a_full_queue_is_429_with_retry_after_and_leaves_no_row(store: Store) -> None:
    app = app_with(store, FakeEngine(FakeLimits(max_batch=1, max_queue=1)))
    with TestClient(app, base_url=URL) as client:
        response = ask(client, n=4)
        assert error_of(response, 429)["code"] == "engine_busy"
        assert (response.headers["retry-after"], response.headers["retry-after-ms"]) == ("1", "1000")
        assert store.completions.count() == 0
        assert ask(client).status_code == 200, "the choices admitted before the refusal were given up"


def test_a_stopped_engine_is_503_with_retry_after(client: TestClient, engine: FakeEngine) -> None:
    asyncio.run(engine.close())
    response = ask(client)
    assert error_of(response, 503)["type"] == "service_unavailable_error"
    assert int(response.headers["retry-after"]) >= 1


def test_an_engine_that_breaks_mid_stream_tells_the_client_and_fails_the_row(store: Store) -> None:
    engine = FakeEngine(FakeLimits(token_delay=0.02))
    app = app_with(store, engine)
    with TestClient(app, base_url=URL) as client:
        assert client.portal is not None
        client.portal.start_task_soon(close_soon, engine)
        frames = frames_of(ask(client, stream=True).text)
    assert frames[-2]["error"]["code"] == "engine_unavailable" and frames[-1] == "[DONE]"
    [row] = store.completions.recent()
    assert row.status is CompletionStatus.FAILED
    assert row.choices[0].text == streamed_text([*frames[:-2], "[DONE]"])
    assert row.latency_s is None, "an outage is not held against the version that was answering"


def test_an_engine_that_breaks_gives_a_whole_answer_its_status(store: Store) -> None:
    engine = FakeEngine(FakeLimits(token_delay=0.02))
    with TestClient(app_with(store, engine), base_url=URL) as client:
        assert client.portal is not None
        client.portal.start_task_soon(close_soon, engine)
        error_of(ask(client), 503)
    assert store.completions.recent()[0].status is CompletionStatus.FAILED


async def close_soon(engine: FakeEngine) -> None:
    while not (await engine.health()).running:
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)
    await engine.close()


def test_a_slow_engine_is_bridged_by_comments(store: Store) -> None:
    app = app_with(store, FakeEngine(FakeLimits(token_delay=0.08)), keepalive_s=0.02)
    with TestClient(app, base_url=URL) as client:
        text = ask(client, stream=True, max_tokens=2).text
    assert text.count(": keep-alive\n\n") >= 2
    assert frames_of(text)[-1] == "[DONE]"
