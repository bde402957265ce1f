"""The supervisor of the workers of a tracker: signals, start, stop, reload and restart. It serves no peer."""

import asyncio
import signal
from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog

from tracker.config import ConfigError, Configuration
from tracker.files import aside
from tracker.logs import configure, log_unexpected
from tracker.process import raise_file_limit
from tracker.settings import Settings, needs_restart
from tracker.systemd import notify, notify_reloading
from tracker.tasks import BackgroundTasks
from tracker.workers.cpus import usable_cpus
from tracker.workers.pool import Pool
from tracker.workers.shared import Shared

RELOAD_TIMEOUT: Final = 60.0
"""Seconds that workers have to adopt new settings until systemd is told that the tracker is ready again."""

TASK_TIMEOUT: Final = 0.5
"""Seconds that the supervisor's own tasks have to end when it stops."""

STOP_GRACE: Final = 5.0
"""Seconds that workers have to end after all their connections were cut."""

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
        self._count = count
        self._read_settings = read_settings
        self._is_stopping = False
        self._is_aborting = False
        self._is_restarting = False
        """Whether a rolling restart is under way."""
        self._turn = asyncio.Lock()
        """Held during a reload."""
        self._tasks = BackgroundTasks(Counter())

    async def serve(self) -> int:
        """Serve; return the exit code.

        Raises:
            ConfigError: if the state directory is in use, or an address cannot be listened on.
        """
        for warning in self._configuration.warnings:
            structlog.get_logger().warning("settings_doubtful", text=warning)
        log_unexpected()
        # It has all listening sockets of all workers.
        raise_file_limit()
        self._shared = await aside(Shared, self._settings, self._count)
        self._pool = Pool(self._count, self._shared)
        try:
            self._handle_signals(asyncio.get_running_loop())
            self._pool.open()
            await self._start()
            await self._pool.until(self._is_over)
            code = await self._stop()
        finally:
            for child in self._pool.children:
                child.kill()
            self._shared.close()
        if not code:
            structlog.get_logger().info("stopped")
        return code

    def _is_over(self) -> bool:
        return self._is_stopping or self._pool.failure is not None

    # Signals

    def _handle_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_stop, number.name)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        loop.add_signal_handler(signal.SIGUSR2, self._on_restart)

    def _on_stop(self, name: str) -> None:
        if not self._is_stopping:
            structlog.get_logger().info("stopping", signal=name)
            notify("STOPPING=1")
            self._is_stopping = True
        elif not self._is_aborting:
            structlog.get_logger().warning("stopped_at_once")
            self._is_aborting = True
        self._pool.notice()

    def _on_reload(self) -> None:
        self._tasks.start("reload", self._reload())

    def _on_restart(self) -> None:
        if self._is_restarting:
            structlog.get_logger().warning("restart_under_way")
        else:
            self._is_restarting = True
            self._tasks.start("restart", self._restart())

    # Start and stop

    async def _start(self) -> None:
        # One alone first: a mistake that workers find is then reported once.
        for first, end in ((0, 1), (1, self._count)):
            for place in self._pool.places[first:end]:
                self._pool.start(place)
            if not await self._are_ready(end):
                return
        self._pool.is_complete = True
        log = structlog.get_logger()
        for host, port in self._shared.addresses:
            log.info("listening", host=host, port=port)
        for path in self._settings.server.unix_sockets:
            log.info("listening", unix_socket=path)
        told = [place.current.facts for place in self._pool.places if place.current]
        total = sum(facts["max_connections"] for facts in told)
        log.info("started", **{**told[0], "workers": len(told), "max_connections": total})
        notify("READY=1")

    async def _are_ready(self, count: int) -> bool:
        """Wait until the first workers are ready. Return whether they are: otherwise the supervisor stops."""
        places = self._pool.places[:count]
        await self._pool.until(lambda: self._is_over() or all(place.is_ready for place in places))
        return not self._is_over()

    async def _stop(self) -> int:
        """Stop all workers, kill those that do not end, and wait for their end. Return the exit code."""
        pool = self._pool
        code = pool.failure or 0
        # A reload may wait for a slow file.
        await self._tasks.stop(TASK_TIMEOUT)
        await pool.close()
        # From here on, connections are refused: another process may listen, or a proxy has other trackers.
        self._shared.stop_listening()
        pool.tell_all("stop")
        timeout = self._settings.server.shutdown_timeout + STOP_GRACE
        await pool.until(lambda: not pool.children or self._is_aborting, timeout)
        if pool.children and self._is_aborting:
            code = code or 1
            pool.tell_all("abort")
            await pool.until(lambda: not pool.children, STOP_GRACE)
        for child in pool.children:
            code = code or 1
            pool.kill(child)
        await pool.until(lambda: not pool.children)
        return code

    # Reload and restart

    async def _reload(self) -> None:
        pool = self._pool
        async with self._turn:
            notify_reloading()
            configuration = await self._read("reload_failed")
            if configuration:
                waiting = needs_restart(self._configuration.settings, configuration.settings)
                if waiting:
                    structlog.get_logger().warning("restart_needed", keys=waiting)
                pool.unanswered = set(pool.children)
                pool.tell_all("reload")
                await pool.until(lambda: not pool.unanswered, RELOAD_TIMEOUT)
            else:
                pool.tell_all("reload_failed")
            notify("READY=1")

    async def _restart(self) -> None:
        """Replace all workers, one after the other."""
        try:
            configuration = await self._read("restart_failed")
            if configuration and not self._needs_full_restart(configuration.settings):
                await self._replace_all(configuration)
        finally:
            self._is_restarting = False

    def _needs_full_restart(self, fresh: Settings) -> bool:
        changed = needs_restart(self._configuration.settings, fresh)
        fixed = [key for key in changed if key in _FIXED or key.startswith(_FIXED_SECTION)]
        if fixed:
            text = "these settings need a full restart"
            structlog.get_logger().error("restart_failed", error=text, keys=fixed)
        return bool(fixed)

    async def _replace_all(self, configuration: Configuration) -> None:
        log = structlog.get_logger()
        log.info("restarting", workers=self._count)
        for place in self._pool.places:
            server = self._settings.server
            closing = max(server.restart_spread, self._settings.connections.handshake_timeout)
            if not await self._pool.replace(place, closing + server.shutdown_timeout + STOP_GRACE):
                log.error("restart_failed", error="a new worker has ended at its start", worker=place.index)
                return
        self._configuration = configuration
        log.info("restarted", workers=self._count)

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
