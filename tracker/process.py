"""The tracker's process: signals, limits, exit."""

import asyncio
import gc
import os
import platform
import resource
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic_ns
from typing import Final

import structlog
import uvloop

from tracker import COMPILED, __version__
from tracker.config import ConfigError, Configuration
from tracker.extension.api import Extension
from tracker.files import aside
from tracker.logs import configure, drain_standard_streams, log_unexpected, without_secrets
from tracker.server import MAX_FILES, Server
from tracker.settings import Settings, needs_restart
from tracker.systemd import notify
from tracker.tasks import BackgroundTasks

LEFTOVER_TIMEOUT: Final = 0.5
"""Seconds that tasks get to end once everything has stopped."""


def run(
    configuration: Configuration, extensions: Mapping[str, type[Extension]], reload: Callable[[], Configuration]
) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code. SIGHUP calls `reload`, in a thread, for new settings.

    Raises:
        ConfigError: if a setting cannot be used.
        StartError: if an address cannot be bound.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(_serve(configuration, extensions, reload))
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


async def _serve(
    configuration: Configuration, extensions: Mapping[str, type[Extension]], reload: Callable[[], Configuration]
) -> int:
    log = structlog.get_logger()
    settings = configuration.settings
    raise_file_limit()
    for warning in configuration.warnings:
        log.warning("settings_doubtful", text=warning)
    server = Server(settings, extensions)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_exception)
    log_unexpected()
    stopping, aborting = asyncio.Event(), asyncio.Event()
    reloading, turn = BackgroundTasks(server.extensions.task_failures), asyncio.Lock()

    def on_reload() -> None:
        reloading.start("reload", _reload(server, settings, reload, turn))

    def on_stop(name: str) -> None:
        if stopping.is_set():
            aborting.set()
        else:
            log.info("stopping", signal=name)
            notify("STOPPING=1")
            stopping.set()

    loop.add_signal_handler(signal.SIGTERM, on_stop, "SIGTERM")
    loop.add_signal_handler(signal.SIGINT, on_stop, "SIGINT")
    loop.add_signal_handler(signal.SIGHUP, on_reload)

    await server.start()
    for host, port in server.addresses:
        log.info("listening", host=host, port=port)
    for path in settings.server.unix_sockets:
        log.info("listening", unix_socket=path)
    log.info("started", **_facts(server, configuration.file))
    notify("READY=1")
    # The objects that exist now stay for good: the garbage collector need not visit them again.
    gc.collect()
    gc.freeze()

    await stopping.wait()
    stop = asyncio.ensure_future(server.stop())
    second = asyncio.ensure_future(aborting.wait())
    await asyncio.wait([stop, second], return_when=asyncio.FIRST_COMPLETED)
    second.cancel()
    for name in (signal.SIGTERM, signal.SIGINT):
        # The handlers end with the loop, and a signal that comes then would turn a clean exit into a kill.
        loop.remove_signal_handler(name)
        signal.signal(name, signal.SIG_IGN)
    if not stop.done():
        log.warning("stopped_at_once")
        server.abort()
        return 1
    stop.result()
    log.info("stopped")
    return 0


async def _reload(
    server: Server, started_with: Settings, reload: Callable[[], Configuration], turn: asyncio.Lock
) -> None:
    # A slow reading must not end after a later one and bring back older settings.
    async with turn:
        notify(f"RELOADING=1\nMONOTONIC_USEC={monotonic_ns() // 1000}")
        try:
            await _adopt(server, started_with, reload)
        finally:
            # Also after a mistake: the tracker serves as before.
            notify("READY=1")


async def _adopt(server: Server, started_with: Settings, reload: Callable[[], Configuration]) -> None:
    log = structlog.get_logger()
    try:
        configuration = await aside(reload)
        fresh = configuration.settings
        with configuration.locating():
            await server.reload(fresh)
    except ConfigError as error:
        server.reloads["failed"] += 1
        for mistake in error.mistakes:
            log.error("reload_failed", error=mistake)
        return
    configure(fresh.log.level, fresh.log.format)
    for warning in configuration.warnings:
        log.warning("settings_doubtful", text=warning)
    waiting = needs_restart(started_with, fresh)
    if waiting:
        log.warning("restart_needed", keys=waiting)
    log.info("reloaded", log_level=fresh.log.level)


def _facts(server: Server, file: Path | None) -> dict[str, object]:
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
