"""Between honed's requests and vLLM's: a sampling as a request body, chunks as deltas. Pure; no HTTP here.

Text is made here and not by the server, from token ids, so that characters and stop strings are cut as in every other
engine. Log-probabilities are asked for by token id: several tokens can look the same as text (parts of one
character), and a table keyed by text would lose all but one.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from policies.detokenize import Detokenizer
from policies.engine import Delta, TokenLogprob, Usage
from policies.streams import StopGate
from store.errors import EngineUnavailable
from store.records import Sampling

#: Temperatures below this are greedy, as in `policies.draw`.
GREEDY_BELOW = 1e-4
_ID = "token_id:"


def request_body(prompt: Sequence[int], sampling: Sampling, ends: Sequence[int]) -> dict[str, Any]:
    """What to draw and how; the model's name and the cache's salt are the caller's to add.

    Every setting is named, so that the server's own defaults (a model's generation_config, say) change nothing.
    """
    body: dict[str, Any] = {
        "prompt": list(prompt),
        "max_tokens": sampling.max_tokens,
        "temperature": 0.0 if sampling.temperature < GREEDY_BELOW else sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "stop_token_ids": list(ends),
        "add_special_tokens": False,
        "return_token_ids": True,
        "stream": True,
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed & (2**63 - 1)
    if sampling.logprobs:
        body |= {"logprobs": sampling.top_logprobs, "return_tokens_as_token_ids": True}
    return body


class Writer:
    """Turns the tokens of one answer into deltas, as the embedded engine does: same text, same ends, same counts."""

    def __init__(self, prompt_tokens: int, sampling: Sampling, tokenizer: Any, ends: frozenset[int]) -> None:
        self._prompt_tokens, self._tokenizer, self._ends = prompt_tokens, tokenizer, ends
        self._top = sampling.top_logprobs
        self._detokenizer, self._gate = Detokenizer(tokenizer), StopGate(sampling.stop)
        self._drawn = 0

    def push(self, token: int, logprobs: tuple[TokenLogprob, ...]) -> Delta | None:
        """What a token adds, if anything can be shown yet; the last delta if it ends the answer."""
        self._drawn += 1
        if token in self._ends:  # what ends an answer is no part of it
            return self.end("stop")
        text, stopped = self._gate.push(self._detokenizer.push(token))
        if stopped:
            return Delta(text, logprobs, "stop", self._usage())
        return Delta(text, logprobs) if text or logprobs else None

    def end(self, reason: str) -> Delta:
        """The last delta, with whatever was held back."""
        text, stopped = self._gate.push(self._detokenizer.flush())
        text += "" if stopped else self._gate.flush()
        return Delta(text, (), "stop" if stopped else reason, self._usage())

    def logprobs(self, row: dict[str, Any] | None, at: int) -> tuple[TokenLogprob, ...]:
        """Those of a chunk's token number `at`, if any were asked for."""
        if row is None:
            return ()
        listed = (row.get("top_logprobs") or [None] * (at + 1))[at] or {}
        # The drawn token comes along even when it is not among the likeliest, hence the cut.
        ranked = sorted(listed.items(), key=lambda item: -float(item[1]))[: self._top]
        top = tuple((self._piece(name), float(value)) for name, value in ranked)
        return (TokenLogprob(self._piece(row["tokens"][at]), float(row["token_logprobs"][at]), top),)

    def _piece(self, name: str) -> str:
        text: str = self._tokenizer.decode([int(name.removeprefix(_ID))])
        return text

    def _usage(self) -> Usage:
        return Usage(self._prompt_tokens, self._drawn)


async def deltas(chunks: AsyncGenerator[dict[str, Any], None], writer: Writer) -> AsyncGenerator[Delta, None]:
    """An answer's chunks as deltas. A stop string ends it here; closing `chunks` then aborts it in the server.

    Raises:
        EngineUnavailable: the server gave the answer up.
    """
    last: Delta | None = None
    async with aclosing(chunks):
        async for chunk in chunks:
            for choice in chunk["choices"]:
                for at, token in enumerate(choice.get("token_ids") or ()):
                    delta = writer.push(token, writer.logprobs(choice.get("logprobs"), at))
                    if delta is not None and delta.finish_reason is None:
                        yield delta
                    elif delta is not None:
                        last = delta
                        break
                reason = choice.get("finish_reason")
                if last is not None and reason is None:
                    yield last
                    return
                if reason not in (None, "stop", "length"):
                    raise EngineUnavailable(f"the model server gave an answer up: {reason}")
                if reason is not None and last is None:
                    last = writer.end(reason)
    # Read to its end, the connection serves the next request as well.
    if last is None:
        raise EngineUnavailable("the model server ended an answer without finishing it")
    yield last
