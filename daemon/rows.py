"""Rows of other people's files as what honed remembers: an answer, and what somebody said of it. Pure.

Two of the forms are what `daemon.export` writes; Open WebUI's is read by `daemon.openwebui`. Unknown columns are left
alone, as trainers that read the same files do. Left out: rows whose prompt or answers are plain text (they lack the
roles that a chat template needs), answers of several messages, and comparisons without a `prompt` column.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from store.errors import HonedError
from store.records import (
    Choice,
    Completion,
    CompletionStatus,
    Feedback,
    FeedbackKind,
    Message,
    Role,
    Sampling,
    Source,
)

#: Whose word a row is that names nobody.
PRINCIPAL = "import"
#: What stands in place of an engine's name.
ENGINE = "import"
#: Characters of a name at the most: what the HTTP API takes.
MAX_NAME = 512
ROLES = frozenset(Role)


class BadRow(HonedError):
    """A row that cannot be taken: the field that is to blame, and why."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}")


@dataclass(frozen=True, slots=True)
class Said:
    """One row: the answers to a prompt, and what `principal` said of the first of them.

    `value` as in `Feedback`; for a preference the other answer's place, 1. `identity` tells this answer from every
    other, so that the same row is the same answer whenever it is read. `repeats`: an equal row in one file is another
    answer that somebody got, not this one once more.
    """

    principal: str
    prompt: tuple[Message, ...]
    answers: tuple[str, ...]
    kind: FeedbackKind
    value: bool | int
    identity: tuple[str, ...]
    reason: str | None = None
    comment: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    repeats: bool = True

    @property
    def completion_id(self) -> str:
        turns = [[message.role, message.content] for message in self.prompt]
        return digest([*self.identity, self.principal, turns, list(self.answers)])

    @property
    def feedback_id(self) -> str:
        said = [self.kind.value, self.value, self.reason, self.comment, dict(self.metadata)]
        return digest([self.completion_id, said])


def digest(content: Any) -> str:
    """An id that this content alone has."""
    text = json.dumps(content, ensure_ascii=False, sort_keys=True)
    return f"import-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def answer_of(said: Said, *, at: float) -> Completion:
    """The answer as the log keeps it. Which model gave it is not known: `adapter` says nothing here."""
    choices = tuple(Choice(index, text, "stop") for index, text in enumerate(said.answers))
    return Completion(
        id=said.completion_id,
        created_at=at,
        principal=said.principal,
        source=Source.IMPORT,
        messages=said.prompt,
        sampling=Sampling(),
        adapter=None,
        engine=ENGINE,
        status=CompletionStatus.DONE,
        choices=choices,
        metadata=dict(said.metadata),
    )


def event_of(said: Said, *, at: float) -> Feedback:
    """What was said, as an event about `answer_of`."""
    return Feedback(
        id=said.feedback_id,
        created_at=at,
        completion_id=said.completion_id,
        choice_index=0,
        principal=said.principal,
        kind=said.kind,
        value=said.value,
        reason=said.reason,
        comment=said.comment,
        metadata=dict(said.metadata),
    )


def is_kto(row: Mapping[str, Any]) -> bool:
    return "label" in row or "completion" in row


def is_preference(row: Mapping[str, Any]) -> bool:
    return "chosen" in row or "rejected" in row


def kto(row: Mapping[str, Any]) -> Said:
    """A thumb.

    Raises:
        BadRow: a field is missing, or not what it must be.
    """
    label = required(row, "label")
    if not isinstance(label, bool):
        raise BadRow("label", f"{shown(label)} is neither true nor false")
    # The label is part of what tells answers apart: one text may have been given twice, and liked once.
    identity = ("kto", str(label))
    prompt, answer = conversation(row, "prompt"), single(row, "completion")
    return Said(principal_of(row), prompt, (answer,), FeedbackKind.THUMB, label, identity)


def preference(row: Mapping[str, Any]) -> Said:
    """A comparison.

    Raises:
        BadRow: a field is missing, or not what it must be.
    """
    prompt = conversation(row, "prompt")
    chosen, rejected = single(row, "chosen"), single(row, "rejected")
    if chosen == rejected:
        raise BadRow("rejected", "the same text as chosen")
    return Said(principal_of(row), prompt, (chosen, rejected), FeedbackKind.PREFERENCE, 1, ("preference",))


def required(row: Mapping[str, Any], name: str, *, of: str = "") -> Any:
    if name not in row:
        raise BadRow(f"{of}{name}", "missing")
    return row[name]


def text(value: Any, name: str, *, most: int | None = None) -> str:
    if not isinstance(value, str):
        raise BadRow(name, f"{shown(value)} is not text")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise BadRow(name, "has a lone surrogate, which is not text")
    if most is not None and len(value) > most:
        raise BadRow(name, f"{len(value)} characters; at most {most}")
    return value


def principal_of(row: Mapping[str, Any]) -> str:
    if row.get("principal") is None:
        return PRINCIPAL
    name = text(row["principal"], "principal", most=MAX_NAME)
    if not name.strip():
        raise BadRow("principal", "empty")
    return name


def conversation(row: Mapping[str, Any], name: str) -> tuple[Message, ...]:
    """A list of turns, `{role, content}` each."""
    turns = required(row, name)
    if isinstance(turns, str):
        raise BadRow(name, 'a text; a list of turns {"role", "content"} is needed')
    if not isinstance(turns, list) or not turns:
        raise BadRow(name, f"{shown(turns)} is not a list of turns")
    return tuple(turn(one, f"{name}[{index}]") for index, one in enumerate(turns))


def turn(one: Any, place: str) -> Message:
    if not isinstance(one, dict):
        raise BadRow(place, f"{shown(one)} is not an object with role and content")
    role = required(one, "role", of=f"{place}.")
    if not isinstance(role, str) or role not in ROLES:
        raise BadRow(f"{place}.role", f"{shown(role)} is not one of {', '.join(Role)}")
    return Message(role, text(required(one, "content", of=f"{place}."), f"{place}.content"))


def single(row: Mapping[str, Any], name: str) -> str:
    """The text of one answer: a list of one assistant turn."""
    turns = conversation(row, name)
    if len(turns) != 1 or turns[0].role != Role.ASSISTANT:
        roles = ", ".join(one.role for one in turns)
        raise BadRow(name, f"turns of {roles}; an answer is one turn of the assistant's")
    return spoken(turns[0].content, f"{name}[0].content")


def spoken(answer: str, place: str) -> str:
    """An answer that says something: others are dropped from training, and so from every export."""
    if not answer.strip():
        raise BadRow(place, "an empty answer")
    return answer


def shown(value: Any) -> str:
    """A value as an error message quotes it."""
    return json.dumps(value, ensure_ascii=True, default=repr)[:60]
