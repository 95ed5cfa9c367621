"""Tokens to text while they are drawn; every engine shares it, so that the same tokens are the same text."""

from collections.abc import Sequence
from typing import Any


class Detokenizer:
    """Tokens to text piece by piece, never ending inside a character.

    Decodes a short window instead of the whole answer: what a token adds depends on the tokens just before it
    (spaces, multi-byte characters), not on the beginning.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._shown = ""

    def push(self, token: int) -> str:
        self._window.append(token)
        text = self._text()
        if text.endswith("\ufffd"):
            return ""
        new = text[len(self._shown) :]
        if len(self._window) > 8:
            # Keep the last token as context, and more where it is a part of a character: alone it would decode to
            # something else than it did in company.
            keep = 1
            while keep < len(self._window) and "\ufffd" in self._decode(self._window[-keep:]):
                keep += 1
            self._window = self._window[-keep:]
            text = self._text()
        self._shown = text
        return new

    def flush(self) -> str:
        """What an answer cut off inside a character still holds."""
        return self._text()[len(self._shown) :]

    def _text(self) -> str:
        return self._decode(self._window)

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text
