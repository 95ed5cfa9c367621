"""What an iteration's evidence is held against, so that nobody steers alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Background:
    """What `judge.vetting` found.

    `held`: events that do not count, and why ("daily_limit", "unreliable"). `worth`: what the votes of some count,
    0..1; of the others in full. `private`: runs of words that are one person's, or a few people's, only. `alone`:
    one person said everything, and there is nobody else to be steered.
    """

    held: Mapping[str, str] = field(default_factory=dict)
    worth: Mapping[str, float] = field(default_factory=dict)
    private: frozenset[str] = frozenset()
    alone: bool = False


#: Nothing known: everybody counts in full.
NOTHING = Background()
