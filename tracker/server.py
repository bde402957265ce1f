"""The tracker's life: everything put together, started, reloaded and stopped."""

import asyncio
import contextlib
import gc
import os
import random
import resource
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Final

import structlog
import uvloop

from tracker.config import ConfigError
from tracker.endpoint import Endpoint
from tracker.extension import Extension
from tracker.host import ExtensionHost
from tracker.hub import Hub
from tracker.logs import configure
from tracker.metrics import LoopLag, registry_for
from tracker.pages import Pages
from tracker.settings import Settings

_FILES: Final = 1 << 20

LEFTOVER_TIMEOUT: Final = 0.5
"""Seconds that tasks get to end once everything has been stopped."""


class StartError(Exception):
    """The tracker cannot start. The text is one line."""


class Server:
    """One tracker in this process. Raises `ConfigError` for an extension's settings."""

    def __init__(self, settings: Settings, extensions: Mapping[str, type[Extension]]) -> None:
        self.settings = settings
        self.hub = Hub(settings.tracker.rules(), random.Random().random)
        self.endpoint = Endpoint(self.hub, settings.connections)
        self.extensions = ExtensionHost()
        self.registry = registry_for(self.hub, self.endpoint, self.extensions.errors)
        pages = Pages(self.hub, self.endpoint, self.registry, settings.server.public_url, self.extensions.tables)
        for path, route in pages.routes().items():
            self.endpoint.add_route(path, route)
        self.extensions.load(extensions, settings, self.hub, self.endpoint, self.registry)
        self.addresses: list[tuple[str, int]] = []
        self._lag = LoopLag(self.registry)
        self._lag_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen, then start the extensions. Raises `StartError` if an address cannot be had."""
        server = self.settings.server
        try:
            self.addresses = await self.endpoint.listen(server.hosts, server.port)
        except (OSError, UnicodeError) as error:
            where = ", ".join(server.hosts)
            raise StartError(
                f"cannot listen on {where} port {server.port}: {getattr(error, 'strerror', None) or error}"
            ) from None
        self._lag_task = asyncio.get_running_loop().create_task(self._lag.run())
        self.extensions.start()

    async def stop(self) -> None:
        """Close every connection with 1001, within `shutdown_timeout`, and stop the extensions."""
        patience = self.settings.server.shutdown_timeout
        extensions = asyncio.get_running_loop().create_task(self.extensions.stop(patience))
        await self.endpoint.close(patience, extensions)
        if self._lag_task:
            self._lag_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._lag_task


def run(settings: Settings, extensions: Mapping[str, type[Extension]], reload: Callable[[], Settings]) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. SIGHUP calls `reload` and takes the log level from it.

    Raises `ConfigError` and `StartError`.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(_serve(settings, extensions, reload))
        leftovers = runner.run(_cancel_leftovers())
        if leftovers or threading.active_count() > 1:
            # An extension's task that ignores its cancellation, or its thread that is busy, would be waited for.
            structlog.get_logger().warning("leftovers_abandoned", tasks=leftovers, threads=threading.active_count() - 1)
            with contextlib.suppress(OSError):
                sys.stderr.flush()
            os._exit(code)
    return code


async def _cancel_leftovers() -> int:
    """Cancel every task; how many do not end."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    return len((await asyncio.wait(tasks, timeout=LEFTOVER_TIMEOUT))[1]) if tasks else 0


async def _serve(settings: Settings, extensions: Mapping[str, type[Extension]], reload: Callable[[], Settings]) -> int:
    log = structlog.get_logger()
    raise_file_limit()
    server = Server(settings, extensions)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_exception)
    stopping, cut = asyncio.Event(), asyncio.Event()

    def on_stop(name: str) -> None:
        if stopping.is_set():
            cut.set()
        else:
            log.info("stopping", signal=name)
            stopping.set()

    def on_reload() -> None:
        try:
            fresh = reload()
        except ConfigError as error:
            log.error("reload_failed", error=str(error))
            return
        configure(fresh.log.level, fresh.log.format)
        log.info("reloaded", level=fresh.log.level)

    loop.add_signal_handler(signal.SIGTERM, on_stop, "SIGTERM")
    loop.add_signal_handler(signal.SIGINT, on_stop, "SIGINT")
    loop.add_signal_handler(signal.SIGHUP, on_reload)

    await server.start()
    for host, port in server.addresses:
        log.info("listening", host=host, port=port)
    # What is alive now stays: the collector need not look at it again.
    gc.collect()
    gc.freeze()

    await stopping.wait()
    stop = asyncio.ensure_future(server.stop())
    second = asyncio.ensure_future(cut.wait())
    await asyncio.wait([stop, second], return_when=asyncio.FIRST_COMPLETED)
    second.cancel()
    for name in (signal.SIGTERM, signal.SIGINT):
        # With the loop its handlers go, and a signal that comes then would turn a clean exit into a kill.
        loop.remove_signal_handler(name)
        signal.signal(name, signal.SIG_IGN)
    if not stop.done():
        log.warning("stopped_at_once")
        server.endpoint.abort()
        return 1
    stop.result()
    log.info("stopped")
    return 0


def raise_file_limit() -> None:
    """Let this process open as many sockets as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:
            structlog.get_logger().warning("file_limit_not_raised", limit=soft, error=str(error))


def _log_exception(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    structlog.get_logger().error(
        "event_loop_error", message=str(context.get("message")), error=repr(context.get("exception"))
    )
