"""Background tasks under supervision: one that fails is logged and counted, never lost without a word."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog


class BackgroundTasks:
    """The background tasks of one owner, by name.

    A task that raises, or an endless one that returns, is logged as `background_task_failed` and counted in `failures`
    under its name.
    """

    def __init__(self, failures: Counter[str] | None = None) -> None:
        self.failures: Counter[str] = Counter() if failures is None else failures
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, name: str, coroutine: Coroutine[Any, Any, Any], *, endless: bool = False) -> asyncio.Task[Any]:
        """Run a coroutine in the background. `endless`: it is expected to run until it is cancelled."""
        # A counter that first appears with its first failure hides that failure from Prometheus' `increase`.
        self.failures.setdefault(name, 0)
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._on_done(done, name, endless))
        return task

    def repeat(self, name: str, period: float, function: Callable[[], Awaitable[None]]) -> asyncio.Task[Any]:
        """Call a function every `period` seconds. If it raises, the failure is counted and the repetition goes on."""
        return self.start(name, self._repeat(name, period, function), endless=True)

    async def wait(self, timeout: float | None) -> None:  # noqa: ASYNC109
        """Wait until all tasks have ended, for at most `timeout` seconds unless it is None."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)

    async def stop(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """Cancel all tasks and wait for their end, for at most `timeout` seconds; return whether all have ended."""
        for task in self._tasks:
            task.cancel()
        await self.wait(timeout)
        return not self._tasks

    async def _repeat(self, name: str, period: float, function: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(period)
            try:
                await function()
            except Exception as error:
                self._on_failure(name, error)

    def _on_failure(self, name: str, error: BaseException | None) -> None:
        self.failures[name] += 1
        structlog.get_logger().error("background_task_failed", task=name, exc_info=error)

    def _on_done(self, task: asyncio.Task[Any], name: str, endless: bool) -> None:
        self._tasks.pop(task, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None or endless:
            self._on_failure(name, error)
