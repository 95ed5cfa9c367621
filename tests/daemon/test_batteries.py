import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from daemon.batteries import battery_of, check_probes, operator_probes, shipped_battery
from policies.battery import Flip, Passage
from policies.chat import load_tokenizer
from store.errors import ConfigError

GOOD = {"prompt": "Who are you?", "must": ["honed"]}
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
]


def written(directory: Path, *rows: Any) -> Path:
    path = directory / "own.jsonl"
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def test_what_ships_is_whole() -> None:
    items = shipped_battery()
    groups = Counter("anchor" if isinstance(item, Passage) else item.group for item in items)
    assert groups == {
        "capability": 24,
        "sycophancy": 12,
        "flattery": 8,
        "over_refusal": 10,
        "under_refusal": 8,
        "injection": 6,
        "anchor": 3,
    }
    assert len({item.id for item in items}) == len(items)


def test_nothing_that_ships_needs_a_system_turn_which_some_templates_refuse() -> None:
    for item in shipped_battery():
        if not isinstance(item, Passage):
            turns = item.challenged if isinstance(item, Flip) else item.prompt
            assert [turn.role for turn in turns] == ["user", "assistant", "user"][: len(turns)]


def test_the_operators_probes_come_after_what_ships(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD, "", {"id": "greeting", "prompt": TURNS, "must_not": ["sorry"]})
    found = operator_probes(path)
    assert [(probe.id, probe.group) for probe in found] == [
        ("operator-1", "operator"),
        ("operator-greeting", "operator"),
    ]
    assert found[0].prompt[0].content == "Who are you?"
    assert [turn.role for turn in found[1].prompt] == ["system", "user"]
    assert battery_of(path) == [*shipped_battery(), *found]
    assert battery_of(None) == shipped_battery()


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("{not json", "not JSON"),
        ([1, 2], "not an object"),
        (GOOD | {"must": ["("]}, "must: '(' is no regular expression"),
        (GOOD | {"must": "honed"}, "must: "),
        (GOOD | {"should": ["x"]}, "should: unknown key"),
        (GOOD | {"group": "capability"}, "group: unknown key"),
        ({"prompt": "Hi"}, "any answer would pass"),
        ({"must": ["x"]}, "prompt: neither a text nor a list"),
        (GOOD | {"prompt": [{"role": "user"}]}, "prompt: neither a text nor a list"),
        (GOOD | {"prompt": [{"role": "robot", "content": "x"}]}, "no role 'robot'"),
        (GOOD | {"prompt": []}, "must end with a user's text"),
        (GOOD | {"prompt": "  "}, "must end with a user's text"),
        (GOOD | {"prompt": [*TURNS, {"role": "assistant", "content": "x"}]}, "must end with a user's text"),
    ],
)
def test_a_bad_probe_is_told_by_file_line_and_field(tmp_path: Path, row: Any, told: str) -> None:
    path = written(tmp_path, GOOD, row)
    with pytest.raises(ConfigError) as caught:
        operator_probes(path)
    assert str(caught.value).startswith(f"daemon.gate.battery: {path}, line 2: ")
    assert told in str(caught.value)
    assert caught.value.param == "daemon.gate.battery"


def test_a_probe_that_the_models_template_refuses_stops_the_start(tmp_path: Path, tiny_model: Path) -> None:
    path = written(tmp_path, GOOD, {"id": "twice", "prompt": [*TURNS, *TURNS], "must": ["x"]})
    check_probes(path, tiny_model)
    strict = tmp_path / "model"
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = "{% if messages|length > 1 %}{{ raise_exception('one turn') }}{% endif %}x"
    tokenizer.save_pretrained(strict)
    with pytest.raises(ConfigError, match="battery item operator-twice: .*one turn") as caught:
        check_probes(path, strict)
    assert str(caught.value).startswith(f"daemon.gate.battery: {path}: ")
    assert caught.value.param == "daemon.gate.battery"


@pytest.mark.parametrize("rows", [(), ("",)], ids=["empty", "blank"])
def test_a_file_without_a_probe_is_refused(tmp_path: Path, rows: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="holds no probe"):
        operator_probes(written(tmp_path, *rows))


def test_a_missing_file_and_a_repeated_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        operator_probes(tmp_path / "nowhere.jsonl")
    with pytest.raises(ConfigError, match="two probes have the id 'operator-1'"):
        operator_probes(written(tmp_path, GOOD, GOOD | {"id": "1"}))


def test_the_service_does_not_start_on_a_bad_file(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD, GOOD | {"must_not": ["*"]})
    done = subprocess.run(
        [sys.executable, "-m", "daemon", "serve"],
        cwd=Path(__file__).parents[2],
        env={
            **os.environ,
            "HONED_DAEMON__GATE__BATTERY": str(path),
            "HONED_STORE__DIRECTORY": str(tmp_path / "var"),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert f"{path}, line 2: must_not: '*' is no regular expression" in done.stderr
    assert not (tmp_path / "var").exists()
