"""The battery of an iteration: what ships with honed, and the operator's own probes beside it."""

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from policies.battery import BatteryItem, Pattern, first_repeated
from policies.rows import Turn
from store.errors import ConfigError, HonedError
from store.files import read_jsonl
from store.reading import read_bytes
from store.records import Role

KEY = "daemon.gate.battery"
_ITEMS: TypeAdapter[list[BatteryItem]] = TypeAdapter(list[BatteryItem])


def battery_of(path: Path | None) -> list[BatteryItem]:
    """Everything a candidate is examined on. `path`: the operator's probes, None without.

    Raises:
        ConfigError: the operator's file cannot be read; names file, line and field.
    """
    return [*shipped_battery(), *(operator_probes(path) if path is not None else [])]


def shipped_battery() -> list[BatteryItem]:
    """The items in judge/battery.jsonl."""
    with resources.as_file(resources.files("judge").joinpath("battery.jsonl")) as path:
        return _ITEMS.validate_python(read_jsonl(path))


def operator_probes(path: Path) -> list[Pattern]:
    """Rows `{"prompt", "must", "must_not"}`, one JSON object a line; the prompt is a text or a list of turns.

    Raises:
        ConfigError: as above.
    """
    try:
        text = read_bytes(path).decode()
    except (HonedError, UnicodeDecodeError) as error:
        raise ConfigError(f"{KEY}: {path} cannot be read as UTF-8 text ({error})", param=KEY) from error
    lines = list(enumerate(text.split("\n"), start=1))
    found = [_probe(line, f"{path}, line {number}", number) for number, line in lines if line.strip()]
    if not found:
        raise ConfigError(f"{KEY}: {path} holds no probe", param=KEY)
    repeated = first_repeated([probe.id for probe in found])
    if repeated is not None:
        raise ConfigError(f"{KEY}: {path}: two probes have the id {repeated!r}", param=KEY)
    return found


def check_probes(path: Path, model: Path) -> None:
    """Try the operator's probes on the chat template of the base model.

    Args:
        model: the base model's directory.

    Raises:
        ConfigError: it takes no such conversation; names the probe.
    """
    from policies.askable import refusal  # brings transformers, which the command line does without
    from policies.chat import load_tokenizer

    refused = refusal(operator_probes(path), load_tokenizer(model))
    if refused is not None:
        raise ConfigError(f"{KEY}: {path}: {refused}", param=KEY)


def _probe(line: str, source: str, number: int) -> Pattern:
    """One line as an item of the group `operator`, called by its line where it has no id of its own."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{KEY}: {source}: not JSON ({error})", param=KEY) from error
    if not isinstance(row, dict):
        raise ConfigError(f"{KEY}: {source}: not an object with prompt, must and must_not", param=KEY)
    unknown = sorted(row.keys() - {"id", "prompt", "must", "must_not"})
    if unknown:
        allowed = "id, prompt, must and must_not are allowed"
        raise ConfigError(f"{KEY}: {source}: {unknown[0]}: unknown key; {allowed}", param=KEY)
    try:
        return Pattern.model_validate(
            {
                **row,
                "id": f"operator-{row.get('id', number)}",
                "group": "operator",
                "prompt": _turns(row, source),
            }
        )
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"]) or "probe"
        raise ConfigError(
            f"{KEY}: {source}: {field}: {problem['msg'].removeprefix('Value error, ')}", param=KEY
        ) from error


def _turns(row: Mapping[str, Any], source: str) -> list[Turn]:
    """The prompt, which ends with what the user says."""
    prompt = row.get("prompt")
    try:
        turns = (
            [Turn(role=Role.USER, content=prompt)]
            if isinstance(prompt, str)
            else TypeAdapter(list[Turn]).validate_python(prompt)
        )
    except ValidationError as error:
        raise ConfigError(
            f"{KEY}: {source}: prompt: neither a text nor a list of turns with role and content", param=KEY
        ) from error
    wrong = [turn.role for turn in turns if turn.role not in list(Role)]
    if wrong:
        raise ConfigError(f"{KEY}: {source}: prompt: there is no role {wrong[0]!r}", param=KEY)
    if not turns or turns[-1].role != Role.USER or not turns[-1].content.strip():
        raise ConfigError(f"{KEY}: {source}: prompt: it must end with a user's text", param=KEY)
    return turns
