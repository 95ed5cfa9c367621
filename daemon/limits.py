"""`[daemon.gate]`: the limits a candidate is held against."""

import itertools
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from daemon.section import Section


class GateConfig(Section):
    """`[daemon.gate]`: limits a candidate must keep. A soft limit warns; a hard one rejects. KL in nats/token."""

    kl_step_soft: float = Field(default=0.15, gt=0)
    """KL of the candidate to the incumbent; training stops early when it reaches this on watched answers."""
    kl_step_hard: float = Field(default=0.30, gt=0)
    """Above this at every scale, the candidate is rejected."""
    kl_base_soft: float = Field(default=0.25, gt=0)
    """Cumulative KL to the frozen base; training stops early at this too."""
    kl_base_hard: float = Field(default=0.45, gt=0)
    """The cumulative budget; a candidate over it is rejected."""
    scales: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    """Adapter scales tried in turn while a hard KL limit is exceeded; must begin with 1."""
    repetition_soft: float = Field(default=0.10, ge=0)
    """Rise in the share of repeated 4-grams over the incumbent's."""
    repetition_hard: float = Field(default=0.25, ge=0)
    """The same, rejecting."""
    repetition_max: float = Field(default=0.45, ge=0, le=1)
    """Largest share of repeated 4-grams at all: small rises in every iteration must not add up."""
    empty_hard: float = Field(default=0.10, ge=0, le=1)
    """Largest share of empty answers."""
    length_ratio_soft: tuple[float, float] = (0.4, 2.0)
    """Mean answer length against the incumbent's: outside warns."""
    length_ratio_hard: tuple[float, float] = (0.15, 4.0)
    """The same, rejecting."""
    entropy_ratio_soft: float = Field(default=0.6, ge=0, le=1)
    """Token entropy against the incumbent's: lower warns (diversity is being lost)."""
    entropy_ratio_hard: float = Field(default=0.25, ge=0, le=1)
    """The same, rejecting."""
    winner_dlogp_soft: float = Field(default=-0.1, le=0)
    """Mean change of liked answers' log-probability, nats/token: lower warns (likelihood displacement)."""
    winner_dlogp_hard: float = Field(default=-0.5, le=0)
    """The same, rejecting."""
    heldout_min: int = Field(default=5, ge=1)
    """Never-train answers needed on each side (liked, disliked) before agreement is measured."""
    heldout_floor: float = Field(default=0.30, ge=0, le=1)
    """Lower 90% bound of the AUC of log-probability changes on never-train answers: lower is too uncertain."""
    heldout_required: bool = False
    """Whether too few never-train answers make a candidate inconclusive. Turn on once there are many users."""
    on_soft: Literal["promote", "hold"] = "promote"
    """What a soft breach does."""
    on_inconclusive: Literal["hold", "reject"] = "hold"
    """What too little or too uncertain evidence does; held candidates wait for `honed promote`."""
    attestation_tolerance: float = Field(default=0.01, gt=0)
    """Mean absolute gap in log-probability (nats/token) allowed between engine and trainer."""

    @model_validator(mode="after")
    def _soft_before_hard(self) -> Self:
        for name in ("kl_step", "kl_base", "repetition"):
            soft, hard = getattr(self, f"{name}_soft"), getattr(self, f"{name}_hard")
            if soft > hard:
                raise ValueError(
                    f"{name}_soft {soft:g} is above {name}_hard {hard:g}; the soft limit comes first"
                )
        (low, high), (hard_low, hard_high) = self.length_ratio_soft, self.length_ratio_hard
        if not 0 <= hard_low <= low < high <= hard_high:
            raise ValueError("length_ratio_soft must be a rising pair inside length_ratio_hard")
        for name in ("entropy_ratio", "winner_dlogp"):
            if getattr(self, f"{name}_soft") < getattr(self, f"{name}_hard"):
                raise ValueError(f"{name}_soft is below {name}_hard; the soft limit comes first")
        return self

    @field_validator("scales")
    @classmethod
    def _falling(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        falling = all(a > b > 0 for a, b in itertools.pairwise(value))
        if not value or value[0] != 1.0 or not falling:
            raise ValueError("must begin with 1.0 and fall, all above 0")
        return value
