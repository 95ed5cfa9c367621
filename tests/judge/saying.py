"""A fake engine that says what a test tells it to."""

from collections.abc import Callable, Sequence

from policies.engine import Delta, Priority, Usage
from policies.fake_engine import FakeEngine
from policies.streams import DeltaStream
from store.errors import EngineBusy
from store.records import Message, Sampling


class SayingEngine(FakeEngine):
    """Answers with `say(messages)`; refuses with `EngineBusy` as many times as `busy` says, before that."""

    def __init__(
        self, say: Callable[[Sequence[Message]], str], *, busy: int = 0, finish: str = "stop"
    ) -> None:
        super().__init__()
        self._say = say
        self.busy = busy
        self._finish = finish
        self.asked: list[Sequence[Message]] = []
        self.seeds: list[int | None] = []
        self.priorities: set[Priority] = set()

    async def generate(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        adapter: str | None,
        priority: Priority = Priority.CHAT,
    ) -> DeltaStream:
        if self.busy:
            self.busy -= 1
            raise EngineBusy("full", retry_after=2.0)
        self.asked.append(messages)
        self.seeds.append(sampling.seed)
        self.priorities.add(priority)
        stream = DeltaStream(lambda: None)
        stream.put(Delta(self._say(messages), finish_reason=self._finish, usage=Usage(5, 3)))
        return stream
