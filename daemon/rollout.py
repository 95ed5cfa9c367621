"""`[daemon.canary]` and `[daemon.watch]`: how a version is tried on people, and watched when it serves them all."""

from typing import Self

from pydantic import Field, model_validator

from daemon.section import Section


class CanaryConfig(Section):
    """`[daemon.canary]`: a candidate that passed the gate first answers some people only."""

    steps: tuple[float, ...] = ()
    """Shares of people, rising, e.g. [0.05, 0.25]; after the last it serves everybody. Empty: no canary."""
    votes: int = Field(default=20, ge=1)
    """Votes that a step needs before it can be passed: on the canary's answers, and on the incumbent's."""
    min_hours: float = Field(default=1.0, ge=0)
    """A step is looked at for at least this long; time that honed is off or paused does not count."""
    max_hours: float = Field(default=72.0, gt=0)
    """A step that could not be decided for this long, counted alike, is held for a person; the incumbent serves
    everybody again."""
    harm: float = Field(default=0.025, gt=0, lt=1)
    """Probability of rolling back a canary that does no harm, over all steps and all that is watched."""
    votes_per_person: int = Field(default=5, ge=1)
    """Votes of one person that a step weighs for harm, which at least three people must have found; of answers, ten
    times as many count in every hour. Towards `votes` more count where fewer than ten people vote: ten times as many,
    shared among them."""
    length_margin: float = Field(default=1.5, ge=1)
    """Answers are too long when most are longer than this many times the answers they are matched with."""
    latency_margin: float = Field(default=2.0, ge=1)
    """Answers are too slow when most take more than this many times the seconds per token."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        rising = all(a < b for a, b in zip([0.0, *self.steps], [*self.steps, 1.0], strict=True))
        if not rising:
            raise ValueError("steps must rise, each above 0 and below 1")
        return self


class WatchConfig(Section):
    """`[daemon.watch]`: after a promotion, votes are held against those before it."""

    enabled: bool = True
    """Whether a promoted version that people like less is rolled back by itself."""
    hours: float = Field(default=72.0, gt=0)
    """How long a version is watched after it was promoted."""
    votes: int = Field(default=400, ge=10)
    """Votes before the promotion, and after it, that are compared at the most."""
    harm: float = Field(default=0.05, gt=0, lt=1)
    """Probability of rolling back a version that does no harm, over its whole watch."""
    cooldown_minutes: float = Field(default=60.0, ge=0)
    """After an automatic rollback no iteration starts by itself for this long."""
    votes_per_person: int = Field(default=20, ge=1)
    """Votes of one person that count on either side; with fewer than ten people who vote, ten times as many, shared
    among them. Harm takes three people, or all where fewer vote. Of answers ten times as many count in every hour."""
    length_margin: float = Field(default=1.5, ge=1)
    """Answers are too long when most are longer than this many times those before the promotion."""
