"""Feedback from files: what is taken, what is refused by name, and that export and import undo each other."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.privacy import Privacy
from daemon.export import KTO, PREFERENCES, export
from daemon.importing import import_files
from daemon.state_files import DATABASE, LOCK
from judge.config import FeedbackConfig
from judge.pairs import split_of
from store.config import PrivacyConfig
from store.db import StateLock, Store
from store.errors import AlreadyRunning, Invalid
from store.records import Choice, Feedback, FeedbackKind, Message, Source, Split
from store.scrubbing import Person
from tests.store.conftest import completion, event

HELLO = [{"role": "user", "content": "Hello"}]
GOOD = {"prompt": HELLO, "completion": [{"role": "assistant", "content": "Hi."}], "label": True}
PAIR = {
    "prompt": HELLO,
    "chosen": [{"role": "assistant", "content": "Hi."}],
    "rejected": [{"role": "assistant", "content": "Go away."}],
}
LONG_TALK = (
    Message("system", "Be brief.\u2028Be kind."),
    Message("user", "Grüezi \U0001f600\u0000?"),
    Message("assistant", " Ja.\r\n"),
    Message("developer", ""),
    Message("user", '漢字, "quotes" and \\ and\ttabs'),
)


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def brought_in(state: Path, path: Path, **options: Any) -> dict[str, Any]:
    privacy = Privacy.of(options.pop("privacy", PrivacyConfig()))
    return import_files(state, path, privacy, **{"skip_bad": False, "at": 5.0, **options})


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def opened(state: Path) -> Store:
    return Store.read_only(state / DATABASE)


def exported(store: Store, directory: Path) -> dict[str, bytes]:
    export(store, FeedbackConfig(), directory)
    return {name: (directory / name).read_bytes() for name in (KTO, PREFERENCES)}


def talked(store: Store) -> None:
    """Votes, stars, an edit, comparisons within and across answers, a comment, and the same words twice."""
    store.completions.begin(completion("c1", messages=LONG_TALK))
    store.completions.begin(completion("c2", messages=LONG_TALK, choices=(Choice(0, "Other.", "stop", 2),)))
    for name in ("c3", "c4", "c5"):
        store.completions.begin(completion(name, choices=(Choice(0, " the same words\n", "stop", 2),)))
    for one in (
        event("f1", value=False, comment=""),
        event("f2", choice_index=1, kind=FeedbackKind.RATING, value=5, comment="nice", reason=""),
        event("f3", "c3"),
        event("f4", kind=FeedbackKind.EDIT, value="Guten Tag.\u2028"),
        event("f5", "c4"),
        event("f6", "c2", "c1", kind=FeedbackKind.PREFERENCE),
        event("f7", choice_index=1, kind=FeedbackKind.PREFERENCE, value=0, principal="bob"),
        event("f8", "c5", False),
        event("f9", "c5", "only kept", kind=FeedbackKind.COMMENT),
        event("f10", "c2", kind=FeedbackKind.CLICK, value="copy"),
    ):
        store.feedback.add(one)


def test_export_import_export_gives_the_same_bytes(store: Store, state: Path, tmp_path: Path) -> None:
    talked(store)
    first = exported(store, tmp_path / "first")
    assert [len(content.splitlines()) for content in first.values()] == [5, 3]
    assert brought_in(state, tmp_path / "first") == {
        "rows": 8,
        "added": 8,
        "known": 0,
        "excluded": 0,
        "bad": [],
    }
    with opened(state) as again:
        assert exported(again, tmp_path / "second") == first


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
TALKS = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant", "developer"]), WORDS),
    min_size=1,
    max_size=4,
).map(tuple)


@given(
    st.lists(st.tuples(TALKS, st.sampled_from(["a", "b", "", " "]) | WORDS, st.booleans()), max_size=8),
    st.lists(st.tuples(TALKS, WORDS, WORDS), max_size=6),
)
@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_whatever_people_said_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    votes: list[tuple[tuple[Message, ...], str, bool]],
    edits: list[tuple[tuple[Message, ...], str, str]],
) -> None:
    folder = tmp_path_factory.mktemp("trip")
    with Store.memory() as store:
        for number, (talk, answer, label) in enumerate(votes):
            store.completions.begin(
                completion(f"v{number}", messages=talk, choices=(Choice(0, answer, "stop"),))
            )
            store.feedback.add(event(f"v{number}", f"v{number}", label))
        for number, (talk, answer, better) in enumerate(edits):
            store.completions.begin(
                completion(f"e{number}", messages=talk, choices=(Choice(0, answer, "stop"),))
            )
            store.feedback.add(event(f"e{number}", f"e{number}", better, kind=FeedbackKind.EDIT))
        first = exported(store, folder / "first")
    if not any(first.values()):
        return
    brought_in(folder / "state", folder / "first")
    with opened(folder / "state") as again:
        assert exported(again, folder / "second") == first


def test_importing_again_adds_nothing_and_later_rows_only_themselves(state: Path, tmp_path: Path) -> None:
    """Equal rows are answers of their own: two people may like the same words."""
    file = written(tmp_path / "rows.jsonl", GOOD, PAIR, GOOD)
    assert brought_in(state, file)["added"] == 3
    assert brought_in(state, file, at=9.0) == {"rows": 3, "added": 0, "known": 3, "excluded": 0, "bad": []}
    more = written(tmp_path / "more.jsonl", GOOD, PAIR, GOOD, {**GOOD, "label": False})
    assert brought_in(state, more)["added"] == 1
    with opened(state) as store:
        assert store.feedback.count() == 4
        assert [entry.details["added"] for entry in store.audit.list(limit=9)] == [1, 0, 3]


def test_imported_feedback_is_live_under_its_source_and_somebodys_name(state: Path, tmp_path: Path) -> None:
    brought_in(state, written(tmp_path / "rows.jsonl", GOOD, {**PAIR, "principal": "bob", "score": 3}))
    with opened(state) as store:
        vote, comparison = store.feedback.live()
        assert store.feedback.unused() == [vote, comparison]
        assert (vote.completion.source, vote.feedback.principal) == (Source.IMPORT, "import")
        assert (comparison.feedback.principal, comparison.completion.principal) == ("bob", "bob")
        assert (vote.feedback.value, vote.feedback.created_at) == (True, 5.0)
        assert store.completions.of_base(limit=9) == [], "what no model here said is no anchor"
        assert store.completions.count() == 0, "nobody asked for it here"


def test_what_is_not_kept_of_live_requests_is_not_kept_of_files(state: Path, tmp_path: Path) -> None:
    secret = {**GOOD, "prompt": [{"role": "user", "content": "I am ann@example.org"}]}
    rows = written(tmp_path / "rows.jsonl", secret, {**GOOD, "principal": "bob"})
    privacy = PrivacyConfig(excluded=("bob",))
    row = brought_in(state, rows, privacy=privacy)
    assert (row["rows"], row["added"], row["excluded"]) == (2, 1, 1)
    assert brought_in(state, rows, privacy=privacy)["known"] == 1
    with opened(state) as store:
        (item,) = store.feedback.live()
    assert "ann@example.org" not in item.completion.messages[0].content
    assert b"ann@example.org" not in b"".join(file.read_bytes() for file in state.iterdir())


def test_a_file_read_again_does_not_bring_back_who_was_forgotten(state: Path, tmp_path: Path) -> None:
    rows = written(tmp_path / "rows.jsonl", {**PAIR, "principal": "bob"}, GOOD)
    assert brought_in(state, rows)["added"] == 2
    bob = Person("bob", "forgotten:1")
    with Store.open(state / DATABASE) as store:
        store.forgetting.scrub(store.forgetting.of(bob), (), person=bob)
    assert brought_in(state, rows)["added"] == 0
    with opened(state) as store:
        assert not store.forgetting.of(Person("bob", ""))
        assert {item.feedback.principal for item in store.feedback.live()} == {"import"}


def test_some_imported_answers_only_ever_test(state: Path, tmp_path: Path) -> None:
    rows = [
        {**GOOD, "completion": [{"role": "assistant", "content": f"Hi {number}."}]} for number in range(200)
    ]
    brought_in(state, written(tmp_path / "rows.jsonl", *rows))
    with opened(state) as store:
        aside = [split_of(item.completion.id, 0.15) is Split.NEVER_TRAIN for item in store.feedback.live()]
    assert 10 <= sum(aside) <= 50


def bad_rows() -> Iterator[tuple[str, Any]]:
    turn = {"role": "assistant", "content": "Hi."}
    yield "label: 1 is neither true nor false", {**GOOD, "label": 1}
    yield "label: missing", {"prompt": HELLO, "completion": [turn]}
    yield "prompt: missing", {"completion": [turn], "label": True}
    yield "prompt: a text; a list of turns", {**GOOD, "prompt": "Hello"}
    yield "prompt: [] is not a list of turns", {**GOOD, "prompt": []}
    yield "prompt[0]: 3 is not an object", {**GOOD, "prompt": [3]}
    yield 'prompt[0].role: "tool" is not one of', {**GOOD, "prompt": [{"role": "tool", "content": "x"}]}
    yield "prompt[0].content: missing", {**GOOD, "prompt": [{"role": "user"}]}
    yield "prompt[0].content: null is not text", {**GOOD, "prompt": [{"role": "user", "content": None}]}
    yield "completion: turns of user; an answer is one turn", {**GOOD, "completion": HELLO}
    yield "completion: turns of assistant, assistant;", {**GOOD, "completion": [turn, turn]}
    yield "completion[0].content: an empty answer", {**GOOD, "completion": [{**turn, "content": " \n"}]}
    yield "rejected: missing", {"prompt": HELLO, "chosen": [turn]}
    yield "rejected: the same text as chosen", {**PAIR, "rejected": PAIR["chosen"]}
    yield "principal: empty", {**GOOD, "principal": ""}
    yield "principal: 3 is not text", {**GOOD, "principal": 3}
    yield "row: not an object", [3]
    yield "row: has the columns of no form", {"question": "?", "answer": "!"}


@pytest.mark.parametrize(("why", "row"), list(bad_rows()), ids=[why for why, _ in bad_rows()])
def test_a_bad_row_is_named_by_file_line_and_field_and_nothing_is_imported(
    state: Path, tmp_path: Path, why: str, row: Any
) -> None:
    file = written(tmp_path / "rows.jsonl", GOOD, row)
    with pytest.raises(Invalid) as raised:
        brought_in(state, file)
    assert f"{file}, line 2: {why}" in str(raised.value)
    assert "1 of 2 rows cannot be imported, so nothing was" in str(raised.value)
    assert not state.exists()
    assert brought_in(state, file, skip_bad=True)["added"] == 1


@pytest.mark.parametrize(
    ("content", "bad"),
    [
        (b'{"label": true,\n', "line 1: row: not JSON"),
        (b'\n{"label": NaN}', "line 2: row: not JSON: NaN"),
        (b'{}\n"\xff"', "line 2: not UTF-8"),
        (b'{"principal": "\\ud800"}', "line 1: row: has the columns"),
        (b'[\n  {},\n  {"label": tru}\n]', "line 3 (row 2): row: not JSON"),
        (b"[{} {}]", "line 1 (row 1): row: is not followed by a comma"),
        (b"[{}] x", "line 1 (row 1): row: is not followed by a comma"),
        (b"[" * 100_000, "line 1 (row 1): row: not JSON"),
    ],
)
def test_what_is_not_json_is_named_too(state: Path, tmp_path: Path, content: bytes, bad: str) -> None:
    file = tmp_path / "rows.json"
    file.write_bytes(content)
    with pytest.raises(Invalid) as raised:
        brought_in(state, file)
    assert f"{file}, {bad}" in str(raised.value)


def test_an_array_is_read_like_lines(state: Path, tmp_path: Path) -> None:
    lines = written(tmp_path / "rows.jsonl", GOOD, PAIR)
    array = tmp_path / "rows.json"
    array.write_text(json.dumps([GOOD, PAIR], indent=2))
    assert brought_in(state, lines)["added"] == 2
    assert brought_in(state, array)["known"] == 2


@pytest.mark.parametrize("content", ["", "[]", " [ ] ", "\n\n"])
def test_nothing_to_import_is_said(state: Path, tmp_path: Path, content: str) -> None:
    file = tmp_path / "rows.json"
    file.write_text(content)
    with pytest.raises(Invalid, match="no rows to import"):
        brought_in(state, file)
    empty = tmp_path / "folder"
    empty.mkdir()
    with pytest.raises(Invalid, match="holds no file"):
        brought_in(state, empty)
    with pytest.raises(Invalid, match="cannot read"):
        brought_in(state, tmp_path / "nowhere")


def test_a_state_directory_in_use_is_left_alone(state: Path, tmp_path: Path) -> None:
    state.mkdir()
    with StateLock(state / LOCK), pytest.raises(AlreadyRunning, match="stop it"):
        brought_in(state, written(tmp_path / "rows.jsonl", GOOD))


def test_votes_on_an_imported_answer_count_beside_what_its_file_said(state: Path, tmp_path: Path) -> None:
    brought_in(state, written(tmp_path / "rows.jsonl", GOOD))
    with Store.open(state / DATABASE) as store:
        (item,) = store.feedback.live()
        vote = replace(item.feedback, id="mine", principal="key:op", value=False)
        assert isinstance(store.feedback.add(vote), Feedback)
        assert len(store.feedback.live()) == 2
