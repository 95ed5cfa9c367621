"""The judge's texts: those that ship, the operator's, and what is said of files that will not do."""

from pathlib import Path

import pytest

from judge.texts import digest, parse_principles, read_texts
from store.errors import ConfigError

RUBRIC = "Mark it.\n\n1. One.\n2. Two.\n3. Three.\n4. Four.\n5. Five.\n"


def test_the_shipped_texts_read() -> None:
    texts = read_texts()
    assert len(texts.principles) == 12
    assert [rubric.name for rubric in texts.rubrics] == ["checklist", "points", "steps"]
    assert set(texts.digests()) == {"constitution", "rubrics/checklist", "rubrics/points", "rubrics/steps"}
    assert all(len(value) == 12 for value in texts.digests().values())


def test_the_operators_texts_take_their_place(tmp_path: Path) -> None:
    constitution = tmp_path / "mine.md"
    constitution.write_text(
        "# Mine\n\n- **brief**: The answer\n  is short.\n- kind: It is kind.\n\nThat is all.\n"
    )
    (tmp_path / "rubrics").mkdir()
    (tmp_path / "rubrics" / "strict.md").write_text(RUBRIC)
    texts = read_texts(constitution, tmp_path / "rubrics")
    assert [(p.id, p.text) for p in texts.principles] == [
        ("brief", "The answer is short."),
        ("kind", "It is kind."),
    ]
    assert [rubric.name for rubric in texts.rubrics] == ["strict"]


def test_one_changed_letter_changes_the_digest() -> None:
    assert digest("a", "bc") != digest("ab", "c")
    assert digest("a") != digest("b")
    assert digest("a") == digest("a")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "empty"),
        ("# Only a heading", "no principle"),
        ("- No id here", "not of the form"),
        ("- **One Two**: An id has no blanks.", "not of the form"),
        ("- **a**: One.\n- **a**: Two.", "two principles"),
        ("- **a**:", "says nothing"),
        ("- **a**: " + "x" * 60_000, "characters"),
    ],
)
def test_a_constitution_that_will_not_do_is_refused_by_name(
    tmp_path: Path, content: str, complaint: str
) -> None:
    file = tmp_path / "constitution.md"
    file.write_text(content)
    with pytest.raises(ConfigError, match=complaint) as error:
        read_texts(file)
    assert error.value.param == "judge.constitution"
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "empty"),
        ("Mark it from 0 to 5.", "criteria"),
        (RUBRIC.replace("5. Five.", ""), "criteria"),
        (RUBRIC + "6. Six.\n", "criteria"),
        (RUBRIC + "x" * 7000, "characters"),
    ],
)
def test_a_rubric_that_will_not_do_is_refused_by_name(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "one.md").write_text(content)
    with pytest.raises(ConfigError, match=complaint) as error:
        read_texts(None, tmp_path)
    assert error.value.param == "judge.rubrics"


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"judge\.constitution: .*absent"):
        read_texts(tmp_path / "absent.md")
    with pytest.raises(ConfigError, match="not a folder"):
        read_texts(None, tmp_path / "absent")
    with pytest.raises(ConfigError, match=r"no \*\.md"):
        read_texts(None, tmp_path)


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.md").write_bytes(b"- **a**: \xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_texts(tmp_path / "c.md")


def test_starred_lists_and_bold_colons_are_principles_too() -> None:
    (one, two) = parse_principles("* **a:** First.\n* b: Second.")
    assert (one.id, one.text, two.id, two.text) == ("a", "First.", "b", "Second.")
