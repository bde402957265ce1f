"""Renderings of pages, which are bounded however many requests there are.

Each request is served from a rendering that has begun after the request, so that it shows all earlier events: many
requests wait for one rendering. Only while too many of them wait, further ones are served from the last rendering.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final, Generic, TypeVar

from tracker.access.ratelimit import TokenBucket

T = TypeVar("T")

RATE: Final = 20.0
BURST: Final = 50.0
"""The token bucket for the renderings of one page: per second, and at once."""

SHARE: Final = 0.05
"""The share of one CPU that the renderings of one page may take. A rendering that costs more than `SHARE / RATE`
seconds takes several tokens."""

LONGEST: Final = 1.0
"""Seconds of the token bucket's rate that one rendering takes at most. Otherwise, a page might become too old."""

MAX_WAITING: Final = 20
"""Requests that wait for the same page at a time. Each of them has an open socket."""

KEPT: Final = 3.0
"""Seconds for which a rendering serves further requests while `MAX_WAITING` of them wait."""


class Pace:
    """The token bucket for the renderings of one page, in all of its forms.

    `clock` and `cpu_clock` return seconds, the latter those that this thread has used a CPU. `sleep` waits.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.clock = clock
        self._cpu_clock = cpu_clock
        self._sleep = sleep
        self._bucket = TokenBucket(RATE, BURST, clock())

    async def wait(self) -> None:
        """Take a token, and wait until it is there."""
        seconds = self._bucket.take(1, self.clock())
        if seconds:
            await self._sleep(seconds)

    async def measured(self, rendering: Awaitable[T]) -> T:
        """Render, and charge the time. It includes that of other tasks in between, so a busy tracker renders less."""
        began = self._cpu_clock()
        try:
            return await rendering
        finally:
            tokens = (self._cpu_clock() - began) * RATE / SHARE
            self._bucket.take(max(0.0, min(tokens, RATE * LONGEST) - 1), self.clock())


class Renderings(Generic[T]):
    """The renderings of one form of a page.

    `render` makes one. A request is also served from a rendering that is younger than `max_age` seconds.
    """

    def __init__(self, pace: Pace, render: Callable[[], Awaitable[T]], max_age: float = 0.0) -> None:
        self._pace = pace
        self._render = render
        self._max_age = max_age
        self._latest: T | None = None
        self._made = -inf
        self._waiting = 0
        self._lock = asyncio.Lock()
        self._next: asyncio.Task[T] | None = None
        """The rendering that has not begun."""
        self._tasks: set[asyncio.Task[T]] = set()

    async def get(self) -> T:
        """Return a rendering. Raise the exception of `render`."""
        latest = self._younger_than(KEPT if self._waiting >= MAX_WAITING else self._max_age)
        if latest is not None:
            return latest
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._run())
            self._tasks.add(self._next)
            self._next.add_done_callback(self._on_done)
        self._waiting += 1
        try:
            # The first request may be cancelled when its client disconnects; other requests wait for the same one.
            return await asyncio.shield(self._next)
        finally:
            self._waiting -= 1

    async def _run(self) -> T:
        async with self._lock:
            latest = self._younger_than(self._max_age)
            if latest is None:
                await self._pace.wait()
            # Events after this may be missing, so later requests need another rendering.
            self._next = None
            if latest is None:
                latest = self._latest = await self._pace.measured(self._render())
                self._made = self._pace.clock()
            return latest

    def _younger_than(self, age: float) -> T | None:
        return self._latest if self._pace.clock() - self._made < age else None

    def _on_done(self, task: asyncio.Task[T]) -> None:
        self._tasks.discard(task)
        if self._next is task:
            self._next = None
        if not task.cancelled():
            # All requests may be gone, and asyncio would then complain of an exception that nobody has seen.
            task.exception()
