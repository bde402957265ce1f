"""The supervisor of the workers of a tracker. It starts, watches, replaces and stops them, and serves no peer."""

import asyncio
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from math import ceil
from time import monotonic
from typing import Any, Final

import structlog

from tracker.config import ConfigError, Configuration
from tracker.files import aside
from tracker.logs import configure, log_unexpected
from tracker.settings import Settings, needs_restart
from tracker.systemd import notify, notify_reloading
from tracker.tasks import BackgroundTasks
from tracker.web.past import PastCounters
from tracker.worker import BEAT_PERIOD, Worker
from tracker.workers.child import Child
from tracker.workers.cpus import usable_cpus
from tracker.workers.place import MAX_FAILURES, Place
from tracker.workers.shared import Shared

SLOW_TIMEOUT: Final = 3.0
"""Seconds without a heartbeat after which other workers accept the connections of a worker, too."""

HUNG_TIMEOUT: Final = 30.0
"""Seconds without a heartbeat after which a worker is killed."""

RELOAD_TIMEOUT: Final = 60.0
"""Seconds that workers have to adopt new settings until systemd is told that the tracker is ready again."""

TASK_TIMEOUT: Final = 0.5
"""Seconds that the supervisor's own tasks have to end when it stops."""

STOP_GRACE: Final = 5.0
"""Seconds that workers have to end after all their connections were cut."""

CONFIGURATION_WRONG: Final = 2
"""The exit code of a worker for a mistake of the operator, which another start does not correct."""

_FIXED: Final = ("server.host", "server.port", "server.unix_socket_mode", "server.state_dir", "server.workers")
_FIXED_SECTION: Final = "metrics."
"""Keys, and a section, that belong to the supervisor, so that a rolling restart cannot change them."""


class Supervisor:
    """Runs `count` workers until SIGTERM or SIGINT, of which the second one stops them at once.

    SIGHUP lets all of them read their settings again, and SIGUSR2 replaces them one after the other.
    """

    def __init__(self, configuration: Configuration, count: int, read_settings: Callable[[], Configuration]) -> None:
        self._configuration = configuration
        self._settings = configuration.settings
        self._read_settings = read_settings
        self._places = [Place(index) for index in range(count)]
        self._children: set[Child] = set()
        """All processes, also those that retire."""
        self._numbers = 0
        self._code = 0
        """The exit code."""
        self._was_ready = False
        """Whether any worker has ever been ready."""
        self._has_started = False
        """Whether all workers were ready once."""
        self._is_stopping = False
        self._is_aborting = False
        self._is_restarting = False
        """Whether a rolling restart is under way."""
        self._changed = asyncio.Event()
        """Set whenever the state of a worker has changed, or the supervisor is to stop."""
        self._turn = asyncio.Lock()
        """Held during a reload."""
        self._summing = asyncio.Lock()
        """Held while the counters of workers that have ended are summed."""
        self._tasks = BackgroundTasks(Counter())
        self._unanswered: set[Child] = set()
        """The workers that have not adopted the latest settings yet."""

    async def serve(self) -> int:
        """Serve; return the exit code.

        Raises:
            ConfigError: if the state directory is in use, or an address cannot be listened on.
        """
        for warning in self._configuration.warnings:
            structlog.get_logger().warning("settings_doubtful", text=warning)
        log_unexpected()
        self._shared = await aside(Shared, self._settings, len(self._places))
        self._past = PastCounters(self._shared.directory)
        try:
            self._handle_signals(asyncio.get_running_loop())
            self._tasks.start("watch_workers", self._watch(), endless=True)
            await self._start_all()
            await self._until(lambda: self._is_stopping)
            await self._stop()
        finally:
            for child in self._children:
                child.kill()
            self._shared.close()
        if not self._code:
            structlog.get_logger().info("stopped")
        return self._code

    # Signals

    def _handle_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_stop, number.name)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        loop.add_signal_handler(signal.SIGUSR2, self._on_restart)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)

    def _on_stop(self, name: str) -> None:
        if not self._is_stopping:
            structlog.get_logger().info("stopping", signal=name)
            notify("STOPPING=1")
            self._is_stopping = True
            self._changed.set()
        elif not self._is_aborting:
            structlog.get_logger().warning("stopped_at_once")
            self._is_aborting = True
            self._changed.set()

    def _on_reload(self) -> None:
        self._tasks.start("reload", self._reload())

    def _on_restart(self) -> None:
        if self._is_restarting:
            structlog.get_logger().warning("restart_under_way")
        else:
            self._is_restarting = True
            self._tasks.start("restart", self._replace_all())

    # Start and stop

    async def _start_all(self) -> None:
        # One alone first: a mistake that workers find is then reported once.
        self._start(self._places[0])
        if not await self._are_ready(1):
            return
        for place in self._places[1:]:
            self._start(place)
        if not await self._are_ready(len(self._places)):
            return
        self._has_started = True
        log = structlog.get_logger()
        for host, port in self._shared.addresses:
            log.info("listening", host=host, port=port)
        for path in self._settings.server.unix_sockets:
            log.info("listening", unix_socket=path)
        told = [place.current.facts for place in self._places if place.current]
        total = sum(facts["max_connections"] for facts in told)
        log.info("started", **{**told[0], "workers": len(told), "max_connections": total})
        notify("READY=1")

    async def _are_ready(self, count: int) -> bool:
        """Wait until the first workers are ready. Return whether they are: otherwise the supervisor stops."""
        await self._until(lambda: self._is_stopping or all(place.is_ready for place in self._places[:count]))
        return not self._is_stopping

    async def _stop(self) -> None:
        """Stop all workers, kill those that do not end, and wait for their end."""
        # A reload may wait for a slow file.
        await self._tasks.stop(TASK_TIMEOUT)
        # From here on, connections are refused: another process may listen, or a proxy has other trackers.
        self._shared.stop_listening()
        self._tell_all("stop")
        timeout = self._settings.server.shutdown_timeout + STOP_GRACE
        await self._until(lambda: not self._children or self._is_aborting, timeout)
        if self._children and self._is_aborting:
            self._code = self._code or 1
            self._tell_all("abort")
            await self._until(lambda: not self._children, STOP_GRACE)
        for child in self._children:
            self._code = self._code or 1
            self._kill(child)
        await self._until(lambda: not self._children)

    async def _until(self, is_true: Callable[[], bool], timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Wait until a state of the workers is reached, for at most `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while not is_true():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass

    # Single workers

    def _start(self, place: Place) -> None:
        """Start the worker of a place."""
        if not self._is_stopping and place.current is None and place.successor is None:
            place.current = self._spawn(place)
            if place.current is None:
                self._start_again(place, 0.0, was_ready=False, code=1)

    def _spawn(self, place: Place) -> Child | None:
        worker = Worker(place.index, len(self._places), self._numbers, self._shared.directory)
        self._numbers += 1
        try:
            child = Child(worker, self._shared, self._received)
        except OSError as error:
            structlog.get_logger().error("worker_not_started", worker=place.index, error=str(error))
            return None
        self._children.add(child)
        return child

    def _received(self, child: Child, message: Mapping[str, Any]) -> None:
        child.last_beat = monotonic()
        place = self._places[child.worker.index]
        match message["kind"]:
            case "ready":
                child.facts = message["facts"]
                self._on_ready(child, place)
            case "beat" if not child.is_ready:
                # This process was stopped for so long that messages were lost.
                self._on_ready(child, place)
            case "reloaded":
                self._unanswered.discard(child)
                self._changed.set()
        if place.is_adopted and child is place.current and child.is_ready:
            place.is_adopted = False
            self._tell_others(place, "release")

    def _on_ready(self, child: Child, place: Place) -> None:
        child.is_ready = self._was_ready = True
        if self._has_started:
            structlog.get_logger().info("worker_started", worker=place.index, pid=child.pid)
        if place.successor is child:
            predecessor, place.current, place.successor = place.current, child, None
            if predecessor:
                predecessor.tell("retire")
        for other in self._places:
            if other.is_adopted and other is not place:
                child.tell("adopt", place=other.index)
        self._changed.set()

    def _reap(self) -> None:
        for child in list(self._children):
            code = child.poll()
            if code is not None:
                self._children.discard(child)
                self._unanswered.discard(child)
                self._ended(child, code)
                self._tasks.start("sum_counters", self._sum_counters(child.worker.number))
        self._changed.set()

    async def _sum_counters(self, number: int) -> None:
        async with self._summing:
            await aside(self._past.sum_up, number)

    def _ended(self, child: Child, code: int) -> None:
        place = self._places[child.worker.index]
        age = monotonic() - child.started
        log = structlog.get_logger().bind(worker=place.index, pid=child.pid, seconds=ceil(age), **_cause(code))
        if child is place.current:
            place.current = None
            if self._is_stopping:
                return
            if code != CONFIGURATION_WRONG or self._was_ready:
                # Otherwise the worker has said all.
                log.error("worker_ended")
            self._start_again(place, age, child.is_ready, code)
        elif child is place.successor:
            place.successor = None
            if not self._is_stopping:
                log.error("worker_not_replaced")
                # The old one may have ended meanwhile.
                self._start(place)
        else:
            log.info("worker_replaced")

    def _start_again(self, place: Place, age: float, was_ready: bool, code: int) -> None:
        """Start the worker of a place again, now or later. Stop if that is of no use."""
        delay = place.restarts.delay(age, was_ready)
        is_useless = code == CONFIGURATION_WRONG and not self._was_ready
        is_alone = not any(other.is_ready for other in self._places)
        if is_useless or (is_alone and place.restarts.failures >= MAX_FAILURES):
            self._code = code if code > 0 else 128 - code
            self._is_stopping = True
            self._changed.set()
            return
        self._let_others_accept(place)
        asyncio.get_running_loop().call_later(delay, self._start, place)

    def _let_others_accept(self, place: Place) -> None:
        if not place.is_adopted:
            place.is_adopted = True
            self._tell_others(place, "adopt")

    def _tell_others(self, place: Place, kind: str) -> None:
        for other in self._places:
            if other is not place and other.current and other.is_ready:
                other.current.tell(kind, place=place.index)

    def _tell_all(self, kind: str) -> None:
        for child in self._children:
            child.tell(kind)

    def _kill(self, child: Child) -> None:
        structlog.get_logger().error("worker_killed", worker=child.worker.index, pid=child.pid)
        child.kill()

    async def _watch(self) -> None:
        """Look for workers that send no heartbeats."""
        before = monotonic()
        while True:
            await asyncio.sleep(BEAT_PERIOD)
            now = monotonic()
            if now - before > SLOW_TIMEOUT:
                # This process was stopped itself, and has heartbeats to read.
                for child in self._children:
                    child.last_beat = now
            before = now
            for place in self._places:
                current = place.current
                if current and current.is_ready and now - current.last_beat > SLOW_TIMEOUT:
                    if not place.is_adopted:
                        structlog.get_logger().warning("worker_slow", worker=place.index, pid=current.pid)
                    self._let_others_accept(place)
                    if now - current.last_beat > HUNG_TIMEOUT:
                        self._kill(current)

    # All workers

    async def _reload(self) -> None:
        async with self._turn:
            notify_reloading()
            configuration = await self._read("reload_failed")
            if configuration:
                waiting = needs_restart(self._configuration.settings, configuration.settings)
                if waiting:
                    structlog.get_logger().warning("restart_needed", keys=waiting)
                self._unanswered = set(self._children)
                self._tell_all("reload")
                await self._until(lambda: not self._unanswered or self._is_stopping, RELOAD_TIMEOUT)
            else:
                self._tell_all("reload_failed")
            notify("READY=1")

    async def _replace_all(self) -> None:
        """Replace all workers, one after the other."""
        try:
            await self._replace_each()
        finally:
            self._is_restarting = False

    async def _replace_each(self) -> None:
        log = structlog.get_logger()
        configuration = await self._read("restart_failed")
        if configuration is None:
            return
        changed = needs_restart(self._configuration.settings, configuration.settings)
        fixed = [key for key in changed if key in _FIXED or key.startswith(_FIXED_SECTION)]
        if fixed:
            log.error("restart_failed", error="these settings need a full restart", keys=fixed)
            return
        log.info("restarting", workers=len(self._places))
        for place in self._places:
            if not await self._replace(place):
                log.error("restart_failed", error="a new worker has ended at its start", worker=place.index)
                return
        self._configuration = configuration
        log.info("restarted", workers=len(self._places))

    async def _replace(self, place: Place) -> bool:
        """Replace the worker of a place. Return whether the new one is ready."""
        predecessor = place.current
        successor = place.successor = self._spawn(place)
        if successor is None:
            return False
        await self._until(lambda: successor.is_ready or successor not in self._children)
        if not successor.is_ready:
            return False
        if predecessor:
            server = self._settings.server
            last = max(server.restart_spread, self._settings.connections.handshake_timeout)
            await self._until(lambda: predecessor not in self._children, last + server.shutdown_timeout + STOP_GRACE)
            if predecessor in self._children:
                self._kill(predecessor)
        return True

    async def _read(self, event: str) -> Configuration | None:
        """Read the settings again. If they cannot be used, log an event for each mistake, and return None."""
        log = structlog.get_logger()
        try:
            configuration = await aside(self._read_settings)
        except ConfigError as error:
            for mistake in error.mistakes:
                log.error(event, error=mistake)
            return None
        self._settings = configuration.settings
        configure(self._settings.log.level, self._settings.log.format)
        for warning in configuration.warnings:
            log.warning("settings_doubtful", text=warning)
        return configuration


def _cause(code: int) -> dict[str, object]:
    if code >= 0:
        return {"code": code}
    try:
        return {"signal": signal.Signals(-code).name}
    except ValueError:
        return {"signal": -code}


def supervise(supervisor: Supervisor) -> int:
    """Run a supervisor; return the exit code.

    Raises:
        ConfigError: if the tracker cannot start.
    """
    return asyncio.run(supervisor.serve())


def number_of_workers(settings: Settings) -> int:
    """Return the number of workers that the settings ask for."""
    wanted = settings.server.workers
    return usable_cpus() if wanted == "auto" else wanted
