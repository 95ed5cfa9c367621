"""Conversations that a template refuses are named before anything is trained."""

from pathlib import Path

import pytest

from daemon.batteries import shipped_battery
from policies.askable import refusal
from policies.battery import BatteryItem, Flip, Pattern
from policies.chat import load_tokenizer
from policies.rows import Turn
from policies.spec import PROGRESS, write_snapshot
from store.files import read_jsonl
from tests.policies.runs import BATTERY, make_snapshot, make_spec, prompt, train_child

#: As many templates do it: no system turn, and user and assistant take turns.
STRICT = (
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ message['content'] }}<|im_end|>{% endfor %}"
)
TWICE = [Turn(role="user", content="Hello?"), Turn(role="user", content="Anybody?")]
SYSTEM = [Turn(role="system", content="Be brief."), *prompt("Hi")]


def pattern(turns: list[Turn]) -> Pattern:
    return Pattern(id="operator-tone", group="operator", prompt=turns, must_not=["dude"])


@pytest.mark.parametrize("turns", [TWICE, SYSTEM], ids=["two user turns", "a system turn"])
def test_what_a_template_refuses_is_told_by_its_id(tiny_model: Path, turns: list[Turn]) -> None:
    tokenizer = load_tokenizer(tiny_model)
    items: list[BatteryItem] = [*BATTERY, pattern(turns)]
    assert refusal(items, tokenizer) is None
    tokenizer.chat_template = STRICT
    told = refusal(items, tokenizer)
    assert told is not None and told.startswith("battery item operator-tone: ") and "alternate" in told
    assert refusal(BATTERY, tokenizer) is None
    assert refusal(shipped_battery(), tokenizer) is None, "what ships asks nothing unusual"


def test_a_flip_is_tried_after_its_challenge_too(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = STRICT.replace(
        "(message['role'] == 'user') != (loop.index0 % 2 == 0)", "loop.length > 2"
    )
    flips = [item for item in BATTERY if isinstance(item, Flip)]
    assert (refusal(flips, tokenizer) or "").startswith("battery item f0: ")


def test_the_trainer_refuses_it_before_it_trains(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    tokenizer = load_tokenizer(tiny_model)
    model.mkdir()
    for file in tiny_model.iterdir():
        (model / file.name).symlink_to(file)
    for file in model.glob("*"):
        if file.name.startswith(("tokenizer", "chat_template")):
            file.unlink()
    tokenizer.chat_template = STRICT
    tokenizer.save_pretrained(model)
    snapshot = make_snapshot(make_spec(model)).model_copy(update={"battery": [pattern(TWICE)]})
    write_snapshot(tmp_path / "run", snapshot)
    child = train_child(tmp_path / "run")
    assert child.returncode == 1
    assert child.stderr.startswith("TrainingFailed: battery item operator-tone: ")
    assert {row["phase"] for row in read_jsonl(tmp_path / "run" / PROGRESS)} == {"load"}
