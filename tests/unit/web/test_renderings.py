"""Pages are rendered at most so often, and show every event before the request."""

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any

import pytest

from tracker.web.renderings import BURST, KEPT, LONGEST, MAX_WAITING, RATE, SHARE, Pace, Renderings


class Page:
    """A page that shows how often it was rendered, in a time of its own. A rendering needs `cost` seconds of CPU."""

    def __init__(self, cost: float = 0.0) -> None:
        self.now = 100.0
        self.cpu = 0.0
        self.cost = cost
        self.made = 0
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.error: Exception | None = None
        self.pace = Pace(lambda: self.now, lambda: self.cpu, self.sleep)
        self.pages = Renderings(self.pace, self.render)
        self._tasks: list[asyncio.Task[int]] = []

    async def sleep(self, seconds: float) -> None:
        """Let the time pass."""
        self.now += seconds
        await asyncio.sleep(0)

    async def render(self) -> int:
        """Return the number of this rendering."""
        self.made += 1
        number = self.made
        self.cpu += self.cost
        self.begun.set()
        await self.may_end.wait()
        if self.error:
            raise self.error
        return number

    async def ask(self) -> asyncio.Task[int]:
        """Return a request that has begun."""
        get: Coroutine[Any, Any, int] = self.pages.get()
        self._tasks.append(asyncio.create_task(get))
        await asyncio.sleep(0)
        return self._tasks[-1]

    async def hold(self) -> asyncio.Task[int]:
        """Return a request whose rendering has begun, and cannot end."""
        self.begun.clear()
        self.may_end.clear()
        first = await self.ask()
        await self.begun.wait()
        return first


async def test_each_of_several_requests_shows_the_events_before_it() -> None:
    page = Page()
    assert [await page.pages.get() for _ in range(5)] == [1, 2, 3, 4, 5]


async def test_requests_at_once_are_rendered_once() -> None:
    page = Page()
    assert await asyncio.gather(*(page.pages.get() for _ in range(MAX_WAITING))) == [1] * MAX_WAITING


async def test_a_rendering_that_had_begun_before_the_request_does_not_serve_it() -> None:
    page = Page()
    first = await page.hold()
    others = [await page.ask() for _ in range(5)]
    page.may_end.set()
    assert await first == 1
    assert await asyncio.gather(*others) == [2] * 5


async def test_requests_beyond_the_waiting_ones_get_the_last_rendering_for_a_time() -> None:
    page = Page()
    assert await page.pages.get() == 1
    first = await page.hold()
    waiting = [await page.ask() for _ in range(MAX_WAITING - 1)]
    page.now += KEPT - 0.1
    assert [await page.pages.get() for _ in range(100)] == [1] * 100
    page.now += 0.2
    late = await page.ask()
    assert not late.done()
    page.may_end.set()
    assert await first == 2
    assert await asyncio.gather(*waiting, late) == [3] * MAX_WAITING


async def test_without_any_rendering_all_requests_wait() -> None:
    page = Page()
    first = await page.hold()
    waiting = [await page.ask() for _ in range(2 * MAX_WAITING)]
    page.may_end.set()
    assert await first == 1
    assert await asyncio.gather(*waiting) == [2] * (2 * MAX_WAITING)


@pytest.mark.parametrize(
    ("cost", "tokens"),
    [
        (0.0, 1.0),
        (SHARE / RATE, 1.0),
        (4 * SHARE / RATE, 4.0),
        (SHARE * LONGEST, RATE * LONGEST),
        (100 * SHARE, RATE * LONGEST),
    ],
)
async def test_the_number_and_the_cost_of_renderings_are_bounded(cost: float, tokens: float) -> None:
    page = Page(cost)
    began = page.now
    for _ in range(200):
        await page.pages.get()
    # The last one is paid for by those that would follow.
    assert page.now - began == pytest.approx((199 * tokens + 1 - BURST) / RATE)


async def test_forms_of_a_page_share_the_budget() -> None:
    page = Page()
    other = Renderings(page.pace, page.render)
    began = page.now
    for _ in range(100):
        await page.pages.get()
        await other.get()
    assert page.now - began == pytest.approx((200 - BURST) / RATE)


async def test_a_young_rendering_serves_all_requests_if_it_may() -> None:
    page = Page()
    pages = Renderings(page.pace, page.render, max_age=1.0)
    assert [await pages.get() for _ in range(3)] == [1, 1, 1]
    page.now += 1.0
    assert await asyncio.gather(*(pages.get() for _ in range(3))) == [2, 2, 2]
    page.now += 1.0
    page.pages = pages
    first = await page.hold()
    later = await page.ask()
    page.may_end.set()
    assert (await first, await later) == (3, 3)


async def test_a_request_that_is_cancelled_disturbs_no_other() -> None:
    page = Page()
    first = await page.hold()
    second, third = await page.ask(), await page.ask()
    first.cancel()
    second.cancel()
    page.may_end.set()
    assert await third == 2
    assert await page.pages.get() == 3


async def test_a_failure_is_that_of_its_requests_alone() -> None:
    page = Page()
    first = await page.hold()
    second = await page.ask()
    page.error = RuntimeError("as told")
    page.may_end.set()
    for task in (first, second):
        with pytest.raises(RuntimeError, match="as told"):
            await task
    page.error = None
    assert await page.pages.get() == 3


async def test_a_rendering_that_is_cancelled_before_it_begins_is_not_waited_for_again() -> None:
    # Other tests' fixtures have tasks in the same loop: a browser's connection must not be cancelled.
    others = asyncio.all_tasks()
    page = Page()
    first = await page.hold()
    second = await page.ask()
    for task in asyncio.all_tasks() - {*others, first, second}:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    page.may_end.set()
    assert await page.pages.get() > 1


async def test_a_failure_that_no_request_waits_for_is_no_complaint_of_the_loop() -> None:
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    others = asyncio.all_tasks()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    try:
        page = Page()
        page.error = RuntimeError("as told")
        (await page.hold()).cancel()
        rendering = asyncio.all_tasks() - others
        page.may_end.set()
        await asyncio.wait(rendering)
        del rendering
        gc.collect()
        await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(None)
    assert complaints == []
