"""Whether a model can be asked what the battery and imported examples ask: chat templates differ in what they take.

Some refuse a system turn, some two user turns in a row. Found out before training, it costs an operator a second
instead of an iteration.
"""

from collections.abc import Sequence
from typing import Any

from policies.batches import as_messages
from policies.battery import BatteryItem, Flip, Passage
from policies.chat import encode_prompt
from policies.rows import Turn
from policies.spec import Snapshot
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


def answerable(snapshot: Snapshot, tokenizer: Any) -> tuple[Snapshot, int]:
    """Without the examples and held-out answers whose conversation the template refuses, and how many they were.

    What was served here was taken by the template; files that were imported, and logs from before the model was
    changed, hold what another one took. One such row must not stop all learning.
    """
    examples = [one for one in snapshot.examples if _takes(tokenizer, one.prompt)]
    heldout = [one for one in snapshot.heldout if _takes(tokenizer, one.prompt)]
    refused = len(snapshot.examples) - len(examples) + len(snapshot.heldout) - len(heldout)
    return snapshot.model_copy(update={"examples": examples, "heldout": heldout}), refused


def _takes(tokenizer: Any, prompt: Sequence[Turn]) -> bool:
    try:
        encode_prompt(tokenizer, as_messages(prompt))
    except Invalid:
        return False
    return True


def _prompts(item: BatteryItem) -> list[list[Turn]]:
    """The conversations an item is asked in; plain text has none."""
    if isinstance(item, Passage):
        return []
    return [item.prompt, item.challenged] if isinstance(item, Flip) else [item.prompt]
