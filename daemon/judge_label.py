"""`honed judge label`: a file of answer pairs as operators' labels, through the service's own door."""

from collections.abc import Sequence
from typing import Any

from daemon.client import Client
from daemon.judge_eval import Progress
from judge.evaluate import Pair
from store.errors import HonedError, Invalid

Written = dict[str, str]


def labels(pairs: Sequence[Pair], source: str) -> list[Written]:
    """Each pair as a label's body.

    Raises:
        Invalid: a prompt of several messages, which a label cannot hold; names the line.
    """
    written = []
    for pair in pairs:
        if len(pair.prompt) != 1:
            raise Invalid(
                f"{source}, line {pair.line}: prompt: {len(pair.prompt)} messages; a label takes one text",
                param="prompt",
            )
        written.append({"prompt": pair.prompt[0].content, "better": pair.better, "worse": pair.worse})
    return written


def send(client: Client, written: Sequence[Written], *, reason: str, quiet: bool) -> dict[str, Any]:
    """Give every label, and wait until the loop has written them all down.

    Raises:
        HonedError: a label was refused; the earlier ones are given.
    """
    with Progress(quiet=quiet) as progress:
        intents = []
        for label in written:
            intents.append(client.intend("label", reason=reason, **label))
            progress.follow("labels", len(intents), len(written))
        for intent in intents:
            row = client.wait(intent)
            if row["status"] != "done":
                raise HonedError(f"a label was not taken: {row['outcome'].get('message', row['status'])}")
    return {"labels": len(intents), "intents": intents}
