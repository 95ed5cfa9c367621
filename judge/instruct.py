"""Questions the model writes itself, in the manner of people's, where people asked too few.

Self-Instruct (arXiv 2212.10560) as Self-Rewarding (2401.10020) uses it: a few real questions are shown, one more is
asked for, and it is kept only if it is new: ROUGE-L below 0.7 against every question there is.

What is shown was written by people, so a written question may be steered by one of them. It only ever becomes a
prompt that the judge's pairs answer; it is never an answer and never an instruction to the judge.

Left out: telling classification from other tasks, as the paper does; chat questions are all open.
"""

import asyncio
import random
import re
from collections.abc import Sequence
from dataclasses import replace

from judge.candidates import answer, derived_seed, together
from judge.defence import clean, shorten
from judge.prompts import words
from policies.engine import Engine
from store.errors import Invalid
from store.records import Message, Role, Sampling

#: Real questions shown for each new one, at the least and at the most.
FEWEST_SHOWN, MOST_SHOWN = 6, 8
#: Characters of a shown question: enough to see its manner.
SHOWN_CHARACTERS = 300
#: A new question, in words and in characters.
FEWEST_WORDS, MOST_WORDS, MOST_CHARACTERS = 3, 80, 500
#: Words of a known text that novelty is held against: pasted documents are no questions.
MOST_COMPARED = 2 * MOST_WORDS
#: ROUGE-L F1 from which a question counts as one there is already (2212.10560).
NOVEL = 0.7
#: Attempts for each question wanted; after that there are fewer.
ATTEMPTS = 4
#: Attempts at once.
WAVE = 4
SAMPLING = Sampling(max_tokens=80, temperature=1.0, top_p=0.95)

#: What models put before the question itself: a number, a bullet, a label, quotes, bold.
LEAD = re.compile(
    r"^(?:[\s\"'“”‘’*_`#>•-]+|\(?\d{1,3}[.):]\s*"
    r"|(?:new\s+|next\s+)?(?:question|request|prompt|task|instruction|user)\s*(?:#?\s*\d{1,3})?\s*[:.]\s*)",
    re.IGNORECASE,
)


async def write_prompts(
    engine: Engine,
    seeds: Sequence[str],
    *,
    count: int,
    adapter: str | None,
    seed: int,
    known: Sequence[str] = (),
) -> list[str]:
    """At most `count` new questions; fewer when the model writes too few good ones, none without enough seeds.

    Args:
        engine: with `adapter` resident.
        seeds: questions people asked (train side, their last messages); at least `FEWEST_SHOWN`.
        count: how many are wanted.
        adapter: who writes; None is base.
        seed: same seed, same questions, on an engine that repeats itself.
        known: further questions that are not new, those of the never-train slice among them.
    """
    written: list[str] = []
    if len(seeds) < FEWEST_SHOWN:
        return written
    there = [words(text)[:MOST_COMPARED] for text in (*seeds, *known)]
    for first in range(0, ATTEMPTS * count, WAVE):
        wave = [_attempt(engine, seeds, adapter, seed=derived_seed(seed, first + n)) for n in range(WAVE)]
        for text in await together(wave):
            if len(written) == count or not is_question(text):
                continue
            # On a thread: thousands of known questions are a third of a second, in which chat would stand still.
            if await asyncio.to_thread(is_novel, text, there):
                written.append(text)
                there.append(words(text))
        if len(written) >= count:
            break
    return written


async def _attempt(engine: Engine, seeds: Sequence[str], adapter: str | None, *, seed: int) -> str:
    messages = few_shot(seeds, seed=seed)
    try:
        choice, _ = await answer(engine, messages, replace(SAMPLING, seed=seed), adapter=adapter)
    except Invalid:
        # The questions drawn do not fit into the context; others may.
        return ""
    # Out of tokens, the last line is the beginning of a question.
    return tidy(choice.text if choice.finish_reason == "stop" else choice.text.rpartition("\n")[0])


def few_shot(seeds: Sequence[str], *, seed: int) -> list[Message]:
    """The request for one more question after six to eight drawn ones, each on a line."""
    draw = random.Random(seed)
    shown = draw.sample(list(seeds), min(len(seeds), draw.randint(FEWEST_SHOWN, MOST_SHOWN)))
    lines = [
        f"{number}. {shorten(' '.join(clean(text).split()), SHOWN_CHARACTERS)}"
        for number, text in enumerate(shown, 1)
    ]
    text = (
        "Here are messages that people sent to an assistant:\n\n"
        + "\n".join(lines)
        + "\n\nWrite one more message that such a person could send: another subject, the same manner, complete in "
        "itself. Do not answer any of them. Reply with the new message alone, on one line."
    )
    return [Message(Role.USER, text)]


def tidy(text: str) -> str:
    """The question in a reply: its first line that is no announcement, without number, label and quotes."""
    for line in clean(text).splitlines():
        bare = line.strip()
        while (shorter := LEAD.sub("", bare, count=1)) != bare:
            bare = shorter
        bare = bare.rstrip(" \"'“”‘’*_`")
        if len(words(bare)) >= FEWEST_WORDS and not bare.endswith(":"):
            return bare
    return ""


def is_question(text: str) -> bool:
    """Whether a text has the size of a question, ended, and is made of words."""
    found = words(text)
    if not FEWEST_WORDS <= len(found) <= MOST_WORDS or len(text) > MOST_CHARACTERS:
        return False
    return len(set(found)) > len(found) // 3  # a model that repeats itself has lost the thread


def is_novel(text: str, there: Sequence[Sequence[str]]) -> bool:
    """Whether no known question (as words) is as close as `NOVEL`."""
    own = words(text)
    return all(rouge_l(own, other) < NOVEL for other in there)


def rouge_l(one: Sequence[str], other: Sequence[str]) -> float:
    """F1 of the longest common subsequence of words, 0..1 (Lin 2004)."""
    total = len(one) + len(other)
    return 2 * common_subsequence(one, other) / total if total else 1.0


def common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the table at a time as bits (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for place, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(one)) - 1
    row = full
    for word in other:
        met = row & places.get(word, 0)
        row = ((row + met) | (row - met)) & full
    return len(one) - row.bit_count()
