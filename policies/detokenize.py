"""Drawn tokens to text that may be shown: no half characters, no half stop strings."""

from collections.abc import Sequence
from typing import Any

from policies.streams import StopGate

#: What an unfinished UTF-8 character decodes to.
UNFINISHED = "\ufffd"
#: Tokens decoded again with each new one, so that a character or a leading space split over tokens comes out right.
CONTEXT, LONGEST_WINDOW = 4, 24


class Detokenizer:
    """Text of a growing answer, piece by piece; the pieces join to what decoding all at once would give."""

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._gate = StopGate(stops)
        self._window: list[int] = []
        self._given = 0

    def push(self, token: int) -> tuple[str, bool]:
        """Returns what may be shown now, and whether a stop string was met."""
        self._window.append(token)
        text = self._decode()
        unfinished = text.endswith(UNFINISHED)
        # Only the last character can still change: an invalid byte before it stays invalid.
        ready = text[self._given : len(text) - unfinished]
        self._given += len(ready)
        if not unfinished and len(self._window) > LONGEST_WINDOW:
            self._window = self._window[-CONTEXT:]
            self._given = len(self._decode())
        return self._gate.push(ready)

    def flush(self) -> str:
        """What was held back, now that no more tokens come. A stop string met only now still cuts."""
        rest, met = self._gate.push(self._decode()[self._given :])
        return rest if met else rest + self._gate.flush()

    def _decode(self) -> str:
        return str(
            self._tokenizer.decode(
                self._window, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )
