"""The remote model over real sockets: what it sends, what it survives, and what it never does."""

import asyncio
import gzip
import logging
import math
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from policies.remote import MAX_REPLY, RemoteModel, RemoteReply, checked_url, retry_after
from store.errors import ConfigError, EngineError, EngineUnavailable
from store.records import Message
from tests.endpoint import Answering, Endpoint, completion, endpoint, http

QUESTION = [Message("system", "You judge."), Message("user", "How good?")]
KEY = "sk-very-secret"
GOOD = completion("4", {"4": -0.1, "5": -2.5})


def call(answering: Answering, **settings: Any) -> tuple[RemoteReply | EngineError, Endpoint, float]:
    """What one call gave, what the endpoint saw, and the seconds it took."""

    async def main() -> tuple[RemoteReply | EngineError, Endpoint, float]:
        async with endpoint(answering) as server:
            model = RemoteModel(server.url, "judge-1", **{"key": KEY, "timeout_s": 5.0, **settings})
            began = time.monotonic()
            try:
                result: RemoteReply | EngineError = await model.complete(
                    QUESTION, max_tokens=4, top_logprobs=20
                )
            except EngineError as error:
                result = error
            return result, server, time.monotonic() - began

    return asyncio.run(main())


def failure(answering: Answering, **settings: Any) -> tuple[EngineError, Endpoint, float]:
    result, server, seconds = call(answering, **settings)
    assert isinstance(result, EngineError)
    # Where, always; the key, never: not even in what caused the error.
    assert server.url in str(result)
    cause: BaseException | None = result
    while cause is not None:
        assert KEY not in f"{cause!r} {cause}"
        cause = cause.__cause__
    return result, server, seconds


def test_a_question_goes_out_as_openai_has_it_and_the_first_alternatives_come_back() -> None:
    result, server, _ = call(lambda _: GOOD)
    assert result == RemoteReply("4", (("4", -0.1), ("5", -2.5)))
    assert server.heads[0].startswith("POST /v1/chat/completions ")
    assert f"authorization: bearer {KEY}" in server.heads[0].lower()
    assert "x-honed-task: judge" in server.heads[0].lower()
    assert server.bodies == [
        {
            "model": "judge-1",
            "messages": [
                {"role": "system", "content": "You judge."},
                {"role": "user", "content": "How good?"},
            ],
            "max_tokens": 4,
            "temperature": 0.0,
            "logprobs": True,
            "top_logprobs": 20,
        }
    ]


def test_no_key_sends_none() -> None:
    _, server, _ = call(lambda _: GOOD, key=None)
    assert "authorization" not in server.heads[0].lower()


def test_an_endpoint_without_logprobs_is_asked_again_without_them_once_and_remembered() -> None:
    async def main() -> tuple[list[RemoteReply], Endpoint]:
        def answering(number: int) -> bytes:
            return http(400, "logprobs are not supported") if number == 0 else completion("3")

        async with endpoint(answering) as server:
            model = RemoteModel(server.url, "judge-1")
            replies = [await model.complete(QUESTION, max_tokens=4, top_logprobs=20) for _ in range(2)]
            return replies, server

    replies, server = asyncio.run(main())
    assert replies == [RemoteReply("3"), RemoteReply("3")]
    assert ["logprobs" in body for body in server.bodies] == [True, False, False]


def test_a_refusal_that_is_not_about_logprobs_stays_one_and_keeps_asking_for_them() -> None:
    async def main() -> list[bool]:
        async with endpoint(lambda number: http(400) if number < 2 else GOOD) as server:
            model = RemoteModel(server.url, "judge-1")
            with pytest.raises(EngineError, match="HTTP 400"):
                await model.complete(QUESTION, max_tokens=4, top_logprobs=20)
            await model.complete(QUESTION, max_tokens=4, top_logprobs=20)
            return ["logprobs" in body for body in server.bodies]

    assert asyncio.run(main()) == [True, False, True]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_may_pass_is_tried_again(status: int) -> None:
    result, server, _ = call(lambda number: http(status) if number == 0 else GOOD, retries=1)
    assert isinstance(result, RemoteReply)
    assert server.calls == 2


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_will_not_pass_is_not_tried_again(status: int) -> None:
    error, server, _ = failure(lambda _: http(status, f"your key {KEY} is bad"))
    assert server.calls == 1
    assert f"HTTP {status}" in str(error)


def test_further_attempts_end() -> None:
    error, server, _ = failure(lambda _: http(502), retries=2)
    assert isinstance(error, EngineUnavailable)
    assert server.calls == 3


def test_retry_after_is_kept() -> None:
    result, server, seconds = call(
        lambda number: http(429, retry_after="1.2") if number == 0 else GOOD, retries=1
    )
    assert isinstance(result, RemoteReply)
    assert server.calls == 2
    assert seconds >= 1.2


def test_a_longer_wait_than_a_call_may_take_is_not_waited_for() -> None:
    error, server, seconds = failure(lambda _: http(429, retry_after="3600"), retries=5)
    assert server.calls == 1
    assert seconds < 2
    assert "HTTP 429" in str(error)


@pytest.mark.parametrize("value", ["soon", "-5", "nan", "inf", "", None])
def test_a_retry_after_that_says_nothing_is_none(value: str | None) -> None:
    assert retry_after(value) == 0.0


def test_a_retry_after_may_be_a_date() -> None:
    at = datetime.now(UTC) + timedelta(seconds=30)
    assert retry_after(format_datetime(at, usegmt=True)) == pytest.approx(30, abs=3)


def test_a_redirect_is_a_failure_and_its_target_never_hears_of_it() -> None:
    async def main() -> tuple[str, Endpoint, Endpoint]:
        async with endpoint(lambda _: GOOD) as target:

            def away(_: int) -> bytes:
                return http(307, location=f"{target.url}/chat/completions")

            async with endpoint(away) as server:
                with pytest.raises(EngineError, match="redirect") as raised:
                    await RemoteModel(server.url, "judge-1").complete(QUESTION, max_tokens=4)
                return str(raised.value), server, target

    message, server, target = asyncio.run(main())
    assert (server.calls, target.calls) == (1, 0)
    assert "307" in message


@pytest.mark.parametrize("retries", [0, 3])
def test_silence_ends_with_the_time_a_call_may_take(retries: int) -> None:
    error, _, seconds = failure(lambda _: None, timeout_s=0.5, retries=retries)
    assert "no answer within 0.5 s" in str(error)
    assert 0.4 < seconds < 2


def test_nobody_listening_is_no_connection() -> None:
    async def main() -> None:
        async with endpoint(lambda _: GOOD) as server:
            url = server.url
        with pytest.raises(EngineUnavailable, match=f"{url}: no connection"):
            await RemoteModel(url, "judge-1", key=KEY, retries=1).complete(QUESTION, max_tokens=4)

    asyncio.run(main())


NESTED = "[" * 200_000
TOP = '{"choices": [{"message": {"content": "4"}, "logprobs": {"content": [{"top_logprobs": %s}]}}]}'


@pytest.mark.parametrize(
    "body",
    [
        "<html>hello</html>",
        "",
        "[]",
        "null",
        '{"choices": []}',
        '{"choices": [{"message": null}]}',
        '{"choices": [{"message": {"content": ["4"]}}]}',
        b"\xff\xfe\x00",
        NESTED,
        TOP % '[{"token": "4", "logprob": 5.0}]',
        TOP % '[{"token": "4", "logprob": NaN}]',
        TOP % '[{"token": "4", "logprob": 1e999}]',
        TOP % ('[{"token": "4", "logprob": -1%s}]' % ("0" * 400)),
        TOP % '[{"token": "4"}]',
        TOP % "7",
    ],
    ids=range(15),
)
def test_garbage_is_no_answer(body: str | bytes) -> None:
    error, server, _ = failure(lambda _: http(200, body))
    assert "not a chat completion" in str(error)
    assert server.calls == 1


def test_a_reply_without_content_is_an_empty_text() -> None:
    result, _, _ = call(
        lambda _: http(200, '{"choices": [{"message": {"content": null}, "logprobs": null}]}')
    )
    assert result == RemoteReply("")


def test_impossible_alternatives_keep_no_weight() -> None:
    body = TOP % '[{"token": "4", "logprob": -Infinity}, {"token": "5", "logprob": 0.0001}]'
    result, _, _ = call(lambda _: http(200, body))
    assert result == RemoteReply("4", (("4", -math.inf), ("5", 0.0)))


def too_large(_: int) -> bytes:
    return http(200, b" " * (MAX_REPLY + 1))


def endless(_: int) -> bytes:
    """No length given: the body ends when the connection does."""
    return b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (4 * MAX_REPLY)


def bomb(_: int) -> bytes:
    return http(200, gzip.compress(b" " * 50_000_000), content_encoding="gzip")


@pytest.mark.parametrize(
    ("answering", "message"), [(too_large, "larger than"), (endless, "larger than"), (bomb, "compressed")]
)
def test_too_much_is_not_read(answering: Answering, message: str) -> None:
    error, server, _ = failure(answering)
    assert message in str(error)
    assert server.calls == 1


@pytest.mark.parametrize(
    "broken", [b"", b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{"]
)
def test_a_broken_connection_is_tried_again(broken: bytes) -> None:
    result, server, _ = call(lambda number: broken if number == 0 else GOOD, retries=1)
    assert isinstance(result, RemoteReply)
    assert server.calls == 2


@pytest.mark.parametrize(
    "url",
    [
        "",
        "judge.example/v1",
        "ftp://judge.example/v1",
        "http://",
        "http://judge.example:0/v1",
        "http://a b/v1",
    ],
)
def test_only_web_addresses_are_endpoints(url: str) -> None:
    with pytest.raises(ConfigError, match=r"judge\.external\.url"):
        checked_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://me:hunter2@judge.example/v1",
        "https://judge.example/v1?key=hunter2",
        "https://j.example/#hunter2",
    ],
)
def test_an_address_with_secrets_in_it_is_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        checked_url(url)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("key", ["sk-very\nsecret", "sk-schlüssel"])
def test_a_key_no_header_may_carry_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(ConfigError) as raised:
        RemoteModel("http://judge.example/v1", "judge-1", key=key)
    assert "sk-" not in str(raised.value)


def test_the_key_is_in_no_log_and_no_repr(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    result, server, _ = call(lambda _: GOOD, key=f"{KEY}\n")
    assert isinstance(result, RemoteReply)
    assert KEY in server.heads[0]
    assert KEY not in caplog.text
    assert KEY not in repr(RemoteModel(server.url, "judge-1", key=KEY))


def test_a_text_that_cannot_be_sent_is_a_failure_like_others() -> None:
    async def main() -> None:
        async with endpoint(lambda _: GOOD) as server:
            with pytest.raises(EngineError):
                await RemoteModel(server.url, "judge-1", retries=0).complete(
                    [Message("user", "\ud800")], max_tokens=4
                )

    asyncio.run(main())
