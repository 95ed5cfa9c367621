"""The whole circle on a real vLLM server that `honed serve` starts itself, with the embedded model."""

import os
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from openai import OpenAI

from policies.chat import load_tokenizer
from policies.config import EngineConfig
from policies.engines import resolve_base
from tests.integration.crowd import Crowd, stream
from tests.integration.service import (
    Service,
    ask,
    finished_iteration,
    running,
    stored_votes,
    thumb,
    wait_until,
)
from tests.integration.test_loop import greedy
from tests.vllm_cpu import free_port, needs_vllm, spawning

pytestmark = [pytest.mark.slow, *needs_vllm]

#: A busy machine starts vLLM in two minutes.
STARTING = 400.0
TOKENS = 16
QUESTIONS = [f"Tell me one thing about {subject}." for subject in (
    "bread", "rain", "the moon", "bees", "salt", "Vienna", "chess", "tea",
    "volcanoes", "sleep", "maps", "glass", "owls", "rivers", "wool", "stars",
)]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return resolve_base(EngineConfig(), tmp_path_factory.mktemp("embedded"))[0]


@pytest.fixture(scope="module")
def service(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service that the tests below take through its life, in order."""
    settings = {
        **spawning(free_port()),
        "HONED_API__MAX_TOKENS": str(TOKENS),
        # Far from what anybody would train with: the few votes below must change what a real model says.
        "HONED_POLICIES__TRAIN__LEARNING_RATE": "0.003",
        "HONED_DAEMON__GATE__KL_STEP_SOFT": "5",
        "HONED_DAEMON__GATE__KL_STEP_HARD": "20",
        "HONED_DAEMON__GATE__KL_BASE_SOFT": "5",
        "HONED_DAEMON__GATE__KL_BASE_HARD": "20",
        "HONED_DAEMON__GATE__REPETITION_MAX": "1.0",
        "HONED_DAEMON__GATE__ENTROPY_RATIO_HARD": "0",
        "HONED_DAEMON__GATE__WINNER_DLOGP_HARD": "-100",
    }
    with running(tmp_path_factory.mktemp("vllm") / "state", model, **settings) as started:
        assert started.wait_until_ready(STARTING) is not None, started.tail()
        yield started


def serving(service: Service) -> str:
    assert service.client is not None
    return str(service.client.get("/v1/status")["serving"]["version"])


def check_unmixed(crowd: Crowd, url: str) -> None:
    """Every stream is one version's greedy text, from its first chunk to its last."""
    assert crowd.failures == []
    with OpenAI(base_url=f"{url}/v1", api_key="check", max_retries=0, timeout=300) as person:
        alone = {
            (question, version): stream(person, question, tokens=TOKENS, model=version).text
            for version in crowd.models()
            for question in QUESTIONS
        }
    for answer in crowd.answers:
        (version,) = answer.models
        assert answer.text == alone[answer.question, version]


def test_votes_become_an_adapter_in_the_running_server_while_sixteen_stream(service: Service) -> None:
    assert service.client is not None
    for number, question in enumerate(QUESTIONS):
        thumb(
            service.client,
            ask(service.client, question, seed=number, max_tokens=TOKENS)["id"],
            number % 2 == 0,
        )
    with Crowd(service.client.url, QUESTIONS, tokens=TOKENS) as crowd:
        service.client.intend("train", reason="test")
        ended = wait_until(lambda: finished_iteration(service.client, 1), seconds=500)
        assert ended["stage"] == "active", ended
        wait_until(lambda: ended["candidate"] in crowd.models(), seconds=120)
    assert crowd.models() == {"base", ended["candidate"]}
    check_unmixed(crowd, service.client.url)
    assert serving(service) == ended["candidate"]


# PEFT asks transformers for a property under its old name.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_the_served_text_is_what_transformers_and_peft_compute(service: Service, model: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    assert service.client is not None
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        adapted = PeftModel.from_pretrained(base, service.state / "iterations" / "0001" / "adapter").eval()
    tokenizer, changed = load_tokenizer(model), 0
    for question in QUESTIONS[:10]:
        expected = greedy(adapted, tokenizer, question)
        with adapted.disable_adapter():
            changed += greedy(adapted, tokenizer, question) != expected
        served = ask(service.client, question, temperature=0, max_tokens=24)
        assert served["model"] == serving(service)
        assert served["choices"][0]["message"]["content"] == expected
    assert changed, "the adapter changed no answer, so this test could not tell it from the base"


def server_process(service: Service) -> int:
    """The vLLM server's process id: the service's only child."""
    pid = service.process.pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def test_a_killed_server_is_started_again_with_the_adapter_proven_and_no_vote_lost(service: Service) -> None:
    assert service.client is not None
    version, url = serving(service), service.client.url
    expected = ask(service.client, QUESTIONS[0], temperature=0, max_tokens=TOKENS)
    vote = thumb(service.client, expected["id"], True)
    before = stored_votes(service.state)
    with httpx.Client(base_url=url, timeout=120) as http:
        body = {
            "model": "honed",
            "messages": [{"role": "user", "content": "Write a long story about the sea."}],
            "max_tokens": 1500,
            "stream": True,
        }
        with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = (line for line in answer.iter_lines() if line.startswith("data: "))
            for _ in range(4):
                next(lines)
            os.kill(server_process(service), signal.SIGKILL)
            rest = list(lines)
        assert any('"error"' in line and "engine_unavailable" in line for line in rest)
        refused = http.post("/v1/chat/completions", json={**body, "stream": False})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert http.get("/readyz").status_code == 503
        # Feedback needs no model.
        vote_meanwhile = thumb(service.client, expected["id"], False)
    began = time.monotonic()
    wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 200, seconds=STARTING)
    print(f"served again after {time.monotonic() - began:.1f} s")
    again = ask(service.client, QUESTIONS[0], temperature=0, max_tokens=TOKENS)
    assert again["model"] == version
    assert again["choices"][0]["message"]["content"] == expected["choices"][0]["message"]["content"]
    assert {*before, vote, vote_meanwhile} == set(stored_votes(service.state))


def test_rolling_back_under_sixteen_streams_mixes_nothing(service: Service) -> None:
    assert service.client is not None
    version = serving(service)
    with Crowd(service.client.url, QUESTIONS, tokens=TOKENS) as crowd:
        wait_until(lambda: len(crowd.answers) >= 16)
        service.client.intend("rollback", reason="worse")
        wait_until(lambda: "base" in crowd.models())
    assert crowd.models() == {"base", version}
    check_unmixed(crowd, service.client.url)
    assert serving(service) == "base"


def test_a_stopped_service_leaves_no_server_behind(service: Service) -> None:
    child = server_process(service)
    service.close()
    assert not Path(f"/proc/{child}").exists()
