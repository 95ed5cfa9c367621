"""The external judge over real HTTP: another honed as the endpoint, and endpoints that fail in every way."""

import asyncio
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from judge.config import ExternalConfig
from judge.external import External
from judge.scorer import Question, Scores
from judge.texts import read_texts
from policies.remote import MAX_REPLY, RemoteModel
from store.records import Message
from tests.endpoint import Answering, Endpoint, completion, endpoint, http
from tests.integration.service import Service, running

#: Seconds an endpoint of these tests may take over one call.
PATIENCE = 1.0
QUESTIONS = [
    Question(
        (Message("user", "What is the sea?"),),
        ("Salt water.", "A large body of salt water that covers most of Earth."),
    ),
    Question((Message("user", "Name a fruit."),), ("An apple.", "No.")),
    Question((Message("user", "Add two and two."),), ("Four.", "Five.")),
    Question((Message("user", "What is a lake?"),), ("A body of water.", "A kind of bread.")),
]


def judge_at(url: str, *, model: str = "base", timeout_s: float = PATIENCE, retries: int = 1) -> External:
    settings = ExternalConfig(url=url, model=model, timeout_s=timeout_s, retries=retries)
    remote = RemoteModel(url, model, key="sk-secret", timeout_s=timeout_s, retries=retries)
    return External(remote, settings=settings, texts=read_texts())


def make_marker(directory: Path) -> Path:
    """A tiny model whose likeliest first words are the marks, a little differently for every prompt."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    from tests.tiny import make_tiny_model

    model = LlamaForCausalLM.from_pretrained(make_tiny_model(directory, seed=3))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model.config.tie_word_embeddings = False
    head = torch.nn.Linear(model.config.hidden_size, model.config.vocab_size, bias=False)
    with torch.no_grad():
        # One dimension that is large for every token is as good as a bias of the marks.
        model.model.embed_tokens.weight[:, 0] = 1.0
        head.weight.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(3))
        head.weight[:, 0] = 0.0
        head.weight[tokenizer.convert_tokens_to_ids(list("012345")), 0] = 2.0
    model.lm_head = head
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A second honed."""
    model = make_marker(tmp_path_factory.mktemp("marker"))
    with running(tmp_path_factory.mktemp("other-honed"), model) as service:
        service.wait_until_ready()
        yield service


def url_of(service: Service) -> str:
    assert service.client is not None
    return f"{service.client.url}/v1"


def score(judge: External, questions: Sequence[Question] = QUESTIONS) -> tuple[list[Scores], float]:
    began = time.monotonic()
    return asyncio.run(judge.score(questions)), time.monotonic() - began


@pytest.mark.slow
def test_another_honed_marks_answers_by_its_logprobs(other: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mark after mark is all this model can say, and "41" is no mark; so it is heard for one word.
    monkeypatch.setattr("judge.external.REPLY_TOKENS", 1)
    scores, _ = score(judge_at(url_of(other), timeout_s=60))
    values = [one.value for row in scores for one in row if one is not None]
    assert len(values) == 8
    assert all(0 < value < 5 for value in values)
    # An expectation over alternatives, not a digit read from text.
    assert any(value != round(value) for value in values)
    assert len(set(values)) > 1
    marks = next(one for row in scores for one in row if one is not None).details["marks"]
    assert sum(marks) == pytest.approx(1, abs=1e-3)
    assert sum(share > 0 for share in marks) > 1


@pytest.mark.slow
def test_being_asked_as_a_judge_leaves_nothing_to_train_on(other: Service) -> None:
    score(judge_at(url_of(other), timeout_s=60))
    with closing(sqlite3.connect(f"file:{other.state / 'honed.db'}?mode=ro", uri=True)) as database:
        assert [row[0] for row in database.execute("select distinct source from completions")] == ["task"]


@pytest.mark.slow
def test_a_model_that_honed_does_not_have_is_an_abstention(
    other: Service, caplog: pytest.LogCaptureFixture
) -> None:
    scores, _ = score(judge_at(url_of(other), model="no-such-version", timeout_s=60))
    assert all(one is None for row in scores for one in row)
    assert "HTTP 404" in caplog.text


def against(answering: Answering, *, retries: int = 1) -> tuple[list[Scores], Endpoint, float]:
    async def main() -> tuple[list[Scores], Endpoint, float]:
        async with endpoint(answering) as server:
            began = time.monotonic()
            scores = await judge_at(server.url, retries=retries).score(QUESTIONS)
            return scores, server, time.monotonic() - began

    return asyncio.run(main())


def silent(_: int) -> None:
    """Takes the question and never answers."""


FAILURES = {
    "slow": (silent, "no answer within 1 s"),
    "garbage": (lambda _: http(200, "<html>Welcome!</html>"), "not a chat completion"),
    "prose": (lambda _: completion("I would say 5 out of 5."), "the reply is not a mark"),
    "errors": (lambda _: http(500, "sorry"), "HTTP 500"),
    "huge": (lambda _: http(200, b" " * (MAX_REPLY + 1)), "larger than"),
    "overloaded": (lambda _: http(429, retry_after="600"), "HTTP 429"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_every_failure_is_an_abstention_in_bounded_time(
    failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    answering, reason = FAILURES[failure]
    scores, server, seconds = against(answering)
    assert scores == [(None, None)] * 4
    assert server.calls > 0
    # Four at once, and after three calls without an answer no further ones.
    assert seconds < 2 * PATIENCE + 1
    assert reason in caplog.text
    assert "sk-secret" not in caplog.text
    assert len(caplog.records) == 1


def test_a_service_that_is_down_is_an_abstention(caplog: pytest.LogCaptureFixture) -> None:
    async def closed() -> str:
        async with endpoint(silent) as server:
            return server.url

    scores, seconds = score(judge_at(asyncio.run(closed())))
    assert scores == [(None, None)] * 4
    assert seconds < 2 * PATIENCE + 1
    assert "no connection" in caplog.text


def test_a_redirect_is_an_abstention_and_its_target_is_never_contacted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> tuple[list[Scores], Endpoint, Endpoint]:
        async with endpoint(lambda _: completion("5")) as target:

            def away(_: int) -> bytes:
                return http(308, location=f"{target.url}/chat/completions")

            async with endpoint(away) as server:
                return await judge_at(server.url).score(QUESTIONS), server, target

    scores, server, target = asyncio.run(main())
    assert scores == [(None, None)] * 4
    assert server.calls == 8
    assert target.calls == 0
    assert "redirect" in caplog.text


def test_one_that_recovers_is_heard_again_by_the_next_iteration_s_judge() -> None:
    async def main() -> tuple[list[Scores], int, list[Scores]]:
        recovered = False
        async with endpoint(lambda _: completion("4", {"4": -0.1}) if recovered else http(503)) as server:
            judge = judge_at(server.url)
            down = await judge.score(QUESTIONS)
            recovered, calls = True, server.calls
            # This one has given up: a dead endpoint costs a time-out a call, and an iteration asks hundreds.
            assert await judge.score(QUESTIONS) == down
            asked_again = server.calls - calls
            return down, asked_again, await judge_at(server.url).score(QUESTIONS)

    down, asked_again, up = asyncio.run(main())
    assert down == [(None, None)] * 4 and asked_again == 0
    assert [one.value for row in up for one in row if one is not None] == [4.0] * 8
