"""Open WebUI's feedback export, as its admin panel writes it: one array, a whole chat beside every rating."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from api.privacy import Privacy
from daemon.importing import import_files
from daemon.openwebui import is_openwebui, rating
from daemon.rows import BadRow
from daemon.state_files import DATABASE
from store.config import PrivacyConfig
from store.db import Store
from store.errors import Invalid
from store.records import Message

PRIVACY = Privacy.of(PrivacyConfig())
USER = "7c5ff4f1-6d7f-4b5a-9a61-0d3f3f6f1f11"
Q1, A1, A1B, Q2, A2 = (f"{number}f0c1d2e-0000-4000-8000-00000000000{number}" for number in range(1, 6))


def message(
    id: str, parent: str | None, role: str, content: str, *children: str, **more: Any
) -> dict[str, Any]:
    return {"id": id, "parentId": parent, "childrenIds": list(children), "role": role, "content": content,
            "timestamp": 1_742_812_345, **more}  # fmt: skip


def exported() -> list[dict[str, Any]]:
    """Two answers to one question side by side, and a second turn after the second of them; newest rating first."""
    said = {"model": "honed", "modelName": "honed", "modelIdx": 0, "done": True}
    thought = '<details type="reasoning" done="true" duration="2">\n<summary>Thought</summary>\n&gt; Hm\n</details>\n'
    messages = {
        one["id"]: one
        for one in (
            message(Q1, None, "user", "Wie heißt der längste Fluss?", A1, A1B, models=["honed"]),
            message(A1, Q1, "assistant", "Der Rhein.", **said),
            message(A1B, Q1, "assistant", f"{thought}Der Nil. \U0001f30d", Q2, **said),
            message(Q2, A1B, "user", "And in Europe?", A2, models=["honed"]),
            message(A2, Q2, "assistant", "The Volga.", **said),
        )
    }
    chat = {
        "id": "f0000000-0000-4000-8000-000000000001",
        "user_id": USER,
        "title": "Rivers",
        "chat": {
            "id": "",
            "title": "Rivers",
            "models": ["honed"],
            "params": {"system": "Answer in one sentence.", "temperature": 0.7},
            "history": {"messages": messages, "currentId": A2},
            "messages": [messages[Q1], messages[A1B], messages[Q2], messages[A2]],
            "tags": [],
            "timestamp": 1_742_812_300_000,
            "files": [],
        },
        "updated_at": 1_742_812_400,
        "created_at": 1_742_812_300,
        "share_id": None,
        "archived": False,
        "meta": {},
        "folder_id": None,
    }

    def row(number: int, message_id: str, **data: Any) -> dict[str, Any]:
        return {
            "id": f"a0000000-0000-4000-8000-00000000000{number}",
            "user_id": USER,
            "version": 0,
            "type": "rating",
            "data": {"rating": 1, "model_id": "honed", "sibling_model_ids": None, "reason": None, "comment": None,
                     "tags": [], "details": {"rating": None}, **data},
            "meta": {"arena": False, "model_id": "honed", "message_id": message_id, "message_index": 2,
                     "chat_id": chat["id"], "base_models": {"honed": None}},
            "snapshot": {"chat": copy.deepcopy(chat)},
            "created_at": 1_742_812_345 + number,
            "updated_at": 1_742_812_345 + number,
            "user": {"name": "Ann", "profile_image_url": "/user.png"},
        }  # fmt: skip

    return [
        row(3, A2, rating="1", sibling_model_ids=[], reason="accurate_information", comment="", tags=["geo", "eu"],
            details={"rating": 9}),
        row(2, A1B, rating=1),
        row(1, A1, rating=-1, reason="not_factually_correct", comment="That is in Europe."),
    ]  # fmt: skip


def file_of(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def test_ratings_become_thumbs_on_the_branch_that_was_rated_oldest_first(tmp_path: Path) -> None:
    file = file_of(tmp_path / "feedback-history-export-1742812399.json", exported())
    row = import_files(tmp_path / "state", file, PRIVACY, skip_bad=False, at=5.0)
    assert row == {"rows": 3, "added": 3, "known": 0, "excluded": 0, "bad": []}
    with Store.read_only(tmp_path / "state" / DATABASE) as store:
        rhine, nile, volga = store.feedback.live()
    asked = (Message("system", "Answer in one sentence."), Message("user", "Wie heißt der längste Fluss?"))
    assert rhine.completion.messages == nile.completion.messages == asked
    assert rhine.completion.choices[0].text == "Der Rhein."
    assert nile.completion.choices[0].text == "Der Nil. \U0001f30d", (
        "what the model thought aside is not its answer"
    )
    assert volga.completion.messages == (
        *asked, Message("assistant", "Der Nil. \U0001f30d"), Message("user", "And in Europe?")
    )  # fmt: skip
    assert [item.feedback.value for item in (rhine, nile, volga)] == [False, True, True]
    assert {item.feedback.principal for item in (rhine, nile, volga)} == {f"owui:{USER}"}, (
        "as when they chat here"
    )
    assert (rhine.feedback.reason, rhine.feedback.comment) == ("not_factually_correct", "That is in Europe.")
    assert (volga.feedback.reason, volga.feedback.comment) == ("accurate_information", "")
    assert volga.feedback.metadata == {
        "model": "honed", "stars_of_ten": 9, "tags": "geo, eu", "said_at": 1_742_812_348
    }  # fmt: skip


def test_a_rating_that_was_changed_replaces_the_one_imported_before(tmp_path: Path) -> None:
    state = tmp_path / "state"
    rows = exported()
    import_files(state, file_of(tmp_path / "then.json", rows), PRIVACY, skip_bad=False, at=5.0)
    rows[2]["data"]["rating"] = 1
    again = import_files(state, file_of(tmp_path / "now.json", rows), PRIVACY, skip_bad=False, at=6.0)
    assert (again["added"], again["known"]) == (1, 2)
    with Store.read_only(state / DATABASE) as store:
        live = store.feedback.live()
        assert [item.feedback.value for item in live] == [True, True, True]
        assert live[-1].feedback.supersedes is not None and store.feedback.count() == 4


def without(row: dict[str, Any], *path: str) -> dict[str, Any]:
    at = row
    for name in path[:-1]:
        at = at[name]
    del at[path[-1]]
    return row


def with_(row: dict[str, Any], value: Any, *path: str) -> dict[str, Any]:
    at = row
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    return row


HISTORY = ("snapshot", "chat", "chat", "history", "messages")


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        (("data", "rating"), 0, "data.rating: 0 is neither 1 nor -1"),
        (("data", "rating"), None, "data.rating: null is neither"),
        (("data", "rating"), True, "data.rating: true is neither"),
        (("data",), None, "data: null is not an object"),
        (("data", "comment"), 3, "data.comment: 3 is not text"),
        (("user_id",), " ", "user_id: empty"),
        (("updated_at",), "today", 'updated_at: "today" is not a time'),
        (("meta", "message_id"), "gone", 'history.messages["gone"]: missing'),
        (("meta", "message_id"), Q2, "meta.message_id: names a message of the user's"),
        (("snapshot",), None, "snapshot: missing"),
        (("snapshot", "chat"), [], "snapshot.chat: [] is not an object"),
        ((*HISTORY, Q2, "parentId"), A2, "parentId: goes round in a circle"),
        ((*HISTORY, Q2, "parentId"), "gone", 'history.messages["gone"]: missing'),
        ((*HISTORY, Q2, "files"), [{"type": "image"}], "files: the message came with files"),
        ((*HISTORY, Q2, "role"), "tool", 'role: "tool" is not one of'),
        ((*HISTORY, A2, "content"), [], "content: [] is not text"),
        ((*HISTORY, A2, "content"), "", "content: an empty answer"),
        ((*HISTORY, A2, "parentId"), None, "names an answer to nothing"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_field(path: tuple[str, ...], value: Any, why: str) -> None:
    row = with_(exported()[0], value, *path)
    assert is_openwebui(row)
    with pytest.raises(BadRow) as raised:
        rating(row)
    assert why in str(raised.value)


@pytest.mark.parametrize("path", [("user_id",), ("data", "rating"), ("meta", "message_id"), HISTORY[:-1]])
def test_what_is_missing_is_said_to_be(path: tuple[str, ...]) -> None:
    row = without(exported()[0], *path)
    if path == HISTORY[:-1]:
        del row["snapshot"]["chat"]["chat"]["messages"]
    with pytest.raises(BadRow, match=rf"{path[-1]}.*: missing"):
        rating(row)


def test_a_chat_of_the_older_kind_is_a_list() -> None:
    row = without(exported()[0], "snapshot", "chat", "chat", "history")
    assert [turn.role for turn in rating(row).prompt] == ["system", "user", "assistant", "user"]


def test_a_bad_rating_is_named_by_file_line_and_row(tmp_path: Path) -> None:
    rows = exported()
    rows[1]["data"]["rating"] = 7
    file = file_of(tmp_path / "export.json", rows)
    with pytest.raises(Invalid) as raised:
        import_files(tmp_path / "state", file, PRIVACY, skip_bad=False, at=5.0)
    assert f"{file}, line 1 (row 2): data.rating: 7 is neither" in str(raised.value)
