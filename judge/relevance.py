"""The `relevance` scorer: how much likelier an answer becomes by having been asked for.

log p(answer | prompt) - log p(answer | neutral prompt), in nats over the whole answer: their pointwise mutual
information. It asks the model for no opinion, so it works where a model is far too small for a rubric, and no
text in the answer can instruct it.

Two corrections, both measured. The difference grows with length, so its logarithm is taken. And an answer that
repeats the question or itself is likely for a bad reason, so a gain is multiplied by the root of the share of its
words that are new, and a loss divided by it: either way a repetition stands lower. On published answers of weak and
strong models (174 pairs, embedded model) the difference by itself is at chance (accuracy 0.53), because weak models
echo; with both it is at 0.79. Telling an answer from one to another question takes the difference (0.98 by itself,
0.95 with both): new words alone are at chance there.

Left out: languages written without blanks, whose runs of characters count as one word; only whole copies are seen.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from judge import defence
from judge.scorer import Question, Score, Scores
from judge.slots import Abstentions, Judge, Progress, Row, log_abstentions, logprobs, report, slices
from judge.texts import digest
from store.records import Message, Role

#: Bumped with every change of the prompts or the arithmetic.
TEMPLATE = "2"
#: A prompt that asks for nothing.
NEUTRAL = (Message("user", "Hello"),)
#: Words in a row that make a repetition.
RUN = 3
#: Share of new words below which a loss grows no further: at the most fivefold.
LEAST_NEW = 0.04
#: Characters of a conversation that are read, its latest turns.
PROMPT_CHARACTERS = 2 * defence.QUESTION_CHARACTERS


def relevance(nats: float, new: float) -> float:
    """The score: logarithm of the gain in log-probability (nats), times the root of the share (0..1) of new words.

    A loss is divided by that root instead: multiplied, it would shrink towards 0, and an answer that only repeats
    itself would stand above an honest one.
    """
    if nats > 0:
        return math.log1p(nats) * math.sqrt(new)
    return -math.log1p(-nats) / math.sqrt(max(new, LEAST_NEW))


def share_of_new(answer: str, prompt: str) -> float:
    """Share (0..1) of an answer's runs of three words that are neither in the prompt nor earlier in the answer."""
    runs = Counter(_runs(answer))
    known = set(_runs(prompt))
    return sum(run not in known for run in runs) / runs.total() if runs else 1.0


def _runs(text: str) -> list[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    # A text shorter than a run is one.
    return [tuple(words[at : at + RUN]) for at in range(max(1, len(words) - RUN + 1))] if words else []


def latest(prompt: Sequence[Message], limit: int = PROMPT_CHARACTERS) -> tuple[Message, ...]:
    """A conversation of at most `limit` characters: the oldest turns go first, then the beginning of the last one.

    What is left starts with a system or a user turn: some chat templates take nothing else.
    """
    turns = list(prompt)
    while len(turns) > 1 and sum(len(turn.content) for turn in turns) > limit:
        del turns[0]
        while len(turns) > 1 and turns[0].role == Role.ASSISTANT:
            del turns[0]
    if turns and len(turns[0].content) > limit:
        turns[0] = replace(turns[0], content=turns[0].content[-limit:])
    return tuple(turns)


@dataclass(frozen=True, slots=True)
class RelevanceScorer:
    """Implements `judge.scorer.Scorer`. Values are about 0..6; below 0 the prompt made the answer unlikelier."""

    judge: Judge

    name = "relevance"

    @property
    def version(self) -> str:
        neutral = [message.content for message in NEUTRAL]
        return digest(self.name, TEMPLATE, defence.VERSION, self.judge.identity, *neutral)

    @property
    def texts(self) -> Mapping[str, str]:
        return {"neutral": "\n".join(message.content for message in NEUTRAL)}

    async def score(self, questions: Sequence[Question], *, on_progress: Progress = None) -> list[Scores]:
        """Log of the gain in log-probability that the prompt brings, corrected for repetition (see `relevance`)."""
        judged: list[Scores] = []
        reasons = Abstentions()
        for some in slices(questions):
            answers = [(question.prompt, answer) for question in some for answer in question.answers]
            scores = iter(await self._weigh(answers, reasons))
            judged += [tuple(next(scores) for _ in question.answers) for question in some]
            report(on_progress, len(judged))
        log_abstentions(self.name, reasons)
        return judged

    async def _weigh(
        self, answers: Sequence[tuple[tuple[Message, ...], str]], reasons: Abstentions
    ) -> list[Score | None]:
        refused = [defence.refusal(answer, prompt) for prompt, answer in answers]
        # Only the beginning of a long answer is read, and without a mark of the cut, which nobody wrote.
        asked: list[Row] = [
            (latest(prompt), defence.clean(answer[: defence.ANSWER_CHARACTERS]).strip())
            for (prompt, answer), reason in zip(answers, refused, strict=True)
            if reason is None
        ]
        given = await logprobs(self.judge, asked)
        neutral = await logprobs(self.judge, [(NEUTRAL, answer) for _, answer in asked])
        rows = zip(asked, given, neutral, strict=True)
        scores: list[Score | None] = []
        for reason in refused:
            score = _score(*next(rows)) if reason is None else None
            if score is None:
                reasons[reason or "too long for the engine's context"] += 1
            scores.append(score)
        return scores


def _score(asked: Row, given: list[float] | None, neutral: list[float] | None) -> Score | None:
    if not given or not neutral:
        return None
    prompt, answer = asked
    new = share_of_new(answer, " ".join(message.content for message in prompt))
    nats = sum(given) - sum(neutral)
    details = {"given": round(sum(given), 3), "neutral": round(sum(neutral), 3), "tokens": len(given)}
    return Score(relevance(nats, new), details={**details, "new": round(new, 4)})
