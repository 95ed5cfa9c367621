"""Import: files of other origin, or of an export of honed's own, into the log of answers and feedback.

What a row says enters as a recorded answer (source `import`) and an event about it, both under ids that follow from
the row, so that reading a file again adds nothing. All good rows are written in one transaction, or none.

The state directory is locked meanwhile: the running service is its only writer.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from api.privacy import Privacy
from daemon.openwebui import SAID_AT, is_openwebui, rating
from daemon.rows import PRINCIPAL, BadRow, Said, answer_of, event_of, is_kto, is_preference, kto, preference
from daemon.state_files import DATABASE, LOCK
from store.db import StateLock, Store
from store.errors import HonedError, Invalid
from store.files import make_folder
from store.reading import read_bytes
from store.records import Completion
from store.scrubbing import FORGOTTEN

#: What a row looks like, and what reads it. The first that fits decides.
FORMS: Sequence[tuple[Callable[[Mapping[str, Any]], bool], Callable[[Mapping[str, Any]], Said]]] = (
    (is_openwebui, rating),
    (is_kto, kto),
    (is_preference, preference),
)
SUFFIXES = (".json", ".jsonl")
#: Bytes of a file at the most; it is read as a whole.
MOST = 2**30
#: Bad rows that an error names; of more it gives the number.
NAMED = 20
SPACE = re.compile(r"[ \t\r\n]*")


@dataclass
class Found:
    """What the files hold: good rows in their order, and one sentence for every bad one."""

    said: list[Said] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)


def files_of(path: Path) -> list[Path]:
    """The file itself, or the JSON files of a folder by name.

    Raises:
        Invalid: there is nothing to read.
    """
    if not path.is_dir():
        return [path]
    found = sorted(each for each in path.iterdir() if each.suffix in SUFFIXES and each.is_file())
    if not found:
        raise Invalid(f"{path} holds no file whose name ends in {' or '.join(SUFFIXES)}", param="path")
    return found


def read(paths: Sequence[Path]) -> Found:
    """Every row of the files.

    Raises:
        Invalid: a file cannot be read at all.
    """
    found = Found()
    for path in paths:
        try:
            content = read_bytes(path, most=MOST)
        except HonedError as error:
            raise Invalid(f"cannot read {error}", param="path") from error
        said = list(good(content, str(path), found.bad))
        # Open WebUI lists the newest first; what has no time stays where it is.
        found.said += sorted(told_apart(said), key=lambda one: one.metadata.get(SAID_AT, 0))
    return found


def good(content: bytes, name: str, bad: list[str]) -> Iterator[Said]:
    """The rows of one file that can be taken; a sentence about every other is added to `bad`."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        bad.append(f"{name}, line {line}: not UTF-8 text: {error.reason}")
        return
    for place, row in rows_of(text):
        try:
            yield said_in(row)
        except BadRow as error:
            bad.append(f"{name}, {place}: {error}")


def said_in(row: Any) -> Said:
    """
    Raises:
        BadRow: it is of no form that is read, or not as its form wants it.
    """
    if isinstance(row, BadRow):
        raise row
    if not isinstance(row, dict):
        raise BadRow("row", "not an object")
    for fits, reads in FORMS:
        if fits(row):
            said = reads(row)
            try:
                said.feedback_id.encode()
            except UnicodeEncodeError:
                raise BadRow("row", "has a lone surrogate, which is not text") from None
            return said
    raise BadRow(
        "row",
        "has the columns of no form that is read: prompt, completion, label; prompt, chosen, rejected; "
        "or Open WebUI's user_id, data, meta, snapshot",
    )


def rows_of(text: str) -> Iterator[tuple[str, Any]]:
    """Every row with its place: of a JSON array, or else of one JSON value per line. A `BadRow` where none is."""
    if text.lstrip().startswith("["):
        yield from rows_of_array(text)
        return
    # At the newline alone: JSON leaves U+2028 bare, where `splitlines` would break too.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield f"line {number}", DECODER.decode(line)
            except (ValueError, RecursionError) as error:
                yield f"line {number}", BadRow("row", f"not JSON: {error}")


def rows_of_array(text: str) -> Iterator[tuple[str, Any]]:
    """An array's values; after one that is not JSON nobody knows where the next begins."""
    at, line, number = text.index("[") + 1, 1, 1
    counted = 0
    while True:
        at = skip(text, at)
        if number == 1 and text[at : at + 1] == "]":
            return
        line, counted = line + text.count("\n", counted, at), at
        place = f"line {line} (row {number})"
        try:
            row, at = DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            yield place, BadRow("row", f"not JSON: {error}")
            return
        yield place, row
        at = skip(text, at)
        if text[at : at + 1] == "]" and not text[at + 1 :].strip():
            return
        if text[at : at + 1] != ",":
            yield (
                place,
                BadRow("row", "is not followed by a comma, or by the end of the array and of the file"),
            )
            return
        at, number = at + 1, number + 1


def skip(text: str, at: int) -> int:
    space = SPACE.match(text, at)
    return at if space is None else space.end()


def no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


DECODER = json.JSONDecoder(parse_constant=no_number)


def told_apart(said: Sequence[Said]) -> Iterator[Said]:
    """Equal rows of one file as answers of their own: two people may have got, and liked, the same words."""
    before: Counter[str] = Counter()
    for one in said:
        key = one.completion_id
        nth, before[key] = before[key], before[key] + 1
        yield replace(one, identity=(*one.identity, str(nth))) if one.repeats and nth else one


def add(store: Store, said: Sequence[Said], privacy: Privacy, *, source: str, at: float) -> int:
    """Write down what is not there yet, all of it or nothing, without what is not kept of live requests either.

    Returns how many events were new.
    """

    def commit(tx: Store) -> int:
        known = tx.feedback.known(one.feedback_id for one in said)
        added = 0
        for one in said:
            if one.feedback_id in known:
                continue
            known.add(one.feedback_id)
            there = tx.completions.find(one.completion_id)
            if there is not None and FORGOTTEN in there.metadata:
                continue  # a file that is read again does not bring back who was forgotten
            if there is None:
                tx.completions.begin(kept(answer_of(one, at=at), privacy))
            tx.feedback.add(privacy.feedback(event_of(one, at=at)))
            added += 1
        details = {"rows": len(said), "added": added}
        reason = "feedback from files"
        tx.audit.add(actor=PRINCIPAL, action="import", subject=source, reason=reason, details=details)
        return added

    return store.atomic(commit)


def kept(answer: Completion, privacy: Privacy) -> Completion:
    """The answer as it is stored."""
    return replace(privacy.completion(answer), choices=tuple(map(privacy.choice, answer.choices)))


def import_files(
    directory: Path, path: Path, privacy: Privacy, *, skip_bad: bool, at: float
) -> dict[str, Any]:
    """Read a file or a folder into the state directory, which is made if need be.

    Returns:
        rows: that can be taken; added: of them; known: those that were there already; excluded: rows of people of
        whom nothing is kept; bad: a sentence each.

    Raises:
        Invalid: a row cannot be taken and `skip_bad` is False, or there is nothing to read. Nothing was written.
        AlreadyRunning: a service uses the state directory.
    """
    found = read(files_of(path))
    if found.bad and not skip_bad:
        raise Invalid(refusal(found), param="path")
    if not found.said:
        raise Invalid(
            f"{path}: no rows to import{''.join(f'; {one}' for one in found.bad[:NAMED])}", param="path"
        )
    try:
        make_folder(directory)
    except OSError as error:
        raise Invalid(f"store.directory {directory}: {error.strerror}", param="store.directory") from error
    with StateLock(directory / LOCK), Store.open(directory / DATABASE) as store:
        said = [
            one for one in found.said if privacy.keeps(one.principal, one.principal.removeprefix("owui:"))
        ]
        added = add(store, said, privacy, source=path.name, at=at)
    excluded = len(found.said) - len(said)
    counts = {"rows": len(found.said), "added": added, "known": len(said) - added, "excluded": excluded}
    return {**counts, "bad": found.bad}


def refusal(found: Found) -> str:
    """What is wrong, row by row."""
    rows = len(found.said) + len(found.bad)
    lines = [f"{len(found.bad)} of {rows} rows cannot be imported, so nothing was:", *found.bad[:NAMED]]
    if len(found.bad) > NAMED:
        lines.append(f"and {len(found.bad) - NAMED} more")
    return "\n  ".join(lines)
