"""Scores, each asked for once: what a scorer of the same version said before is read from the store.

So an iteration that a crash cut short goes on where it was, and people's labels are judged once, not every night.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from daemon.runtime import Runtime
from judge.scorer import Question, Score, Scorer, Scores
from store.judging import Judgement
from store.records import Completion, Message

#: Questions judged between two writes: what a crash can cost.
SLICE = 32
#: Under which key a score's own consistency is kept among its details.
CONSISTENCY = "swap_consistency"

#: Told (done, total).
OnProgress = Callable[[int, int], Awaitable[None]]


@dataclass(frozen=True)
class Recorded:
    """Which recorded answer a text is: (completion id, choice index) by prompt and text."""

    places: Mapping[tuple[tuple[Message, ...], str], tuple[str, int]]

    def place(self, prompt: tuple[Message, ...], text: str) -> tuple[str | None, int | None]:
        return self.places.get((prompt, text), (None, None))


def recorded(completions: Sequence[Completion]) -> Recorded:
    """Every answer of these completions; of equal texts to one prompt the first."""
    places: dict[tuple[tuple[Message, ...], str], tuple[str, int]] = {}
    for completion in completions:
        for choice in completion.choices:
            places.setdefault((completion.messages, choice.text), (completion.id, choice.index))
    return Recorded(places)


def answer_keys(question: Question) -> list[str]:
    """A digest for each answer: of the prompt, of all answers judged with it, and of which one it is."""
    turns = [[message.role, message.content] for message in question.prompt]
    asked = json.dumps([turns, list(question.answers)], ensure_ascii=False)
    whole = hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()[:24]
    return [f"{whole}/{index}" for index in range(len(question.answers))]


async def opinions(
    runtime: Runtime,
    iteration: int,
    scorer: Scorer,
    questions: Sequence[Question],
    *,
    known_as: Recorded,
    on_progress: OnProgress | None = None,
) -> list[Scores]:
    """A scorer's scores of every answer, in order; new ones are written down as they come.

    A question of which any answer has no score yet is judged whole. Abstentions are not written down: what kept a
    scorer from judging (an endpoint that was down) may have passed by the next time.
    """
    store = runtime.store
    keys = [answer_keys(question) for question in questions]
    wanted = [key for row in keys for key in row]
    known = await asyncio.to_thread(store.judgements.known, scorer.name, scorer.version, wanted)
    scores: dict[int, Scores] = {
        index: tuple(score_of(known[key]) for key in row)
        for index, row in enumerate(keys)
        if all(key in known for key in row)
    }
    missing = [index for index in range(len(questions)) if index not in scores]
    if on_progress is not None:
        await on_progress(0, len(missing))
    for start in range(0, len(missing), SLICE):
        some = missing[start : start + SLICE]
        found = await scorer.score([questions[index] for index in some])
        for index, fresh in zip(some, found, strict=True):
            # Where only part was known, that part stands: it is what is written down.
            kept = [known.get(key) for key in keys[index]]
            scores[index] = tuple(
                new if old is None else score_of(old) for old, new in zip(kept, fresh, strict=True)
            )
        rows = [
            judgement
            for index, row in zip(some, found, strict=True)
            for judgement in judgements(runtime, iteration, scorer, questions[index], row, known_as)
        ]
        await asyncio.to_thread(store.judgements.add, rows)
        if on_progress is not None:
            await on_progress(start + len(some), len(missing))
    await asyncio.to_thread(store.judgements.go_by, iteration, scorer.name, scorer.version, wanted)
    return [scores[index] for index in range(len(questions))]


def judgements(
    runtime: Runtime, iteration: int, scorer: Scorer, question: Question, scores: Scores, known_as: Recorded
) -> list[Judgement]:
    """What there is to write down of one question's scores."""
    rows = []
    for key, text, score in zip(answer_keys(question), question.answers, scores, strict=True):
        if score is None:
            continue
        completion_id, index = known_as.place(question.prompt, text)
        details = dict(score.details)
        if score.consistency is not None:
            details[CONSISTENCY] = score.consistency
        rows.append(
            Judgement(
                answer=key,
                scorer=scorer.name,
                version=scorer.version,
                score=score.value,
                at=runtime.clock(),
                completion_id=completion_id,
                choice_index=index,
                iteration=iteration,
                details=details,
            )
        )
    return rows


def score_of(judgement: Judgement) -> Score:
    """A score as it was written down."""
    consistency = judgement.details.get(CONSISTENCY)
    return Score(judgement.score, consistency, judgement.details)
