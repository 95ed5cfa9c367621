"""Scorers held against a file of answer pairs: how good a judge is, before anything depends on it.

The same measurements as the licence's (`judge.measure`), of labels from a file in place of people's own. What is
reported besides: an interval of accuracy, accuracy by kind of pair, and speed. Pairs are data of somebody else's, so
every row is checked and a bad one is named by line and field.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judge.humans import HumanItem, scored
from judge.injection import canary_questions, injection_rate
from judge.measure import comparisons, measure
from judge.scorer import Question, Scorer, Scores
from store.errors import Invalid
from store.reading import lines_of, told_as
from store.records import Message, Role
from store.shares import wilson

#: Told which scorer is at work, how many questions it has judged, and of how many.
OnProgress = Callable[[str, int, int], None]

ROLES = tuple(str(role) for role in Role)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to a prompt, one of them better. `line`: where in the file it stands."""

    prompt: tuple[Message, ...]
    better: str
    worse: str
    kind: str | None
    line: int

    @property
    def item(self) -> HumanItem:
        """As the measurements take it. A hash decides which answer stands first, so that a judge that favours a
        position shows it, and shows it the same way in every run."""
        ordered = sorted(
            ((self.better, True), (self.worse, False)), key=lambda answer: self._place(answer[0])
        )
        question = Question(self.prompt, tuple(text for text, _ in ordered))
        return HumanItem(question, tuple(good for _, good in ordered), "label", f"line/{self.line}")

    def _place(self, text: str) -> str:
        said = "\0".join([*(message.content for message in self.prompt), text])
        return hashlib.sha256(said.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one scorer.

    `measures`: those of `judge.measure.measure`, and accuracy_lower and accuracy_upper (Wilson's), confidence
    (coverage of the intervals), injection (`judge.injection.injection_rate`; absent where too few canaries were
    judged), seconds and answers_per_second (canaries left out). `kinds`: each kind of pair with n_comparisons,
    accuracy and its interval.
    """

    scorer: str
    version: str
    measures: Mapping[str, float]
    kinds: Mapping[str, Mapping[str, float]]

    def as_dict(self) -> dict[str, Any]:
        return {"scorer": self.scorer, "version": self.version, **self.measures, "kinds": self.kinds}


async def evaluate(
    scorers: Sequence[Scorer],
    pairs: Sequence[Pair],
    *,
    confidence: float,
    seed: int,
    on_progress: OnProgress = lambda *_: None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Row]:
    """Every scorer's opinion of every pair, measured; one scorer after the other, so that speeds can be compared."""
    items = [pair.item for pair in pairs]
    kinds = [pair.kind for pair in pairs]
    canaries = canary_questions()
    rows = []
    for scorer in scorers:
        report = _following(on_progress, scorer.name, len(items) + len(canaries))
        report(0)
        began = clock()
        scores = await scorer.score([item.question for item in items], on_progress=report)
        seconds = clock() - began
        beaten = await scorer.score(canaries, on_progress=_after(report, len(items)))
        measures = measure(items, scores, confidence=confidence, seed=seed)
        injection = injection_rate(beaten)
        measures |= {} if injection is None else {"injection": injection}
        measures |= compared(items, scores, confidence) | {
            "confidence": confidence,
            "seconds": seconds,
            "answers_per_second": 2 * len(items) / seconds if seconds > 0 else 0.0,
        }
        rows.append(Row(scorer.name, scorer.version, measures, by_kind(items, scores, kinds, confidence)))
    return rows


def _following(on_progress: OnProgress, name: str, total: int) -> Callable[[int], None]:
    return lambda done: on_progress(name, done, total)


def _after(report: Callable[[int], None], before: int) -> Callable[[int], None]:
    return lambda done: report(before + done)


def by_kind(
    items: Sequence[HumanItem], scores: Sequence[Scores], kinds: Sequence[str | None], confidence: float
) -> dict[str, dict[str, float]]:
    """Accuracy of each kind by itself; pairs without a kind are in none."""
    found = {}
    for kind in sorted({kind for kind in kinds if kind is not None}):
        chosen = [at for at, other in enumerate(kinds) if other == kind]
        found[kind] = compared([items[at] for at in chosen], [scores[at] for at in chosen], confidence)
    return found


def compared(items: Sequence[HumanItem], scores: Sequence[Scores], confidence: float) -> dict[str, float]:
    """n_comparisons and accuracy with its interval; without accuracy where no pair has both its scores."""
    found = comparisons(scored(items, scores))
    if "accuracy" not in found:
        return found
    lower, upper = wilson(found["accuracy"], found["n_comparisons"], confidence)
    return found | {"accuracy_lower": lower, "accuracy_upper": upper}


def read_pairs(path: Path, *, limit: int | None = None) -> list[Pair]:
    """The pairs of a JSON Lines file, or its first `limit`; empty lines are skipped.

    Raises:
        Invalid: it cannot be read, holds none, or a row is not one; names the line and the field.
    """
    pairs: list[Pair] = []
    try:
        with told_as(Invalid, "cannot read "):
            for number, line in lines_of(path):
                if limit is not None and len(pairs) == limit:
                    break
                pairs.append(_pair(line.decode("utf-8-sig"), f"{path}, line {number}", number))
    except UnicodeDecodeError as error:
        raise Invalid(f"{path} is not UTF-8 text: {error.reason}") from error
    if not pairs:
        raise Invalid(f"{path} holds no pairs")
    return pairs


def _pair(line: str, where: str, number: int) -> Pair:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise Invalid(f"{where}: not an object with prompt, better and worse")
    better, worse = _text(row, "better", where), _text(row, "worse", where)
    if better == worse:
        raise Invalid(f"{where}: worse: the same text as better", param="worse")
    kind = row.get("kind")
    if kind is not None:
        kind = _text(row, "kind", where)
    return Pair(_prompt(row, where), better, worse, kind, number)


def _prompt(row: Mapping[str, Any], where: str) -> tuple[Message, ...]:
    """A text is one message of the user's; a list is messages."""
    prompt = row.get("prompt")
    if not isinstance(prompt, list):
        return (Message(Role.USER, _text(row, "prompt", where, "a text or a list of messages")),)
    if not prompt:
        raise Invalid(f"{where}: prompt: no messages", param="prompt")
    messages = []
    for index, message in enumerate(prompt):
        place = f"{where}: prompt[{index}]"
        if not isinstance(message, dict):
            raise Invalid(f"{place}: not an object with role and content", param="prompt")
        role = _text(message, "role", place)
        if role not in ROLES:
            raise Invalid(f"{place}: role: {role!r} is not one of {', '.join(ROLES)}", param="prompt")
        messages.append(Message(Role(role), _text(message, "content", place)))
    return tuple(messages)


def _text(row: Mapping[str, Any], field: str, where: str, allowed: str = "a text") -> str:
    value = row.get(field)
    if not isinstance(value, str):
        found = "missing" if field not in row else f"{json.dumps(value)[:40]} is not {allowed}"
        raise Invalid(f"{where}: {field}: {found}", param=field)
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise Invalid(f"{where}: {field}: holds half a character (an unpaired surrogate)", param=field)
    return value
