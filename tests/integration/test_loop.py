"""The whole circle with real processes and a tiny model: chat, vote, train, be served, roll back."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import OpenAI

from policies.chat import encode_prompt, load_tokenizer
from store.records import Message
from tests.integration.service import (
    ROOT,
    Service,
    ask,
    chat_and_vote,
    finished_iteration,
    running,
    wait_until,
)

pytestmark = pytest.mark.slow

HELLO = [{"role": "user", "content": "hello there"}]


def honed(service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, as an operator would run it beside the service."""
    from os import environ

    return subprocess.run(
        [sys.executable, "-m", "daemon", *arguments],
        cwd=ROOT,
        env={**environ, "HONED_STORE__DIRECTORY": str(service.state), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def service(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service that the tests below take through its life, in order."""
    # A rate at which so small a model changes what it says.
    rate = {"HONED_POLICIES__TRAIN__LEARNING_RATE": "0.03", "HONED_POLICIES__TRAIN__EPOCHS": "4"}
    with running(tmp_path_factory.mktemp("loop") / "state", tiny_model, **rate) as running_service:
        assert running_service.wait_until_ready() is not None, running_service.tail()
        yield running_service


@pytest.fixture(scope="module")
def person(service: Service) -> Iterator[OpenAI]:
    assert service.client is not None
    with OpenAI(base_url=f"{service.client.url}/v1", api_key="ann", max_retries=0) as client:
        yield client


class Chatting(threading.Thread):
    """Somebody who keeps chatting while things happen, and remembers every answer and every failure."""

    def __init__(self, person: OpenAI) -> None:
        super().__init__()
        self.person, self.stopped = person, threading.Event()
        self.models: list[str] = []
        self.failures: list[Exception] = []

    def run(self) -> None:
        while not self.stopped.is_set():
            try:
                chunks = list(
                    self.person.chat.completions.create(
                        model="honed", messages=HELLO, max_tokens=6, stream=True
                    )
                )
                self.models.append({chunk.model for chunk in chunks}.pop())
                assert len({chunk.model for chunk in chunks}) == 1
            except Exception as error:  # remembered, and asserted on by the test
                self.failures.append(error)

    def __enter__(self) -> "Chatting":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.join()


def test_an_unmodified_client_chats_streams_and_votes(person: OpenAI) -> None:
    answer = person.chat.completions.create(model="honed", messages=HELLO, max_tokens=6, seed=3)
    assert answer.model == "base"
    assert answer.usage is not None and answer.usage.completion_tokens <= 6
    streamed = person.chat.completions.create(
        model="honed",
        messages=HELLO,
        max_tokens=6,
        seed=3,
        stream=True,
        stream_options={"include_usage": True},
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices)
    assert text == answer.choices[0].message.content
    assert {"base", "honed"} == {model.id for model in person.models.list()}


def test_training_without_votes_says_what_is_missing(service: Service) -> None:
    done = honed(service, "train", "--json")
    assert done.returncode == 1
    outcome = json.loads(done.stdout)["outcome"]
    assert outcome["stage"] == "aborted"
    assert "min_examples" in outcome["reason"]


def test_votes_become_an_adapter_that_is_served_while_chat_goes_on(service: Service, person: OpenAI) -> None:
    assert service.client is not None
    chat_and_vote(service.client, 20, seed=1)
    with Chatting(person) as chatting:
        done = honed(service, "train")
        wait_until(lambda: chatting.models and chatting.models[-1] != "base")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "iteration 2: active" in done.stdout
    assert "iteration 2: training" in done.stderr
    assert chatting.failures == []
    version = ask(service.client, "and now?")["model"]
    assert chatting.models == ["base"] * chatting.models.count("base") + [version] * chatting.models.count(
        version
    )


def test_an_answer_names_its_adapter_and_the_adapter_its_votes(service: Service) -> None:
    assert service.client is not None
    answer = ask(service.client, "who answers?")
    row = service.client.get(f"/v1/completions/{answer['id']}")
    adapter = service.client.get(f"/v1/adapters/{row['adapter']}")
    assert adapter["status"] == "active"
    iteration = service.client.get(f"/v1/iterations/{adapter['iteration']}")
    assert iteration["counts"]["kto_up"] + iteration["counts"]["kto_down"] >= 4
    assert {gate["metric"] for gate in iteration["gates"]} >= {
        "kl/step_token",
        "kl/base_token",
        "shape/empty",
    }
    assert {stage["stage"] for stage in iteration["stages"]} >= {
        "collecting",
        "training",
        "evaluating",
        "active",
    }
    (trained, *_) = [e["completion_id"] for e in iteration["examples"] if e["split"] == "train"]
    shaped = service.client.get(f"/v1/completions/{trained}")
    assert adapter["iteration"] in [item["id"] for item in shaped["iterations"]]


def greedy(model: Any, tokenizer: Any, question: str) -> str:
    """transformers' own greedy continuation of 24 tokens."""
    ids = torch.tensor([encode_prompt(tokenizer, [Message("user", question)])])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False
    )
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


# PEFT asks transformers for a property under its old name.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_the_served_text_is_what_peft_computes_from_the_same_files(
    service: Service, tiny_model: Path
) -> None:
    """Greedy, token for token: the exported adapter is the served one."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    assert service.client is not None
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    directory = service.state / "iterations" / "0002" / "adapter"
    model = PeftModel.from_pretrained(base, directory).eval()
    tokenizer = load_tokenizer(tiny_model)
    changed = 0
    for question in [f"question {number}" for number in range(10)]:
        expected = greedy(model, tokenizer, question)
        with model.disable_adapter():
            changed += greedy(model, tokenizer, question) != expected
        served = ask(service.client, question, temperature=0, max_tokens=24)
        assert served["model"] != "base"
        assert served["choices"][0]["message"]["content"] == expected
    assert changed, "the adapter changed no answer, so this test could not tell it from the base"


def test_operators_read_the_same_history_on_the_command_line(service: Service) -> None:
    assert "serving" in honed(service, "status").stdout
    listed = json.loads(honed(service, "iterations", "--json").stdout)
    assert [(row["id"], row["stage"]) for row in listed] == [(2, "active"), (1, "aborted")]
    one = honed(service, "iteration", "2")
    assert "kl/step_token" in one.stdout and "evaluating" in one.stdout
    assert "BEFORE" in honed(service, "report", "2").stdout
    (adapter,) = json.loads(honed(service, "adapters", "--json").stdout)
    assert adapter["version"] == listed[0]["candidate"]
    missing = honed(service, "iteration", "99")
    assert (missing.returncode, missing.stderr.strip()) == (1, "honed: no iteration 99")


def test_votes_are_exported_in_the_form_trl_reads(service: Service, tmp_path: Path) -> None:
    done = honed(service, "export", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out" / "kto.jsonl").read_text().splitlines()]
    assert len(rows) >= 10
    assert {tuple(row) for row in rows} == {("prompt", "completion", "label")}
    assert rows[0]["prompt"][0]["role"] == "user"
    assert [turn["role"] for turn in rows[0]["completion"]] == ["assistant"]
    assert {row["label"] for row in rows} == {True, False}


def test_doctor_finds_a_healthy_service(service: Service) -> None:
    done = honed(service, "doctor", "--json")
    found = {row["name"]: row for row in json.loads(done.stdout)}
    assert found["database"]["ok"] and found["port"]["ok"]
    assert str(service.process.pid) in found["port"]["detail"]


def test_a_destructive_update_is_refused_with_its_reason(service: Service, tiny_model: Path) -> None:
    """Another service on the same state, whose learning rate no model survives."""
    assert service.client is not None
    before = ask(service.client, "still you?")["model"]
    chat_and_vote(service.client, 16, seed=2)
    service.close()
    overrides = {
        "HONED_POLICIES__TRAIN__LEARNING_RATE_CONTINUED": "0.9",
        "HONED_POLICIES__TRAIN__EPOCHS": "6",
        "HONED_DAEMON__GATE__SCALES": "[1.0]",
        # A random model's answers are nearly uniform, so even ruin is a short way off in nats.
        "HONED_DAEMON__GATE__KL_STEP_SOFT": "0.0005",
        "HONED_DAEMON__GATE__KL_STEP_HARD": "0.001",
    }
    with running(service.state, tiny_model, **overrides) as bad:
        client = bad.wait_until_ready()
        assert client is not None, bad.tail()
        done = honed(bad, "train", "--json")
        assert done.returncode == 3, done.stdout + done.stderr
        assert json.loads(done.stdout)["outcome"]["stage"] == "rejected"
        assert "above its limit" in json.loads(done.stdout)["outcome"]["reason"]
        assert ask(client, "still you?")["model"] == before
        rejected = client.get("/v1/adapters")["data"][0]
        assert rejected["status"] == "rejected"
        refused = honed(bad, "promote", rejected["version"])
        assert refused.returncode == 3
        assert "rejected" in refused.stdout


def test_rollback_takes_effect_with_the_next_answer_and_interrupts_nobody(
    service: Service, tiny_model: Path
) -> None:
    with running(service.state, tiny_model) as again:
        client = again.wait_until_ready()
        assert client is not None, again.tail()
        version = ask(client, "who?")["model"]
        assert version != "base"
        with (
            OpenAI(base_url=f"{client.url}/v1", api_key="ann", max_retries=0) as person,
            Chatting(person) as chatting,
        ):
            wait_until(lambda: len(chatting.models) >= 2)
            done = honed(again, "rollback", "-m", "worse")
            wait_until(lambda: chatting.models[-1] == "base")
        assert done.returncode == 0, done.stdout
        assert chatting.failures == []
        assert ask(client, "who?")["model"] == "base"
        assert client.get("/v1/status")["serving"]["version"] == "base"
        assert honed(again, "rollback").returncode == 3
        assert honed(again, "promote", version).returncode == 0
        assert ask(client, "who?")["model"] == version


def test_a_schedule_starts_an_iteration_by_itself(tiny_model: Path, tmp_path: Path) -> None:
    schedule = {"HONED_DAEMON__SCHEDULE__ENABLED": "true", "HONED_DAEMON__SCHEDULE__MIN_FEEDBACK": "8"}
    with running(tmp_path / "state", tiny_model, **schedule) as scheduled:
        client = scheduled.wait_until_ready()
        assert client is not None, scheduled.tail()
        chat_and_vote(client, 4)
        waiting: Any = wait_until(lambda: client.get("/v1/status")["schedule"])
        assert "of 8 new feedback" in json.dumps(waiting)
        chat_and_vote(client, 8, seed=5)
        ended = wait_until(lambda: finished_iteration(client, 1))
        assert ended["trigger"] == "feedback"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["iteration", "zero"], "ID"),
        (["frobnicate"], "frobnicate"),
        (["serve", "--port", "99999"], "65535"),
        (["serve", "--host", "0.0.0.0"], "keys_file"),
        (["--config", "x"], "config"),
        (["status", "--config", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_usage_mistakes_exit_2_and_name_what_is_wrong(
    arguments: list[str], word: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "daemon", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert word in done.stderr


def test_a_command_without_a_service_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "daemon", "train"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "honed serve" in done.stderr
