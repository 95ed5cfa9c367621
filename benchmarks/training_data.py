"""What the training bench learns from: the embedded model's own answers, and what a hidden taste says of them.

`training_answers.jsonl` holds four sampled answers to each of the demonstration's questions, those asked and those
never asked; drawn once from the embedded model, so that every run of the bench learns from the same data.

    python -m benchmarks.training_data        # draws them anew
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.gate_answers import Logged, Setting, ask_all
from daemon.people import has_list, prompts, vote
from policies.config import EngineConfig
from policies.engines import build_engine, resolve_base
from policies.spec import DpoExample, KtoExample, Turn
from store.files import read_jsonl, write_jsonl

FILE = Path(__file__).parent / "training_answers.jsonl"
#: How the answers were drawn, and the share of votes that slip.
SETTING = Setting(samples=4)
SEEDS = {"asked": 1000, "never_asked": 5000}
NOISE = 0.1


async def draw(state: Path) -> None:
    """Draw every answer anew from the embedded model."""
    directory, digest = resolve_base(EngineConfig(), state)
    engine = build_engine(EngineConfig(threads=1), directory, digest)
    await engine.start()
    rows = []
    for split, seed in SEEDS.items():
        questions = getattr(prompts(), split)
        answers = await ask_all(engine, questions, SETTING, adapter=None, seed=seed)
        rows += [{"split": split, **asdict(answer)} for answer in answers]
    await engine.close()
    write_jsonl(FILE, rows)


def answers(split: str) -> list[Logged]:
    """The kept answers to the questions "asked" or "never_asked"."""
    rows = [dict(row) for row in read_jsonl(FILE)]
    return [Logged(**row) for row in rows if row.pop("split") == split]


def _prompt(answer: Logged) -> list[Turn]:
    return [Turn(role=message.role, content=message.content) for message in answer.messages()]


def thumbs(found: Sequence[Logged], *, noise: float, seed: int) -> list[KtoExample]:
    """A vote on each answer, in random order."""
    rng = random.Random(f"thumbs:{seed}")
    votes = [
        KtoExample(
            id=f"v{number}",
            prompt=_prompt(answer),
            completion=answer.text,
            ended=answer.ended,
            label=vote(has_list(answer.text), noise=noise, rng=rng),
        )
        for number, answer in enumerate(found)
        if answer.text.strip()
    ]
    rng.shuffle(votes)
    return votes


def comparisons(found: Sequence[Logged], *, seed: int) -> list[DpoExample]:
    """Every liked answer against one that is not, to the same question, in random order."""
    rng = random.Random(f"comparisons:{seed}")
    pairs: list[DpoExample] = []
    for question in dict.fromkeys(answer.prompt for answer in found):
        given = [answer for answer in found if answer.prompt == question and answer.text.strip()]
        worse = [answer for answer in given if not has_list(answer.text)]
        for better in given:
            if not (has_list(better.text) and worse):
                continue
            other = rng.choice(worse)
            pairs.append(
                DpoExample(
                    id=f"c{len(pairs)}",
                    prompt=_prompt(better),
                    chosen=better.text,
                    chosen_ended=better.ended,
                    rejected=other.text,
                    rejected_ended=other.ended,
                    q=1.0,
                )
            )
    rng.shuffle(pairs)
    return pairs


if __name__ == "__main__":
    asyncio.run(draw(Path("var")))
