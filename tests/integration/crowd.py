"""People who stream answers all the time, each to a question of their own, and remember everything they got."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from openai import OpenAI


@dataclass(frozen=True)
class Answer:
    """What one stream said, and which version said so in each of its chunks."""

    question: str
    models: frozenset[str]
    text: str


class Crowd:
    """For the length of a block, one thread per question asks it greedily, over and over."""

    def __init__(self, url: str, questions: Sequence[str], *, tokens: int) -> None:
        self.url, self.tokens = url, tokens
        self.answers: list[Answer] = []
        self.failures: list[Exception] = []
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(question,)) for question in questions]

    def _ask(self, question: str) -> None:
        with OpenAI(base_url=f"{self.url}/v1", api_key=question, max_retries=0, timeout=300) as person:
            while not self._stopped.is_set():
                try:
                    self.answers.append(stream(person, question, tokens=self.tokens))
                except Exception as error:  # remembered, and asserted on by the test
                    self.failures.append(error)
                    self._stopped.wait(0.2)

    def models(self) -> set[str]:
        return {model for answer in list(self.answers) for model in answer.models}

    def __enter__(self) -> "Crowd":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


def stream(person: OpenAI, question: str, *, tokens: int, model: str = "honed") -> Answer:
    """One streamed greedy answer."""
    chunks = list(
        person.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            max_tokens=tokens,
            temperature=0,
            stream=True,
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return Answer(question, frozenset(chunk.model for chunk in chunks), text)
