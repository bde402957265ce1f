"""Turns of lookups on an event loop: they are given out, used, given back, and survive cancellation."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from extensions.dht.krpc.schedule import FEW, Job, LookupLimits, Priority
from extensions.dht.krpc.scheduler import Scheduler
from tests.client import eventually

ONE_AT_A_TIME = LookupLimits(1, 1e9, 1e9)


class Setting:
    """A scheduler, its clock, and the jobs that have begun."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.may_begin = True
        self.begun: list[bytes] = []
        self.jobs: list[Job] = []
        self.scheduler = Scheduler(ONE_AT_A_TIME, lambda: self.may_begin, lambda: self.now)

    def schedule(self, info_hash: bytes, due: float = 0.0, priority: Priority = Priority.REFRESHED) -> None:
        self.scheduler.schedule(info_hash, due, priority, self._begin)

    async def use(self, job: Job) -> None:
        """Run one lookup of a job."""
        async with self.scheduler.turn(job):
            pass

    def _begin(self, info_hash: bytes, job: Job) -> None:
        self.begun.append(info_hash)
        self.jobs.append(job)


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    """One turn at a time, and a clock that stands still."""
    setting = Setting()
    yield setting
    setting.scheduler.close()


async def turns() -> None:
    """Let the event loop run for some iterations."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_job_begins_with_a_turn_that_its_first_lookup_uses(setting: Setting) -> None:
    setting.schedule(b"a")
    setting.schedule(b"b")
    await turns()
    assert (setting.begun, setting.scheduler.running, setting.scheduler.overdue) == ([b"a"], 1, 1)
    await setting.use(setting.jobs[0])
    await turns()
    assert (setting.begun, setting.scheduler.overdue) == ([b"a", b"b"], 0)


async def test_a_second_lookup_of_a_job_waits_for_another_turn(setting: Setting) -> None:
    setting.schedule(b"a")
    await turns()
    (job,) = setting.jobs
    async with setting.scheduler.turn(job):
        second = asyncio.ensure_future(setting.use(job))
        await turns()
        assert setting.scheduler.lookups_waiting == 1
    await second
    assert (setting.scheduler.lookups_waiting, setting.scheduler.running) == (0, 0)


async def test_a_turn_that_a_job_does_not_use_is_for_another(setting: Setting) -> None:
    setting.schedule(b"a")
    setting.schedule(b"b")
    await turns()
    for _ in range(2):
        # The second call has no effect.
        setting.scheduler.release(setting.jobs[0])
    await turns()
    assert (setting.begun, setting.scheduler.running) == ([b"a", b"b"], 1)


async def test_a_job_begins_when_it_is_due(setting: Setting) -> None:
    setting.schedule(b"a", setting.now + 0.03)
    await turns()
    assert setting.begun == []
    setting.now += 0.03
    # Without any call: the timer alone does it.
    await eventually(lambda: setting.begun == [b"a"])


async def test_a_job_can_be_cancelled_and_postponed(setting: Setting) -> None:
    setting.schedule(b"a")
    setting.schedule(b"b")
    setting.schedule(b"c")
    setting.scheduler.cancel(b"a")
    setting.scheduler.cancel(b"z")
    setting.schedule(b"b", setting.now + 1e6)
    await turns()
    assert setting.begun == [b"c"]


async def test_many_infohashes_have_more_turns_at_a_time(setting: Setting) -> None:
    for number in range(5):
        setting.schedule(bytes([number]))
    await turns()
    assert setting.scheduler.running == 1
    setting.scheduler.fit(3 * FEW)
    await turns()
    assert setting.scheduler.running == 3


async def test_no_job_begins_while_none_may_but_lookups_go_on(setting: Setting) -> None:
    setting.may_begin = False
    setting.schedule(b"a")
    await setting.use(Job())
    await turns()
    assert (setting.begun, setting.scheduler.overdue) == ([], 1)
    setting.may_begin = True
    setting.scheduler.wake()
    await turns()
    assert setting.begun == [b"a"]


async def test_lookups_that_are_cancelled_while_they_wait_cost_no_turn(setting: Setting) -> None:
    async with setting.scheduler.turn(Job()):
        waiting = [asyncio.ensure_future(setting.use(Job())) for _ in range(5)]
        await turns()
        assert setting.scheduler.lookups_waiting == 5
        for one in waiting:
            one.cancel()
        await asyncio.wait(waiting)
        assert setting.scheduler.lookups_waiting == 0
    assert setting.scheduler.running == 0
    await asyncio.wait_for(setting.use(Job()), 5)


@pytest.mark.parametrize("steps", range(6))
async def test_a_lookup_that_is_cancelled_at_any_moment_keeps_no_turn(setting: Setting, steps: int) -> None:
    first, second = asyncio.ensure_future(setting.use(Job())), asyncio.ensure_future(setting.use(Job()))
    for _ in range(steps):
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    await asyncio.wait_for(second, 5)
    assert (setting.scheduler.running, setting.scheduler.lookups_waiting) == (0, 0)


async def test_a_job_that_fails_to_begin_is_logged_and_the_next_begins(setting: Setting) -> None:
    def fail(_hash: bytes, _job: Job) -> None:
        raise LookupError

    setting.scheduler.schedule(b"a", 0.0, Priority.REFRESHED, fail)
    setting.schedule(b"b", 1.0)
    with capture_logs() as logs:
        await turns()
    assert (setting.begun, setting.scheduler.running) == ([b"b"], 1)
    assert [line["event"] for line in logs] == ["dht_agenda_failed"]


async def test_after_the_end_no_job_begins(setting: Setting) -> None:
    setting.schedule(b"a")
    setting.scheduler.close()
    setting.schedule(b"b")
    await turns()
    assert setting.begun == []
