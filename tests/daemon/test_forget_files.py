"""What of files is taken for the person's, and what is left to others."""

import json
from pathlib import Path
from typing import Any

import pytest

from daemon.forget_files import Traces, erase, tells
from store.db import Store
from store.quotes import Quotes
from store.scrubbing import Holdings

ROW = {"prompt": [{"role": "user", "content": "what do owls eat?"}], "label": True}
HELD = Holdings(
    frozenset({"a1"}), frozenset(), frozenset(), Quotes.of(["user", "1", "yes", "my herons"], ["a1"])
)


@pytest.mark.parametrize(
    ("value", "name", "found"),
    [
        (ROW, "", False),
        (ROW, "user", False),
        (ROW, "1", False),
        ({"principal": "user", "n": 3}, "user", True),
        ({"rows": [{"user": "1"}]}, "1", True),
        ({"seen": ["key:0123456789ab"]}, "key:0123456789ab", True),
        ({"ann@example.org": 3}, "ann@example.org", True),
        ({"answer": "yes"}, "", False),
        ({"content": "yes"}, "", True),
        ({"any": "my herons"}, "", True),
        ({"id": "a1/0"}, "", True),
    ],
)
def test_common_words_and_names_are_nobodys(value: Any, name: str, found: bool) -> None:
    assert tells(json.dumps(value), ".json", Traces(HELD.quotes, name)) is found


@pytest.mark.parametrize(
    ("line", "name", "found"),
    [
        ("user,votes", "user", False),
        ("1,owls", "1", False),
        ("x,key:0123456789ab", "key:0123456789ab", True),
        ("it said: my herons", "", True),
    ],
)
def test_lines_of_text(line: str, name: str, found: bool) -> None:
    assert tells(line, ".csv", Traces(HELD.quotes, name)) is found


def test_others_keep_their_rows_and_half_made_copies_go(store: Store, tmp_path: Path) -> None:
    export = tmp_path / "exports" / "kto.jsonl"
    export.parent.mkdir()
    mine = {**ROW, "completion": [{"role": "assistant", "content": "my herons"}]}
    export.write_text(f"{json.dumps(mine)}\n{json.dumps(ROW)}\n")
    for name in ("honed.db.before-m2", ".honed.db.before-m3.tmp", ".honed.db.before-m3.tmp-journal"):
        (tmp_path / name).write_text("my herons")
    assert erase(store, tmp_path, HELD, (), (), "user") == 4
    assert export.read_text() == f"{json.dumps(ROW)}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["exports"]
