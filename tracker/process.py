"""The tracker's process: signals, limits, exit."""

import asyncio
import gc
import os
import platform
import resource
import signal
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog
import uvloop

from tracker import COMPILED, __version__
from tracker.config import ConfigError, Configuration
from tracker.extension.api import Extension
from tracker.files import aside
from tracker.logs import configure, drain_standard_streams, log_unexpected, without_secrets
from tracker.malloc import return_freed_memory
from tracker.server import MAX_FILES, Server
from tracker.settings import Settings, needs_restart
from tracker.systemd import notify, notify_reloading
from tracker.tasks import BackgroundTasks

LEFTOVER_TIMEOUT: Final = 0.5
"""Seconds that tasks get to end once everything has stopped."""


def run(process: "TrackerProcess") -> int:
    """Serve until the process is told to stop; return the exit code.

    Raises:
        ConfigError: if a setting cannot be used.
        StartError: if an address cannot be listened on.
    """
    return_freed_memory()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(process.serve())
        leftovers = runner.run(_cancel_leftovers())
        threads = sum(not thread.daemon for thread in threading.enumerate()) - 1
        if leftovers or threads:
            # Python would wait for an extension's task that ignores its cancellation, and for its busy thread.
            structlog.get_logger().warning("leftovers_abandoned", tasks=leftovers, threads=threads)
            drain_standard_streams()
            os._exit(code)
    return code


def raise_file_limit() -> None:
    """Raise the limit of open files, and so of sockets, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:
            structlog.get_logger().warning("file_limit_not_raised", limit=soft, error=str(error))


class TrackerProcess:
    """A tracker that is a process of its own, from its start to its end.

    SIGTERM or SIGINT stops it, and the second one at once. SIGHUP calls `reload`, in a thread, for new settings.
    """

    def __init__(
        self,
        configuration: Configuration,
        extensions: Mapping[str, type[Extension]],
        reload: Callable[[], Configuration],
    ) -> None:
        self.configuration = configuration
        self.is_stopping = asyncio.Event()
        """Set when the tracker stops accepting connections and closes those that it has."""
        self.is_aborting = asyncio.Event()
        """Set when it waits for no connection any longer."""
        self._extensions = extensions
        self._read_settings = reload
        self.reloading = asyncio.Lock()
        """Held while settings are read and adopted."""

    async def serve(self) -> int:
        """Serve until `is_stopping`, and stop; return the exit code.

        Raises:
            ConfigError: if a setting cannot be used.
        """
        raise_file_limit()
        self.warn(self.configuration.warnings)
        self.server = self.make_server(self.configuration.settings, self._extensions)
        self.tasks = BackgroundTasks(self.server.extensions.task_failures)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_log_exception)
        log_unexpected()
        self.handle_signals(loop)
        await self.server.start()
        self.started()
        # The objects that exist now stay for good: the garbage collector need not visit them again.
        gc.collect()
        gc.freeze()

        await self.is_stopping.wait()
        stop = asyncio.ensure_future(self.server.stop())
        second = asyncio.ensure_future(self.is_aborting.wait())
        await asyncio.wait([stop, second], return_when=asyncio.FIRST_COMPLETED)
        second.cancel()
        for name in (signal.SIGTERM, signal.SIGINT):
            # The handlers end with the loop, and a signal that comes then would turn a clean exit into a kill.
            loop.remove_signal_handler(name)
            signal.signal(name, signal.SIG_IGN)
        if not stop.done():
            self.ended(at_once=True)
            self.server.abort()
            return 1
        stop.result()
        self.ended(at_once=False)
        return 0

    def make_server(self, settings: Settings, extensions: Mapping[str, type[Extension]]) -> Server:
        """Return the tracker."""
        return Server(settings, extensions)

    def handle_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        """Handle signals from now on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.on_stop, number.name)
        loop.add_signal_handler(signal.SIGHUP, self.start_reload)
        loop.add_signal_handler(signal.SIGUSR2, self.on_restart)

    def on_stop(self, name: str) -> None:
        """Stop, or stop at once if this is the second signal."""
        if self.is_stopping.is_set():
            self.is_aborting.set()
        else:
            structlog.get_logger().info("stopping", signal=name)
            notify("STOPPING=1")
            self.is_stopping.set()

    def on_restart(self) -> None:
        """Do nothing: only the supervisor of several workers can replace them."""
        structlog.get_logger().warning("restart_impossible", reason="server.workers is 1")

    def started(self) -> None:
        """Tell that the tracker serves."""
        log = structlog.get_logger()
        for host, port in self.server.addresses:
            log.info("listening", host=host, port=port)
        for path in self.configuration.settings.server.unix_sockets:
            log.info("listening", unix_socket=path)
        log.info("started", **facts(self.server, self.configuration.file))
        notify("READY=1")

    def ended(self, at_once: bool) -> None:
        """Tell that the tracker has stopped. `at_once`: without waiting for its connections."""
        log = structlog.get_logger()
        if at_once:
            log.warning("stopped_at_once")
        else:
            log.info("stopped")

    def warn(self, doubts: Iterable[str], waiting: Sequence[str] = ()) -> None:
        """Log the settings that are probably mistakes, and the keys that have changed and need a restart."""
        log = structlog.get_logger()
        for doubt in doubts:
            log.warning("settings_doubtful", text=doubt)
        if waiting:
            log.warning("restart_needed", keys=waiting)

    def start_reload(self) -> None:
        """Adopt new settings in the background."""
        self.tasks.start("reload", self.reload())

    async def reload(self) -> None:
        """Adopt new settings, and tell the service manager."""
        # A slow reading must not end after a later one and bring back older settings.
        async with self.reloading:
            notify_reloading()
            try:
                await self.adopt()
            finally:
                # Also after a mistake: the tracker serves as before.
                notify("READY=1")

    async def adopt(self) -> None:
        """Adopt new settings, or log why they cannot be used."""
        log = structlog.get_logger()
        try:
            configuration = await aside(self._read_settings)
            fresh = configuration.settings
            with configuration.locating():
                await self.server.reload(fresh)
        except ConfigError as error:
            self.server.reloads["failed"] += 1
            for mistake in error.mistakes:
                log.error("reload_failed", error=mistake)
            return
        configure(fresh.log.level, fresh.log.format)
        self.warn(configuration.warnings, needs_restart(self.configuration.settings, fresh))
        log.info("reloaded", log_level=fresh.log.level)


def facts(server: Server, file: Path | None) -> dict[str, object]:
    """Return what an operator asks first: which tracker this is, and where."""
    settings, limits = server.settings, server.settings.limits
    return {
        "version": __version__,
        "compiled": COMPILED,
        "python": platform.python_version(),
        "config": str(file or ""),
        "tracker_id": server.extensions.tables.tracker_id,
        "state_dir": str(settings.server.state_dir),
        "max_connections": server.endpoint.gate.room.connections,
        "per_address": f"{limits.connections_per_address} connections, {limits.announces_per_second:g} announces/s,"
        f" {limits.offers_per_second:g} offers/s",
        "urls": " ".join(server.urls),
    }


async def _cancel_leftovers() -> int:
    """Cancel every task; return the number of tasks that do not end."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    return len((await asyncio.wait(tasks, timeout=LEFTOVER_TIMEOUT))[1]) if tasks else 0


def _log_exception(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    message = without_secrets(str(context.get("message")))
    structlog.get_logger().error("event_loop_error", message=message, exc_info=context.get("exception"))
