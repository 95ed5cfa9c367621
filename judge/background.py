"""What an iteration's evidence is held against, so that nobody steers alone and nothing weighs what it should not."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from judge.signals import Worth


@dataclass(frozen=True, slots=True)
class Background:
    """What `judge.vetting` found.

    `held`: events that do not count, and why ("daily_limit", "unreliable"). `worth`: what the votes of some count,
    0..1; of the others in full. `private`: runs of words that are one person's, or a few people's, only. `alone`:
    one person said everything, and there is nobody else to be steered. `propensity`: what is said of an answer
    weighs, by completion id; 1 of the others. `signals`: what weak signals are worth here; None as configured.
    """

    held: Mapping[str, str] = field(default_factory=dict)
    worth: Mapping[str, float] = field(default_factory=dict)
    private: frozenset[str] = frozenset()
    alone: bool = False
    propensity: Mapping[str, float] = field(default_factory=dict)
    signals: Worth | None = None

    @property
    def fitted(self) -> dict[str, dict[str, float]]:
        """Weak signals whose weight is not the configured one: signal -> `weight`, and `seen` opinions behind it."""
        if self.signals is None:
            return {}
        return {
            name: {"weight": getattr(self.signals.signals, name), "seen": seen}
            for name, seen in self.signals.seen.items()
        }


#: Nothing known: everybody counts in full.
NOTHING = Background()
