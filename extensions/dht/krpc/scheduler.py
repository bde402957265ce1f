"""Runs the schedule of lookups on the event loop: the one place that decides which lookup runs next, and when."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import Final

import structlog

from extensions.dht.krpc.schedule import DueQueue, Job, LookupLimits, Priority

MIN_WAIT: Final = 0.001
"""Seconds; a timer of the loop is no more precise."""

Begin = Callable[[bytes, Job], None]
"""Begins the job of an infohash. The job has a turn, which its first lookup uses."""


class Scheduler:
    """Gives turns to lookups. An infohash can be scheduled for a time; its job begins when it gets its first turn.

    See `DueQueue` for the order and the limits. `may_begin` tells whether scheduled jobs may begin; lookups of jobs
    that have begun do not depend on it. `monotonic` gives the seconds of a clock that cannot be set back.
    """

    def __init__(
        self,
        limits: LookupLimits = LookupLimits(),  # noqa: B008  (frozen)
        may_begin: Callable[[], bool] = lambda: True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._queue: DueQueue[bytes | asyncio.Future[None]] = DueQueue(limits)
        self._begin: dict[bytes, Begin] = {}
        self._may_begin = may_begin
        self._monotonic = monotonic
        self._timer: asyncio.Handle | None = None
        self._is_woken = False
        self._is_closed = False

    @property
    def running(self) -> int:
        """Lookups under way, and jobs that are about to begin their first."""
        return self._queue.running

    @property
    def lookups_waiting(self) -> int:
        """Lookups that wait for a turn, of jobs that have begun."""
        return self._queue.lookups

    @property
    def overdue(self) -> int:
        """Scheduled jobs that are due and have not begun."""
        return self._queue.overdue(self._monotonic())

    def fit(self, infohashes: int) -> None:
        """Raise the limits for so many infohashes."""
        self._queue.limit(self._limits.raised_for(infohashes), self._monotonic())
        self.wake()

    def schedule(
        self, info_hash: bytes, due: float, priority: Priority, begin: Begin, refresh_due: float = inf
    ) -> None:
        """Have the job of an infohash begin at `due` or later, instead of when it was scheduled for so far.

        If it still waits at `refresh_due`, it then has at least the priority `REFRESHED`.
        """
        self._begin[info_hash] = begin
        self._queue.set(info_hash, Job(priority, due, refresh_due))
        self.wake()

    def cancel(self, info_hash: bytes) -> None:
        """Remove an infohash from the schedule, if it is there."""
        self._begin.pop(info_hash, None)
        self._queue.drop(info_hash)

    @asynccontextmanager
    async def turn(self, job: Job) -> AsyncIterator[None]:
        """Wait until one lookup of a job may run. The turn ends with the block."""
        await self._wait(job)
        try:
            yield
        finally:
            self._queue.done()
            self.wake()

    def release(self, job: Job) -> None:
        """Give back the turn of a job that has used it for no lookup, if it has one."""
        if job.has_turn:
            job.has_turn = False
            self._queue.give_back(self._monotonic())
            self.wake()

    def wake(self) -> None:
        """Give out the turns that are possible now, after `may_begin` or the clock has changed."""
        if not self._is_woken and not self._is_closed:
            self._is_woken = True
            self._cancel_timer()
            self._timer = asyncio.get_running_loop().call_soon(self._give_turns)

    def close(self) -> None:
        """Give out no more turns. The owner must cancel the tasks that wait for one."""
        self._is_closed = True
        self._cancel_timer()

    async def _wait(self, job: Job) -> None:
        if job.has_turn:
            job.has_turn = False
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.set(turn, job, has_begun=True)
        self.wake()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._queue.drop(turn)
            else:
                # The turn came in the moment of the cancellation.
                self._queue.give_back(self._monotonic())
            self.wake()
            raise

    def _give_turns(self) -> None:
        self._is_woken, self._timer = False, None
        now, may_begin = self._monotonic(), self._may_begin()
        while (turn := self._queue.take(now, may_begin)) is not None:
            if isinstance(turn.key, bytes):
                turn.job.has_turn = True
                self._begin_job(turn.key, turn.job)
            elif turn.key.done():
                # Its task was cancelled and has not run since.
                self._queue.give_back(now)
            else:
                turn.key.set_result(None)
        wait = self._queue.wait(now, may_begin)
        if wait is not None and not self._is_woken:
            self._timer = asyncio.get_running_loop().call_later(max(MIN_WAIT, wait), self._give_turns)

    def _begin_job(self, info_hash: bytes, job: Job) -> None:
        try:
            self._begin.pop(info_hash)(info_hash, job)
        except Exception:
            structlog.get_logger().exception("dht_agenda_failed", extension="dht")
            self.release(job)

    def _cancel_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
