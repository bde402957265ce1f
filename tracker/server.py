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
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

import structlog
import uvloop

from tracker.access.gate import ConnectionGate, SocketBudget
from tracker.access.lists import AccessLists
from tracker.config import ConfigError
from tracker.core.hub import Hub
from tracker.core.rules import Rules
from tracker.extension.api import Extension
from tracker.extension.host import ExtensionHost
from tracker.files import Watch, aside, look
from tracker.logs import configure, log_unexpected, report_suppressed, without_secrets
from tracker.metrics import LoopLag, OperationCollector, registry_for
from tracker.net.endpoint import Endpoint
from tracker.net.http import Route
from tracker.net.tls import Certificate
from tracker.settings import Access, Limits, Settings, needs_restart
from tracker.web.pages import Pages

_FILES: Final = 1 << 20

LEFTOVER_TIMEOUT: Final = 0.5
"""Seconds that tasks get to end once everything has been stopped."""


class StartError(Exception):
    """The tracker cannot start. The text is one line."""


class Server:
    """One tracker in this process. Raises `ConfigError` for an extension's settings."""

    def __init__(self, settings: Settings, extensions: Mapping[str, type[Extension]]) -> None:
        self.settings = settings
        self.hub = Hub(Rules(**settings.tracker.model_dump()), random.Random().random)
        self._watch = Watch(self._files_changed)
        seen, access, self.certificate = _read_files(settings)
        self._watch.set_files(seen)
        self.hub.serves = access.serves
        self.reloads: Counter[str] = Counter()
        self.endpoint = Endpoint(self.hub, settings.connections, ConnectionGate(settings, access, _room(settings)))
        self.endpoint.log_addresses = settings.log.addresses
        self._private: Endpoint | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()
        self.extensions = ExtensionHost()
        self.registry = registry_for(self.hub, self.endpoint, self.extensions.errors)
        self.registry.register(OperationCollector(self.reloads, self.certificate))
        pages = Pages(
            self.hub,
            self.endpoint,
            self.registry,
            settings.server.public_url,
            self.extensions.tables,
            tls=self.certificate is not None,
            statistics=not settings.metrics.port,
        )
        if settings.metrics.port:
            # For who may come from anywhere, there is no limit but that of sockets.
            limits = Limits(connections_per_address=0, announces_per_second=0, offers_per_second=0)
            anybody = ConnectionGate(Settings(limits=limits), AccessLists(Access()), _room(settings))
            self._private = Endpoint(self.hub, settings.connections, anybody, has_websockets=False)
            _add_routes(self._private, {**pages.statistics_routes(), **pages.health_routes()})
        else:
            _add_routes(self.endpoint, pages.statistics_routes())
        _add_routes(self.endpoint, {**pages.page_routes(), **pages.health_routes()})
        self.extensions.load(extensions, settings, self.hub, self.endpoint, self.registry)
        self.addresses: list[tuple[str, int]] = []
        self._lag = LoopLag(self.registry)

    async def start(self) -> None:
        """Listen, then start the extensions. Raises `StartError` if an address cannot be had."""
        server = self.settings.server
        metrics = self.settings.metrics
        if self._private:
            _listen(self._private, [metrics.host], metrics.port)
        self.addresses = _listen(self.endpoint, server.hosts, server.port, self.certificate)
        loop = asyncio.get_running_loop()
        running = (self._lag.run(), self._watch.run(), report_suppressed())
        self._tasks |= {loop.create_task(coroutine) for coroutine in running}
        self.extensions.start()

    async def reload(self, fresh: Settings | None = None) -> None:
        """Use what can be changed of other settings: access lists, limits, certificate, trusted proxies, log.

        Without any, those in use, and what is in their files now.

        Raises `ConfigError`; then all stays as it was.
        """
        async with self._reloading:
            fresh = fresh or self.settings
            seen, access, certificate = await aside(_read_files, fresh)
            if self.certificate and certificate:
                self.certificate.replace(certificate)
            self.reloads["done"] += 1
            self.settings = fresh
            self.endpoint.door.change(fresh, access, _room(fresh))
            self.endpoint.log_addresses = fresh.log.addresses
            self.extensions.change(fresh)
            self.hub.serves = access.serves
            self.endpoint.send(self.hub.close_denied())
            self._watch.set_files(seen)

    def _files_changed(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload_files())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload_files(self) -> None:
        log = structlog.get_logger()
        try:
            await self.reload()
            log.info("files_reloaded")
        except ConfigError as error:
            # It may be half written; what is in use stays.
            self.reloads["failed"] += 1
            log.error("reload_failed", error=str(error))

    async def stop(self) -> None:
        """Close every connection with 1001, within `shutdown_timeout`, and stop the extensions."""
        patience = self.settings.server.shutdown_timeout
        extensions = asyncio.get_running_loop().create_task(self.extensions.stop(patience))
        await self.endpoint.close(patience, extensions)
        if self._private:
            await self._private.close(patience, asyncio.sleep(0))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


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
    log_unexpected()
    stopping, cut = asyncio.Event(), asyncio.Event()

    def on_stop(name: str) -> None:
        if stopping.is_set():
            cut.set()
        else:
            log.info("stopping", signal=name)
            stopping.set()

    async def reload_all() -> None:
        try:
            fresh = reload()
            await server.reload(fresh)
        except ConfigError as error:
            server.reloads["failed"] += 1
            log.error("reload_failed", error=str(error))
            return
        configure(fresh.log.level, fresh.log.format)
        waiting = needs_restart(settings, fresh)
        if waiting:
            log.warning("restart_needed", keys=waiting)
        log.info("reloaded", log_level=fresh.log.level)

    reloading: set[asyncio.Task[None]] = set()

    def on_reload() -> None:
        task = loop.create_task(reload_all())
        reloading.add(task)
        task.add_done_callback(reloading.discard)

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


def _listen(
    endpoint: Endpoint, hosts: list[str], port: int, certificate: Certificate | None = None
) -> list[tuple[str, int]]:
    try:
        return endpoint.listen(hosts, port, certificate)
    except (OSError, UnicodeError) as error:
        where = ", ".join(hosts)
        raise StartError(f"cannot listen on {where} port {port}: {getattr(error, 'strerror', None) or error}") from None


def _add_routes(endpoint: Endpoint, routes: Mapping[str, Route]) -> None:
    for path, route in routes.items():
        endpoint.add_route(path, route)


def _read_files(settings: Settings) -> tuple[dict[str, object], AccessLists, Certificate | None]:
    """What the watch must know of the files, and what is in them, which may take long. Raises `ConfigError`."""
    tls, access = settings.tls, settings.access
    seen = look([tls.certificate, tls.key, access.allow_infohashes, access.deny_infohashes])
    return seen, AccessLists(access), Certificate(tls) if tls.certificate else None


def _room(settings: Settings) -> SocketBudget:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    wanted = settings.limits.max_connections
    room = SocketBudget.of(_FILES if files == resource.RLIM_INFINITY else files, wanted)
    if room.connections < wanted:
        structlog.get_logger().warning("max_connections_lowered", connections=room.connections, files=files)
    return room


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
    message = without_secrets(str(context.get("message")))
    structlog.get_logger().error("event_loop_error", message=message, exc_info=context.get("exception"))
