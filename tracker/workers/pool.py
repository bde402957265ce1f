"""The workers: their places, their processes, and what happens when one of these ends or hangs."""

import asyncio
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from math import ceil
from time import monotonic
from typing import Any, Final

import structlog

from tracker.files import aside
from tracker.tasks import BackgroundTasks
from tracker.web.past import PastCounters
from tracker.worker import BEAT_PERIOD, Worker
from tracker.workers.child import Child
from tracker.workers.place import MAX_FAILURES, Place
from tracker.workers.shared import Shared

SLOW_TIMEOUT: Final = 3.0
"""Seconds without a heartbeat after which other workers accept the connections of a worker, too."""

HUNG_TIMEOUT: Final = 30.0
"""Seconds without a heartbeat after which a worker is killed."""

START_TIMEOUT: Final = 120.0
"""Seconds after which a worker that is not ready is killed, if all workers were ready before."""

CONFIGURATION_WRONG: Final = 2
"""The exit code of a worker for a mistake of the operator, which another start does not correct."""


class Pool:
    """`count` places for workers. One that ends is started again, until `close`.

    Attributes:
        places: The places.
        children: All processes, also those that retire.
        failure: The exit code of the last worker, if none runs and another start is of no use.
        is_complete: Whether all workers were ready once.
        unanswered: The workers that have not adopted the latest settings yet.
    """

    def __init__(self, count: int, shared: Shared) -> None:
        self.places = [Place(index) for index in range(count)]
        self.children: set[Child] = set()
        self.failure: int | None = None
        self.is_complete = False
        self.unanswered: set[Child] = set()
        self._shared = shared
        self._past = PastCounters(shared.directory)
        self._numbers = 0
        self._was_ready = False
        """Whether any worker has ever been ready."""
        self._is_closed = False
        self._changed = asyncio.Event()
        self._summing = asyncio.Lock()
        """Held while the counters of workers that have ended are summed."""
        self._tasks = BackgroundTasks(Counter())

    def open(self) -> None:
        """Watch over the workers from now on."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)
        self._tasks.start("watch_workers", self._watch(), endless=True)

    async def close(self) -> None:
        """Start no worker any more."""
        self._is_closed = True
        await self._tasks.stop()

    async def until(self, is_true: Callable[[], bool], timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Wait until a state of the workers is reached, for at most `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while not is_true():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass

    def notice(self) -> None:
        """Let `until` look at the state again."""
        self._changed.set()

    def start(self, place: Place) -> None:
        """Start the worker of a place, if it has none."""
        if not self._is_closed and place.current is None and place.successor is None:
            place.current = self._spawn(place)
            if place.current is None:
                self._start_again(place, 0.0, was_ready=False, code=1)

    async def replace(self, place: Place, timeout: float) -> bool:  # noqa: ASYNC109
        """Replace the worker of a place, which has `timeout` seconds to end. Return whether the new one is ready."""
        predecessor = place.current
        successor = place.successor = self._spawn(place)
        if successor is None:
            return False
        await self.until(lambda: successor.is_ready or successor not in self.children)
        if not successor.is_ready:
            return False
        if predecessor:
            await self.until(lambda: predecessor not in self.children, timeout)
            if predecessor in self.children:
                self.kill(predecessor)
        return True

    def tell_all(self, kind: str, **values: Any) -> None:
        """Send a message to all workers."""
        for child in self.children:
            child.tell(kind, **values)

    def kill(self, child: Child) -> None:
        """Kill a worker that does not end by itself."""
        structlog.get_logger().error("worker_killed", worker=child.worker.index, pid=child.pid)
        child.kill()

    def _spawn(self, place: Place) -> Child | None:
        worker = Worker(place.index, len(self.places), self._numbers, self._shared.directory)
        self._numbers += 1
        try:
            child = Child(worker, self._shared, self._received)
        except OSError as error:
            structlog.get_logger().error("worker_not_started", worker=place.index, error=str(error))
            return None
        self.children.add(child)
        return child

    def _received(self, child: Child, message: Mapping[str, Any]) -> None:
        child.last_beat = monotonic()
        child.connections = message.get("connections", child.connections)
        place = self.places[child.worker.index]
        match message["kind"]:
            case "ready":
                child.facts = message["facts"]
                self._on_ready(child, place)
            case "beat" if not child.is_ready:
                # This process was stopped for so long that messages were lost.
                self._on_ready(child, place)
            case "reloaded":
                self.unanswered.discard(child)
                self.notice()
        if place.is_adopted and child is place.current and child.is_ready:
            place.is_adopted = False
            self._tell_others(place, "release")

    def _on_ready(self, child: Child, place: Place) -> None:
        child.is_ready = self._was_ready = True
        if self.is_complete:
            structlog.get_logger().info("worker_started", worker=place.index, pid=child.pid)
        if place.successor is child:
            predecessor, place.current, place.successor = place.current, child, None
            if predecessor:
                predecessor.tell("retire")
        for other in self.places:
            if other.is_adopted and other is not place:
                child.tell("adopt", place=other.index)
        self.notice()

    def _reap(self) -> None:
        for child in list(self.children):
            code = child.poll()
            if code is not None:
                self.children.discard(child)
                self.unanswered.discard(child)
                self._ended(child, code)
                if not self._is_closed:
                    self._tasks.start("sum_counters", self._sum_counters(child.worker.number))
        self.notice()

    async def _sum_counters(self, number: int) -> None:
        async with self._summing:
            await aside(self._past.sum_up, number)

    def _ended(self, child: Child, code: int) -> None:
        place = self.places[child.worker.index]
        age = monotonic() - child.started
        log = structlog.get_logger().bind(worker=place.index, pid=child.pid, seconds=ceil(age), **_cause(code))
        if child is place.current:
            place.current = None
            if self._is_closed:
                return
            if code != CONFIGURATION_WRONG or self._was_ready:
                # Otherwise the worker has said all.
                log.error("worker_ended")
            self._start_again(place, age, child.is_ready, code)
        elif child is place.successor:
            place.successor = None
            if not self._is_closed:
                log.error("worker_not_replaced")
                # The old one may have ended meanwhile.
                self.start(place)
        else:
            log.info("worker_replaced")

    def _start_again(self, place: Place, age: float, was_ready: bool, code: int) -> None:
        """Start the worker of a place again, now or later. Fail if that is of no use."""
        delay = place.restarts.delay(age, was_ready)
        is_useless = code == CONFIGURATION_WRONG and not self._was_ready
        is_alone = not any(other.is_ready for other in self.places)
        if is_useless or (is_alone and place.restarts.failures >= MAX_FAILURES):
            self.failure = code if code > 0 else 128 - code
            self.notice()
            return
        self._let_others_accept(place)
        asyncio.get_running_loop().call_later(delay, self.start, place)

    def _let_others_accept(self, place: Place) -> None:
        if not place.is_adopted:
            place.is_adopted = True
            self._tell_others(place, "adopt")

    def _tell_others(self, place: Place, kind: str) -> None:
        for other in self.places:
            if other is not place and other.current and other.is_ready:
                other.current.tell(kind, place=place.index)

    async def _watch(self) -> None:
        """Look for workers that send no heartbeats."""
        before = monotonic()
        while True:
            await asyncio.sleep(BEAT_PERIOD)
            now = monotonic()
            if now - before > SLOW_TIMEOUT:
                # This process was stopped itself, and has heartbeats to read.
                for child in self.children:
                    child.last_beat = now
            before = now
            if len(self.places) > 1:
                loads = [place.current.connections if place.current else 0 for place in self.places]
                self.tell_all("loads", connections=loads)
            for child in self.children:
                if self.is_complete and not child.is_ready and now - child.started > START_TIMEOUT:
                    self.kill(child)
            for place in self.places:
                if place.current and place.is_ready:
                    self._look_at(place, place.current, now - place.current.last_beat)

    def _look_at(self, place: Place, child: Child, silence: float) -> None:
        if silence > SLOW_TIMEOUT:
            if not place.is_adopted:
                structlog.get_logger().warning("worker_slow", worker=place.index, pid=child.pid)
            self._let_others_accept(place)
        if silence > HUNG_TIMEOUT:
            self.kill(child)


def _cause(code: int) -> dict[str, object]:
    if code >= 0:
        return {"code": code}
    try:
        return {"signal": signal.Signals(-code).name}
    except ValueError:
        return {"signal": -code}
