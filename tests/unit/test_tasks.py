"""Background tasks: the end of one is never lost without a log line and a count."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import NoReturn

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from tracker.tasks import BackgroundTasks


async def fail() -> NoReturn:
    raise OSError("the disk is gone")


async def succeed() -> int:
    return 1


@pytest.fixture
def log() -> Iterator[list[EventDict]]:
    """Return the list to which each log event is appended."""
    with capture_logs() as events:
        yield events


async def test_a_task_that_raises_is_logged_and_counted(log: list[EventDict]) -> None:
    tasks = BackgroundTasks()
    tasks.start("watch", fail())
    await tasks.wait(1)
    (event,) = log
    assert (event["event"], event["log_level"], event["task"]) == ("background_task_failed", "error", "watch")
    assert isinstance(event["exc_info"], OSError), "for the traceback"
    assert tasks.failures == {"watch": 1}
    assert len(tasks) == 0


async def test_an_endless_task_that_returns_has_failed(log: list[EventDict]) -> None:
    tasks = BackgroundTasks()
    tasks.start("sweep", succeed(), endless=True)
    await tasks.wait(1)
    assert [event["task"] for event in log] == ["sweep"]
    assert tasks.failures == {"sweep": 1}


async def test_a_task_that_returns_has_not_failed(log: list[EventDict]) -> None:
    tasks = BackgroundTasks()
    task = tasks.start("resolve", succeed())
    assert task.get_name() == "resolve"
    assert len(tasks) == 1
    assert await task == 1
    await asyncio.sleep(0)
    assert (len(tasks), tasks.failures.total(), log) == (0, 0, [])


async def test_a_repeated_function_that_raises_is_called_again(log: list[EventDict]) -> None:
    tasks = BackgroundTasks()
    called = asyncio.Event()

    async def fail_once() -> None:
        if tasks.failures.total():
            called.set()
        else:
            raise OSError("the disk is gone")

    tasks.repeat("sweep", 0.0, fail_once)
    await asyncio.wait_for(called.wait(), 10)
    await tasks.stop()
    assert [event["task"] for event in log] == ["sweep"]
    assert tasks.failures == {"sweep": 1}


async def test_stop_cancels_tasks_and_waits_until_they_have_cleaned_up(log: list[EventDict]) -> None:
    tasks = BackgroundTasks()
    steps: list[str] = []

    async def run() -> None:
        try:
            steps.append("started")
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("cleaned up")

    tasks.start("endless", run(), endless=True)
    await asyncio.sleep(0)
    await tasks.stop()
    assert steps == ["started", "cleaned up"]
    assert (len(tasks), tasks.failures.total(), log) == (0, 0, []), "a cancelled task has not failed"


async def test_a_task_that_fails_when_it_is_cancelled_does_not_keep_the_others(log: list[EventDict]) -> None:
    tasks = BackgroundTasks()

    async def stumble() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("cannot save")

    tasks.start("cache", stumble(), endless=True)
    other = tasks.start("other", asyncio.sleep(60))
    await asyncio.sleep(0)
    await tasks.stop()
    assert other.cancelled()
    assert +tasks.failures == {"cache": 1}
    assert [event["task"] for event in log] == ["cache"]


async def test_waiting_has_a_limit_and_cancels_nothing() -> None:
    tasks = BackgroundTasks()
    done = asyncio.Event()
    task = tasks.start("slow", done.wait())
    await tasks.wait(0)
    assert not task.done()
    done.set()
    await tasks.wait(1)
    assert task.done()
    await tasks.wait(1)  # Of no task: returns at once.


async def test_owners_can_share_one_count(log: list[EventDict]) -> None:
    failures: Counter[str] = Counter()
    for tasks in (BackgroundTasks(failures), BackgroundTasks(failures)):
        tasks.start("watch", fail())
        await tasks.wait(1)
    assert failures == {"watch": 2}
    assert len(log) == 2


async def test_stopping_has_a_limit_and_tells_whether_all_tasks_have_ended() -> None:
    tasks = BackgroundTasks()
    released = asyncio.Event()

    async def cling() -> None:
        while not released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await released.wait()

    tasks.start("cling", cling())
    await asyncio.sleep(0)
    assert not await tasks.stop(0.01)
    released.set()
    assert await tasks.stop(10)
