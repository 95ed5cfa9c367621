"""Iteration-level batching: answers join and leave a batch between steps. One batch per adapter version.

A step is one forward over every answer's newest token, then one draw per answer. Nothing here knows threads,
queues or HTTP; the engine's thread calls it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from policies.detokenize import Detokenizer
from policies.draw import Drawn, draw, generator_for
from policies.engine import Delta, Priority, TokenLogprob, Usage
from policies.forward import Forward
from policies.kv import RowCache, split_prompt
from policies.pace import Pace
from policies.prefix_tree import common_length
from policies.streams import StopGate
from store.records import Sampling

#: Tokens of a prompt computed before others get a step; background work takes smaller bites out of a chat's time.
PREFILL = {Priority.CHAT: 256, Priority.BACKGROUND: 64}

#: Tokens of a prompt that are copied from another row rather than computed; all chats begin with a template's few.
WORTH_COPYING = 16

Emit = Callable[[Delta | Exception], None]


@dataclass(eq=False)
class Answer:
    """One request while it is being answered."""

    prompt: Sequence[int]
    sampling: Sampling
    adapter: str | None
    priority: Priority
    emit: Emit
    detokenizer: Detokenizer
    cancelled: bool = False
    counted: bool = False
    """Whether it still counts among its version's users; the engine's to set, under its lock."""
    drawn: list[int] = field(default_factory=list)
    chunks: list[list[int]] = field(default_factory=list)
    prefilled: DynamicCache | None = None

    def __post_init__(self) -> None:
        self.chunks = split_prompt(self.prompt, PREFILL[self.priority])
        self.stop = StopGate(self.sampling.stop)
        self.generator = generator_for(self.sampling)


class Batch:
    """Answers of one model decoded together."""

    def __init__(self, model: Forward, tokenizer: Any, ends: frozenset[int], pace: Pace) -> None:
        self.model, self.tokenizer, self.ends, self.pace = model, tokenizer, ends, pace
        self.answers: list[Answer] = []
        self.cache = RowCache()

    def prefill(self, answer: Answer) -> None:
        """Compute the next piece of a prompt; with the last one the answer joins and draws its first token."""
        if answer.prefilled is None:
            answer.prefilled = self._begin(answer)
        ids = torch.tensor([answer.chunks.pop(0)], device=self.model.device)
        if answer.chunks:
            self.model.states(ids, cache=answer.prefilled)
            return
        logits = self.model.next_logits(ids, cache=answer.prefilled)
        self.cache.join(answer.prefilled)
        answer.prefilled = None
        self.answers.append(answer)
        if self._take(answer, logits[0]):
            self._remove(len(self.answers) - 1)

    def _begin(self, answer: Answer) -> DynamicCache:
        """What another answer in the batch has of this prompt: candidates and choices are asked the same."""
        shared, row = max(
            ((common_length(answer.prompt, other.prompt), row) for row, other in enumerate(self.answers)),
            default=(0, 0),
        )
        # The last token is computed in any case: what it says is the answer's first.
        shared = min(shared, len(answer.prompt) - 1)
        if shared < WORTH_COPYING:
            return DynamicCache()
        answer.chunks = split_prompt(answer.prompt[shared:], PREFILL[answer.priority])
        return self.cache.beginning(row, shared)

    def step(self) -> None:
        """One token for every answer."""
        self._drop_cancelled()
        if not self.answers:
            return
        newest = [[answer.drawn[-1]] for answer in self.answers]
        positions, mask = self.cache.begin_step()
        ids = torch.tensor(newest, device=self.model.device)
        with self.pace.step(len(self.answers)):
            logits = self.model.next_logits(ids, cache=self.cache, positions=positions, mask=mask)
        done = [row for row, answer in enumerate(self.answers) if self._take(answer, logits[row])]
        # From the last, because the last row moves into a gap.
        for row in reversed(done):
            self._remove(row)

    def _take(self, answer: Answer, logits: torch.Tensor) -> bool:
        """Draw a token and pass its text on. Returns whether the answer has ended."""
        drawn = draw(logits, answer.drawn, answer.sampling, answer.generator)
        answer.drawn.append(drawn.token)
        if drawn.token in self.ends:
            self._end(answer, answer.detokenizer.flush(), "stop")
            return True
        text, stopped = answer.stop.push(answer.detokenizer.push(drawn.token))
        logprobs = self._logprobs(drawn)
        if stopped:
            answer.emit(Delta(text, logprobs, "stop", self._usage(answer)))
            return True
        if text or logprobs:
            answer.emit(Delta(text, logprobs))
        if len(answer.drawn) >= answer.sampling.max_tokens:
            self._end(answer, answer.detokenizer.flush(), "length")
            return True
        return False

    def _end(self, answer: Answer, rest: str, reason: str) -> None:
        text, stopped = answer.stop.push(rest)
        text += "" if stopped else answer.stop.flush()
        answer.emit(Delta(text, (), "stop" if stopped else reason, self._usage(answer)))

    def _usage(self, answer: Answer) -> Usage:
        return Usage(len(answer.prompt), len(answer.drawn))

    def _logprobs(self, drawn: Drawn) -> tuple[TokenLogprob, ...]:
        if drawn.logprob is None:
            return ()
        top = tuple((self._piece(token), logprob) for token, logprob in drawn.top)
        return (TokenLogprob(self._piece(drawn.token), drawn.logprob, top),)

    def _piece(self, token: int) -> str:
        text: str = self.tokenizer.decode([token])
        return text

    def _drop_cancelled(self) -> None:
        for row in reversed(range(len(self.answers))):
            if self.answers[row].cancelled:
                self._remove(row)

    def _remove(self, row: int) -> None:
        self.cache.leave(row)
        last = self.answers.pop()
        if row < len(self.answers):
            self.answers[row] = last
