"""Simulated people: prompts they ask, and hidden tastes that a rule can check.

A taste must be one the base model meets now and then (10-40%), so that both kinds of vote exist on its own
answers; otherwise there is nothing on-policy to prefer.
"""

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources

from store.errors import Invalid


@dataclass(frozen=True, slots=True)
class Taste:
    """What a simulated person likes: a rule, the system prompt they chat under, and how long answers may get."""

    name: str
    likes: Callable[[str], bool]
    system: str | None = None
    max_tokens: int = 64


@dataclass(frozen=True, slots=True)
class Prompts:
    """`never_asked` are for measuring only: no simulated person ever asks them in a vote."""

    asked: tuple[str, ...]
    never_asked: tuple[str, ...]


BULLET = re.compile(r"^\s*(?:[-*\u2022]|\d+[.)])\s+\S", re.MULTILINE)
SENTENCE_END = re.compile(r"[.!?](?:\s|$)")


def has_list(text: str) -> bool:
    """At least one bullet or numbered line."""
    return BULLET.search(text) is not None


def short_first_sentence(text: str) -> bool:
    """The first sentence has at most twelve words."""
    first = SENTENCE_END.split(text.strip(), maxsplit=1)[0]
    return 0 < len(first.split()) <= 12


def brief(text: str) -> bool:
    """At most forty words."""
    return 0 < len(text.split()) <= 40


TASTES = {
    "list": Taste("list", has_list),
    "short-first": Taste("short-first", short_first_sentence),
    "brief": Taste(
        "brief", brief, "You are a helpful assistant. Answer in one or two short sentences.", max_tokens=96
    ),
}


def taste(name: str) -> Taste:
    """The taste of that name.

    Raises:
        Invalid: there is none.
    """
    if name not in TASTES:
        raise Invalid(f"taste {name!r} is unknown; one of {', '.join(TASTES)}", param="taste")
    return TASTES[name]


def prompts() -> Prompts:
    """The prompts that ship with honed."""
    text = resources.files("daemon").joinpath("simulated_prompts.json").read_text(encoding="utf-8")
    table = json.loads(text)
    return Prompts(tuple(table["asked"]), tuple(table["never_asked"]))


def vote(likes: bool, *, noise: float, rng: random.Random) -> bool:
    """What they press: what they think, but for a share of slips."""
    return likes != (rng.random() < noise)
