"""Whether a model can be asked what the battery asks: chat templates differ in the conversations they take.

Some refuse a system turn, some two user turns in a row. Found out before training, it costs an operator a second
instead of an iteration.
"""

from collections.abc import Sequence
from typing import Any

from policies.batches import as_messages
from policies.battery import BatteryItem, Flip, Passage
from policies.chat import encode_prompt
from policies.rows import Turn
from store.errors import Invalid


def refusal(items: Sequence[BatteryItem], tokenizer: Any) -> str | None:
    """The first item whose conversation the tokenizer's template refuses, by id, and why; None if it takes all."""
    for item in items:
        for prompt in _prompts(item):
            try:
                encode_prompt(tokenizer, as_messages(prompt))
            except Invalid as error:
                return f"battery item {item.id}: {error}"
    return None


def _prompts(item: BatteryItem) -> list[list[Turn]]:
    """The conversations an item is asked in; plain text has none."""
    if isinstance(item, Passage):
        return []
    return [item.prompt, item.challenged] if isinstance(item, Flip) else [item.prompt]
