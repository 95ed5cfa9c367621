"""Export: what people said, as the files TRL (and anyone) reads.

`kto.jsonl` rows are `prompt, completion, label`; `preferences.jsonl` rows are `prompt, chosen, rejected`; all
three parts are lists of `{role, content}` turns. Weak signals are left out: an export says what people said. So is
what does not train here for one person's sake alone (`daemon.vetting`): a phrase that somebody plants is planted in
every model that learns from the file.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from daemon.vetting import background_of
from judge.config import FeedbackConfig, SignalsConfig
from judge.pairs import Liking, Pair, Preferences, build
from store.db import Store
from store.errors import Invalid
from store.files import write_jsonl
from store.records import Message

KTO, PREFERENCES = "kto.jsonl", "preferences.jsonl"

#: Explicit signals only.
STATED = SignalsConfig(regenerate=0, regenerate_kept=0, copy=0, share=0)


def turns(messages: Iterable[Message]) -> list[dict[str, str]]:
    return [message.as_dict() for message in messages]


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def kto_row(liking: Liking) -> dict[str, Any]:
    return {
        "prompt": turns(liking.answer.prompt),
        "completion": answer(liking.answer.text),
        "label": liking.label,
    }


def preference_row(pair: Pair) -> dict[str, Any]:
    return {
        "prompt": turns(pair.prompt),
        "chosen": answer(pair.chosen),
        "rejected": answer(pair.rejected.text),
    }


def everything(store: Store, config: FeedbackConfig) -> Preferences:
    """All live feedback as examples, set-aside answers included: the split is honed's business, not the file's."""
    evidence = store.feedback.live()
    named = {item.feedback.value for item in evidence if isinstance(item.feedback.value, str)}
    found = store.completions.get_all(named)
    whole = config.model_copy(
        update={"never_train": 0.0, "max_examples": max(2, len(evidence)), "signals": STATED}
    )
    # What was said outright is exported, whatever weak signals were found to weigh.
    background = replace(background_of(store, config), signals=None)
    return build(evidence, {key: c for key, c in found.items() if c.stored}, whole, background)


def export(store: Store, config: FeedbackConfig, directory: Path) -> dict[str, int]:
    """Write both files into a folder. Returns rows per file."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Invalid(f"{directory}: {error.strerror}", param="directory") from error
    preferences = everything(store, config)
    files = {
        KTO: [kto_row(liking) for liking in preferences.likings],
        PREFERENCES: [preference_row(pair) for pair in preferences.pairs],
    }
    for name, rows in files.items():
        write_jsonl(directory / name, rows)
    return {name: len(rows) for name, rows in files.items()}
