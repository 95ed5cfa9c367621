"""`[store]`: where state lives."""

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class PrivacyConfig(BaseModel):
    """`[store.privacy]`: what is not kept."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    redact: tuple[Literal["key", "card", "email"], ...] = ("key", "card", "email")
    """Kinds of secrets that are stored as "[key]" and so on, in prompts, answers, edits and comments: API keys and
    private keys, payment cards, e-mail addresses. People still get the answer as it was. Empty: none."""
    redact_patterns: tuple[str, ...] = ()
    """Regular expressions of your own; what they match is stored as "[redacted]"."""
    excluded: tuple[str, ...] = ()
    """People who are answered and never learned from: nothing of theirs is stored, as with `store: false`. Principals
    ("key:ann", "owui:ID", "local"), or the `user` that an application sends."""

    keep_days: float = Field(default=0, ge=0)
    """Days after which what was said is scrubbed, unless an adapter that may be served learned from it or is
    proved by it; looked at once a day. 0: kept for ever."""

    @field_validator("redact_patterns")
    @classmethod
    def _expressions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                found = re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
            if found.match(""):
                raise ValueError(f"{pattern!r} matches nothing at all, so it would match everywhere")
        return value


class StoreConfig(BaseModel):
    """`[store]`: where state lives."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    directory: Path = Field(default=Path("var"))
    """State directory: database, models, run directories with their adapters. One service at a time holds it."""
    keep_runs_days: float = Field(default=30, ge=0)
    """Days after which an iteration's folder goes whose adapter can never be served (rejected, failed, aborted,
    retired), its training data and log with it; looked at once a day. What was measured stays in the database.
    0: kept for ever."""
    privacy: PrivacyConfig = PrivacyConfig()
    """What is not kept."""
