"""The answers that the gate's bench has people vote on: drawn once from the real model, kept, and then read back.

A pool is a list of logged answers in one setting: everyday questions, the same under a system prompt that asks for
brevity, noise drawn at temperature 2, or what an adapter answers that an earlier case promoted.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from daemon.people import prompts, taste
from policies.engine import Engine
from store.errors import HonedError
from store.files import write_json
from store.records import Message, Sampling

#: Answers asked for at once; the engine decodes sixteen together.
AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Logged:
    """An answer as the service logs it. `ended`: the model ended its turn."""

    prompt: str
    text: str
    ended: bool
    system: str | None = None

    def messages(self) -> tuple[Message, ...]:
        head = () if self.system is None else (Message("system", self.system),)
        return (*head, Message("user", self.prompt))


@dataclass(frozen=True, slots=True)
class Setting:
    """How a pool is drawn. `samples` answers to each of the first `questions` prompts."""

    system: str | None = None
    max_tokens: int = 64
    temperature: float = 0.8
    top_p: float = 0.95
    samples: int = 1
    questions: int = 104


BRIEF = taste("brief")
#: Pools of the base model. The length of answers and the sampling are those of the demonstration's people.
SETTINGS = {
    "plain": Setting(samples=2),
    "brief": Setting(system=BRIEF.system, max_tokens=BRIEF.max_tokens, samples=2),
    "noise": Setting(max_tokens=48, temperature=2.0, top_p=1.0, questions=40),
}
#: Answers of a promoted adapter, which the next iteration's people vote on.
CONTINUED = {
    "plain": Setting(questions=40),
    "brief": Setting(system=BRIEF.system, max_tokens=BRIEF.max_tokens, questions=40),
}

Pools = dict[str, list[Logged]]


async def ask(engine: Engine, question: Logged, sampling: Sampling, adapter: str | None) -> Logged:
    """One answer. `question` is a Logged without its text."""
    stream = await engine.generate(question.messages(), sampling, adapter=adapter)
    deltas = [delta async for delta in stream]
    text, reason = "".join(delta.text for delta in deltas), deltas[-1].finish_reason
    return Logged(question.prompt, text, reason == "stop", question.system)


async def ask_all(
    engine: Engine, questions: Sequence[str], setting: Setting, *, adapter: str | None, seed: int
) -> list[Logged]:
    """Every question `samples` times, in order, some at once."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(index: int, question: str) -> Logged:
        sampling = Sampling(setting.max_tokens, setting.temperature, setting.top_p, seed=seed + index)
        async with gate:
            return await ask(engine, Logged(question, "", False, setting.system), sampling, adapter)

    asked = [question for question in questions for _ in range(setting.samples)]
    return list(await asyncio.gather(*(one(index, question) for index, question in enumerate(asked))))


async def draw(
    engine: Engine, setting: Setting, *, adapter: str | None = None, seed: int = 0
) -> list[Logged]:
    return await ask_all(engine, prompts().asked[: setting.questions], setting, adapter=adapter, seed=seed)


def keep(path: Path, answers: Sequence[Logged]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, [asdict(answer) for answer in answers])


def read(path: Path) -> list[Logged]:
    return [Logged(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


async def pool(path: Path, engine: Engine, setting: Setting, *, adapter: str | None = None) -> list[Logged]:
    """The pool kept at `path`, drawn if it is not there yet.

    Raises:
        HonedError: the model answered nothing at all.
    """
    if not path.is_file():
        answers = await draw(engine, setting, adapter=adapter)
        if not any(answer.text.strip() for answer in answers):
            raise HonedError(f"{path.stem}: the model gave empty answers only")
        keep(path, answers)
    return read(path)
