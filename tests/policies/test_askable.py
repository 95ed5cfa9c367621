"""Conversations that a template refuses are named before anything is trained."""

from pathlib import Path

import pytest

from daemon.batteries import shipped_battery
from policies.askable import answerable, refusal
from policies.battery import BatteryItem, Flip, Pattern
from policies.chat import load_tokenizer
from policies.rows import Turn
from policies.spec import PROGRESS, read_report, write_snapshot
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


def strict_model(tiny_model: Path, model: Path) -> Path:
    """The tiny model with a template that refuses much."""
    tokenizer = load_tokenizer(tiny_model)
    model.mkdir()
    for file in tiny_model.iterdir():
        (model / file.name).symlink_to(file)
    for file in model.glob("*"):
        if file.name.startswith(("tokenizer", "chat_template")):
            file.unlink()
    tokenizer.chat_template = STRICT
    tokenizer.save_pretrained(model)
    return model


def test_the_trainer_refuses_it_before_it_trains(tiny_model: Path, tmp_path: Path) -> None:
    model = strict_model(tiny_model, tmp_path / "model")
    snapshot = make_snapshot(make_spec(model)).model_copy(update={"battery": [pattern(TWICE)]})
    write_snapshot(tmp_path / "run", snapshot)
    child = train_child(tmp_path / "run")
    assert child.returncode == 1
    assert child.stderr.startswith("TrainingFailed: battery item operator-tone: ")
    assert {row["phase"] for row in read_jsonl(tmp_path / "run" / PROGRESS)} == {"load"}


def test_examples_that_the_template_refuses_are_left_out_and_the_others_train(
    tiny_model: Path, tmp_path: Path
) -> None:
    model = strict_model(tiny_model, tmp_path / "model")
    snapshot = make_snapshot(make_spec(model))
    foreign = [snapshot.examples[0].model_copy(update={"id": "foreign", "prompt": SYSTEM})]
    heldout = [snapshot.heldout[0].model_copy(update={"id": "aside", "prompt": TWICE})]
    mixed = snapshot.model_copy(
        update={"examples": foreign + snapshot.examples, "heldout": heldout + snapshot.heldout}
    )
    assert answerable(mixed, load_tokenizer(model)) == (snapshot, 2)
    write_snapshot(tmp_path / "run", mixed)
    child = train_child(tmp_path / "run")
    assert child.returncode == 0, child.stderr
    assert read_report(tmp_path / "run").metrics["train/refused"] == 2.0
