"""Delivers events to one extension, in a task of its own."""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from math import isnan
from time import monotonic
from typing import Any, Final

import structlog

from tracker.config import ConfigError
from tracker.core.hub import Hub
from tracker.core.swarm import Swarm
from tracker.extension.admission import FAILED, Admission, Admitted, Refusal
from tracker.extension.api import Extension, TrackerHandle
from tracker.extension.state import ExtensionOff
from tracker.reasons import DropReason

TURN: Final = 0.002
"""Seconds of the event loop that an extension gets before it yields."""

MAX_EVENTS: Final = 10_000
MAX_EVENT_BYTES: Final = 16 << 20
"""Offers and answers that wait for a slow extension; more are dropped."""

_FAILED: Final = object()


class ExtensionRunner:
    """One extension, with its task and its queue of events.

    Offers and answers wait in a bounded queue. Swarms are only marked dirty and read at delivery: openings and closings
    are never lost, changes coalesce.

    `by_terms`: the extension runs only from each `start` to the next `stop`, and hears of no events in between. Others
    are started once, and hear of earlier events then.
    """

    def __init__(
        self,
        name: str,
        extension: Extension,
        tracker: TrackerHandle,
        errors: Counter[str],
        hub: Hub,
        by_terms: bool = False,
    ) -> None:
        self.name = name
        self.by_terms = by_terms
        self.extension = extension
        self.tracker = tracker
        self.task: asyncio.Task[None] | None = None
        self._errors = errors
        self._hub = hub
        self._log = structlog.get_logger().bind(extension=name)
        self._events: deque[tuple[str, Swarm | None, tuple[Any, ...], int]] = deque()
        self._bytes = 0
        self._dirty: dict[Swarm, None] = {}
        self._open: dict[str, Swarm] = {}
        """The swarms whose opening was delivered, by infohash."""
        self._work = asyncio.Event()
        self._started = asyncio.Event()
        self._failed = False
        self._is_off = False
        """Whether it cannot run in this process at all."""
        self._is_idle = by_terms
        self._prepared: asyncio.Task[None] | None = None
        self._overridden = {
            key for key, method in vars(Extension).items() if getattr(type(extension), key) is not method
        }
        self._wants_swarms = not self._overridden.isdisjoint(("swarm_opened", "swarm_changed", "swarm_closed"))

    def wants(self, event: str) -> bool:
        """Return whether the extension overrides a method and still runs."""
        return event in self._overridden and not self._failed and not self._is_idle

    @property
    def is_active(self) -> bool:
        """Whether the extension runs, or is about to."""
        return not self._failed and not self._is_idle

    def mark(self, swarm: Swarm, closed: bool = False) -> None:
        """Mark a swarm dirty; one that closes before its opening was delivered is forgotten."""
        if not self._wants_swarms or not self.is_active:
            return
        if closed and self._open.get(swarm.info_hash) is not swarm:
            self._dirty.pop(swarm, None)
        else:
            self._dirty[swarm] = None
            self._work.set()

    def post(self, event: str, swarm: Swarm | None, *arguments: Any, size: int) -> None:
        """Queue an event of `size` bytes, behind the news of its swarm; drop it if the queue is full."""
        if len(self._events) >= MAX_EVENTS or self._bytes + size > MAX_EVENT_BYTES:
            self._hub.counters.dropped[DropReason.EXTENSION_QUEUE_FULL] += 1
            return
        self._events.append((event, swarm, arguments, size))
        self._bytes += size
        self._work.set()

    async def admit(self, request: Admission) -> Refusal | Admitted | None:
        """Return the extension's verdict on a peer, once it has started; if it has failed, the verdict is a refusal."""
        await self._started.wait()
        if self._failed:
            return FAILED
        verdict = await self._guarded("admit", self._verdict, request)
        if verdict is _FAILED:
            return FAILED
        if verdict is None or isinstance(verdict, Admitted):
            return verdict
        return Refusal(DropReason.ADMISSION_DENIED, verdict or "not admitted")

    def prepare(self) -> asyncio.Task[None]:
        """Let the extension check whether it can run. The task raises `ConfigError` if the tracker must not start."""
        self._prepared = asyncio.get_running_loop().create_task(self._prepare(), name=f"prepare {self.name}")
        return self._prepared

    async def _prepare(self) -> None:
        self._is_off = self._failed = not await self._call("prepare")

    def _turn_off(self, error: Exception, reason: str) -> None:
        self._is_off = self._failed = True
        self.tracker.report_off(reason)
        self._log.warning(f"{self.name}_off", error=str(error))

    def start(self) -> None:
        """Start the extension in the background. It hears of all open swarms."""
        if self._is_idle:
            self._is_idle = False
            self._failed = self._is_off
            if not self._is_off:
                self.tracker.report_on()
            for swarm in self._hub.swarms.values():
                self.mark(swarm)
        self.task = asyncio.get_running_loop().create_task(self.run(), name=f"extension {self.name}")

    async def run(self) -> None:
        """Start the extension, and deliver its events until cancelled."""
        if self._prepared:
            try:
                await self._prepared
            except ConfigError as error:
                # It took so long that the tracker serves already.
                self._turn_off(error, "a setting cannot be used")
        self._failed = self._failed or not await self._call("start")
        self._started.set()
        if self._failed:
            self.tracker.report_off("its start has failed")
            self._events.clear()
            self._bytes = 0
            self._dirty.clear()
            self.tracker.release()
            await self.tracker.stop_tasks()
            return
        while True:
            await self._work.wait()
            self._work.clear()
            turn_ends = monotonic() + TURN
            while self._dirty or self._events:
                # Alternate, so that neither starves the other.
                if self._dirty:
                    await self._tell(next(iter(self._dirty)))
                if self._events:
                    await self._deliver(*self._events.popleft())
                if monotonic() > turn_ends:
                    # A long queue must not delay the tracker's own peers.
                    await asyncio.sleep(0)
                    turn_ends = monotonic() + TURN

    async def stop(self, timeout: float) -> None:  # noqa: ASYNC109 (`stop` itself must not be cancelled)
        """Stop delivering events and stop the extension, within `timeout` seconds. Drop the queued events."""
        if self.task is not None and not self._failed:
            await self._stop(self.task, timeout)
        self.task = None
        self._is_idle = True
        self._started.clear()
        self._work.clear()
        self._events.clear()
        self._bytes = 0
        self._dirty.clear()
        self._open.clear()

    async def _stop(self, task: asyncio.Task[None], timeout: float) -> None:  # noqa: ASYNC109
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        task.cancel()
        # Half of the time, so that an extension whose task does not end still gets its `stop`. `wait_for` would wait
        # for the end of the cancelled task, however long that takes.
        await asyncio.wait([task], timeout=timeout / 2)
        stopping = loop.create_task(self._call("stop"))
        stopped = bool((await asyncio.wait([stopping], timeout=max(0.0, deadline - loop.time())))[0])
        stopping.cancel()
        # A background task may ignore its cancellation, too.
        ended = await self.tracker.stop_tasks(max(0.0, deadline - loop.time()))
        if not (stopped and ended):
            self._log.error("extension_stop_timed_out", seconds=timeout)
        self.tracker.release()

    async def _deliver(self, event: str, swarm: Swarm | None, arguments: tuple[Any, ...], size: int) -> None:
        # Not in `run`: its variables would keep the last event, and all that it leads to, in memory until the next one.
        self._bytes -= size
        if swarm in self._dirty:
            await self._tell(swarm)
        await self._call(event, *arguments)

    async def _tell(self, swarm: Swarm) -> None:
        del self._dirty[swarm]
        known = self._open.get(swarm.info_hash)
        if self._hub.swarms.get(swarm.info_hash) is not swarm:
            if known is swarm:
                del self._open[swarm.info_hash]
                await self._call("swarm_closed", swarm)
            return
        if known is not swarm:
            # Before any await, so that a closing meanwhile marks the swarm dirty again.
            self._open[swarm.info_hash] = swarm
            if known:
                # The closing of an older swarm comes first, also if offers bring the news of this one early.
                self._dirty.pop(known, None)
                await self._call("swarm_closed", known)
            await self._call("swarm_opened", swarm)
        await self._call("swarm_changed", swarm)

    async def _call(self, method: str, *arguments: Any) -> bool:
        """Call a method of the extension; return whether it raised no exception."""
        if method not in self._overridden:
            return True
        return await self._guarded(method, getattr(self.extension, method), *arguments) is not _FAILED

    async def _verdict(self, request: Admission) -> str | Admitted | None:
        verdict = await self.extension.admit(request)
        if isinstance(verdict, Admitted):
            seconds = float(verdict.seconds)
            if isnan(seconds):
                raise ValueError("the seconds of Admitted must be a number")
            return Admitted(seconds)
        if verdict is not None:
            if not isinstance(verdict, str):
                raise TypeError(f"admit must return None, Admitted or a text, not {verdict!r}")
            verdict.encode()  # raises for text that cannot be sent
        return verdict

    async def _guarded(self, name: str, method: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Return the result of a method, or `_FAILED` if it raised."""
        try:
            return await method(*arguments)
        except ExtensionOff as error:
            self._turn_off(error, error.reason)
            return _FAILED
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, ConfigError) and name == "prepare":
                raise
            task = asyncio.current_task()
            # A future that the extension awaited may have been cancelled, and not this task.
            if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                raise
            self._errors[self.name] += 1
            self._log.exception("extension_failed", on=name)
            return _FAILED
