"""`[feedback]` and `[judge]`: what evidence is worth."""

from pydantic import BaseModel, ConfigDict, Field


class SignalsConfig(BaseModel):
    """`[feedback.signals]`: prior weight of each signal; a thumb is 1. Zero leaves a signal logged only."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    thumb: float = Field(default=1.0, ge=0, le=1)
    """An explicit thumb. Where there is one, weaker signals of the same person on the same answer are ignored."""
    rating: float = Field(default=1.0, ge=0, le=1)
    """Stars: 1 and 5 count fully, 2 and 4 half, 3 not at all."""
    edit: float = Field(default=0.7, ge=0, le=1)
    """A corrected answer: a pair, correction over original."""
    preference: float = Field(default=1.0, ge=0, le=1)
    """A comparison: a pair, the preferred over the other."""
    regenerate_kept: float = Field(default=0.5, ge=0, le=1)
    """A retry whose new answer was not itself rejected: a pair, new over old."""
    regenerate: float = Field(default=0.2, ge=0, le=1)
    """A retry by itself: weak dislike."""
    copy_click: float = Field(default=0.3, ge=0, le=1, alias="copy")
    """Copying an answer: weak liking."""
    share: float = Field(default=0.3, ge=0, le=1)
    """Sharing an answer: weak liking."""


class FeedbackConfig(BaseModel):
    """`[feedback]`: how events become training examples."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    never_train: float = Field(default=0.15, ge=0.0, le=0.5)
    """Share of answers, chosen by a stable hash of the completion id, whose feedback only ever tests."""
    min_examples: int = Field(default=4, ge=2)
    """Fewer training examples than this abort an iteration: there is nothing to learn from."""
    max_examples: int = Field(default=2000, ge=2)
    """The newest examples an iteration takes at the most."""
    max_heldout: int = Field(default=200, ge=2)
    """The newest never-train answers an iteration is tested on at the most."""
    principal_share_floor: float = Field(default=0.02, gt=0, le=1)
    """With n people, each one's share of an iteration's weight is capped at min(1, max(this, 3/n))."""
    signals: SignalsConfig = SignalsConfig()
    """Prior weights of the signals."""
