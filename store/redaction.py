"""Obvious secrets in what people write: found by their form, and named instead of kept. Pure.

What is served is not touched, only what is stored for learning. It is a net with holes: a name, a diagnosis, a
password in a sentence have no form to go by.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from store.records import Message

#: An address as people write it; the local part starts after something that no address has.
EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}(?![\w-])")
#: Keys whose makers gave them a form: OpenAI and its like, GitHub, GitLab, Slack, AWS, Google, Stripe, Hugging Face,
#: JSON web tokens; and PEM private keys, whole.
KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|(?<![A-Za-z0-9])(?:"
    r"sk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[A-Za-z0-9_-]{35}"
    r"|[rs]k_(?:live|test)_[A-Za-z0-9]{16,}|hf_[A-Za-z0-9]{20,}"
    r"|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
    r")(?![A-Za-z0-9])",
    re.DOTALL,
)
#: 13 to 19 digits, together or in the groups that stand on cards (4-4-4-4, 4-6-5, 4-6-4); a payment card where they
#: check. The first is a payment industry's (ISO/IEC 7812-1): times in milliseconds begin with 1.
DIGITS = re.compile(
    r"(?<![\w.-])(?:[2-6]\d{12,18}|[2-6]\d{3}(?:[ -]\d{4}){3}|3\d{3}[ -]\d{6}[ -]\d{4,5})"
    r"(?![\w-]|\.\d)"
)


def luhn(digits: str) -> bool:
    """Whether the check digit of a card number is right (ISO/IEC 7812-1, annex B)."""
    doubled = (int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits)))
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def is_card(text: str) -> bool:
    """Thirteen to nineteen digits that check, and are not one digit over and over."""
    digits = re.sub(r"\D", "", text)
    return len(set(digits)) > 1 and digits[0] != "0" and luhn(digits)


@dataclass(frozen=True)
class Rule:
    """What matches `pattern` and is one, by `check`, becomes its name in brackets."""

    name: str
    pattern: re.Pattern[str]
    check: Callable[[str], bool] = bool

    def named(self, found: re.Match[str]) -> str:
        return f"[{self.name}]" if self.check(found[0]) else found[0]


KINDS: Mapping[str, Rule] = {
    "key": Rule("key", KEY),
    "card": Rule("card", DIGITS, is_card),
    "email": Rule("email", EMAIL),
}


@dataclass(frozen=True)
class Redactor:
    """`rules`: what is looked for, in this order."""

    rules: tuple[Rule, ...] = ()

    @classmethod
    def of(cls, kinds: Iterable[str], patterns: Sequence[str] = ()) -> "Redactor":
        """
        Args:
            kinds: of `KINDS`.
            patterns: regular expressions of one's own, looked for first.

        Raises:
            re.error: a pattern is none.
        """
        own = tuple(Rule("redacted", re.compile(pattern)) for pattern in patterns)
        return cls(own + tuple(KINDS[kind] for kind in kinds))

    def text(self, text: str) -> str:
        """The text with "[email]" and the like in the place of what was found. Twice is once."""
        for rule in self.rules:
            text = rule.pattern.sub(rule.named, text)
        return text

    def value(self, value: Any) -> Any:
        """Every string of a JSON value, keys aside."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self.value(inner) for key, inner in value.items()}
        return [self.value(each) for each in value] if isinstance(value, list | tuple) else value

    def messages(self, messages: Iterable[Message]) -> tuple[Message, ...]:
        return tuple(Message(message.role, self.text(message.content)) for message in messages)
