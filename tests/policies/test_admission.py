"""Rows are given to people first, and none is ever lost."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from policies.admission import Admission
from policies.engine import Priority
from store.errors import EngineBusy

CHAT, BACKGROUND = Priority.CHAT, Priority.BACKGROUND


def run(scene: Callable[[Admission], Awaitable[None]], *, rows: int = 4, queue: int = 2) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(5):
            await scene(Admission(rows, queue))

    asyncio.run(bounded())


def test_a_priority_is_refused_when_its_rows_and_queue_are_taken() -> None:
    async def scene(admission: Admission) -> None:
        for _ in range(6):
            admission.count_in(CHAT)
        with pytest.raises(EngineBusy, match="policies.engine.max_queue"):
            admission.count_in(CHAT)
        admission.count_in(BACKGROUND)
        admission.count_out(CHAT)
        admission.count_in(CHAT)

    run(scene)


def test_background_work_leaves_a_row_for_people() -> None:
    async def scene(admission: Admission) -> None:
        async with AsyncExitStack() as held:
            for _ in range(3):
                await held.enter_async_context(admission.row(BACKGROUND))
            fourth = asyncio.create_task(held.enter_async_context(admission.row(BACKGROUND)))
            await asyncio.sleep(0.01)
            assert not fourth.done()
            async with admission.row(CHAT):
                assert admission.running == 4
            fourth.cancel()

    run(scene)


def test_a_chat_that_came_later_goes_first() -> None:
    async def scene(admission: Admission) -> None:
        order: list[str] = []

        async def work(name: str, priority: Priority) -> None:
            async with admission.row(priority):
                order.append(name)

        async with admission.row(CHAT):
            tasks = [asyncio.create_task(work("background", BACKGROUND))]
            await asyncio.sleep(0.01)
            tasks.append(asyncio.create_task(work("chat", CHAT)))
            await asyncio.sleep(0.01)
            assert order == []
        await asyncio.gather(*tasks)
        assert order == ["chat", "background"]

    run(scene, rows=1)


@pytest.mark.parametrize("late", [False, True], ids=["while it waits", "as its turn comes"])
def test_one_who_leaves_the_queue_keeps_no_row(late: bool) -> None:
    async def scene(admission: Admission) -> None:
        async def wait() -> None:
            async with admission.row(CHAT):
                await asyncio.sleep(60)

        async with AsyncExitStack() as held:
            await held.enter_async_context(admission.row(CHAT))
            waiting = asyncio.create_task(wait())
            await asyncio.sleep(0.01)
            if late:
                await held.aclose()
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        assert admission.running == 0
        async with admission.row(CHAT):
            pass

    run(scene, rows=1)


def test_more_servers_mean_more_rows_at_once() -> None:
    async def scene(admission: Admission) -> None:
        async with admission.row(CHAT):
            second = asyncio.create_task(asyncio.wait_for(_enter(admission), 5))
            await asyncio.sleep(0.01)
            assert not second.done()
            admission.resize(2)
            await second

    async def _enter(admission: Admission) -> None:
        async with admission.row(CHAT):
            pass

    run(scene, rows=1)
