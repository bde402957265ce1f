"""One tracker: all its parts put together, started, reloaded and stopped."""

import asyncio
import errno
import random
import resource
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from time import monotonic
from typing import Final

import structlog

from tracker.access.gate import ConnectionGate, SocketBudget
from tracker.access.lists import AccessLists
from tracker.access.places import Locate, locator
from tracker.config import ConfigError
from tracker.core.hub import Hub
from tracker.core.nearby import Nearby
from tracker.core.rules import Rules
from tracker.extension.api import Extension
from tracker.extension.host import ExtensionHost
from tracker.files import Watch, aside, look
from tracker.logs import report_suppressed
from tracker.metrics import HttpCollector, LoopLag, OperationCollector, registry_for
from tracker.mistakes import both
from tracker.net.endpoint import Endpoint
from tracker.net.handover import HandOver
from tracker.net.listener import Listening, listen
from tracker.net.placement import Placement
from tracker.net.tls import Certificate
from tracker.peers import PeerSockets
from tracker.settings import Access, Limits, Settings
from tracker.tasks import BackgroundTasks
from tracker.trace import trace_for
from tracker.urls import as_http, own_statistics, url_at
from tracker.web.pages import Pages
from tracker.web.whole import Whole
from tracker.worker import Inherited

MAX_FILES: Final = 1 << 20
"""Open files to count with if the system sets no limit."""

EXPIRE_PERIOD: Final = 0.25
EXPIRE_ROUND: Final = 240
"""Seconds between two looks for silent peers, and number of looks that visit all peers."""


_IN_USE: Final = "stop the program that uses it, which `ss -ltnp` shows, or choose another port"
_REMEDIES: Final = {
    errno.EADDRINUSE: ("port", _IN_USE),
    errno.EACCES: ("port", "a port below 1024 needs the capability CAP_NET_BIND_SERVICE"),
    errno.EADDRNOTAVAIL: ("host", "name an address of this machine"),
}
"""The key of its section and a remedy for each error of a system call that opens a port."""


class StartError(ConfigError):
    """The tracker cannot start, because an address cannot be bound."""


class Server:
    """One tracker in this process.

    Raises:
        ConfigError: if a setting cannot be used, also one of an extension.
    """

    def __init__(
        self, settings: Settings, extensions: Mapping[str, type[Extension]], inherited: Inherited | None = None
    ) -> None:
        self.settings = settings
        self._inherited = inherited
        self._watch = Watch(self._on_files_changed)
        seen, access, self.certificate, locate = _read_files(settings)
        self.reloads: Counter[str] = Counter()
        self.extensions = ExtensionHost(extensions, settings, inherited.worker if inherited else None)
        self._tasks = BackgroundTasks(self.extensions.task_failures)
        self._reloading = asyncio.Lock()

        rules = Rules(**settings.tracker.model_dump())
        observer = None if self.extensions.is_empty else self.extensions
        nearby = Nearby(locate, settings.nearby.random_share) if locate else None
        self.hub = Hub(rules, random.Random().random, access.serves, observer, nearby)
        self.peers = PeerSockets(self.hub, settings.connections.max_invalid)
        gate = ConnectionGate(settings, access, self._budget(settings))
        prefix = settings.server.path_prefix
        self.endpoint = Endpoint(settings.connections, gate, self.peers.open, prefix)
        self.endpoint.log_addresses = settings.log.addresses
        self.hub.trace = trace_for(settings.log.level)

        host = self.extensions
        self.registry = registry_for(self.hub, self.endpoint, self.peers.traffic, host.errors, host.task_failures)
        self.registry.register(OperationCollector(self.reloads, self.certificate))
        self._whole = Whole(self.hub, self.endpoint, self.registry, host.others, inherited)
        pages = Pages(
            self.hub,
            self.endpoint,
            settings.server.public_url,
            self.extensions.tables,
            settings.page,
            self._whole,
            tls=self.certificate is not None,
            statistics=not settings.metrics.port,
            swarm_counts=settings.server.swarm_counts,
        )
        self._private: Endpoint | None = None
        if settings.metrics.port:
            # The metrics' own port has no limits but the number of sockets.
            limits = Limits(connections_per_address=0, new_connections_per_second=0, pages_per_second=0)
            open_gate = ConnectionGate(Settings(limits=limits), AccessLists(Access()), self._budget(settings))
            self._private = Endpoint(settings.connections, open_gate, prefix=prefix)
            pages.add_statistics(self._private.routes)
            pages.add_health(self._private.routes)
            ports = [self.endpoint.routes, self._private.routes]
        else:
            pages.add_statistics(self.endpoint.routes)
            ports = [self.endpoint.routes]
        self._endpoints = [self.endpoint, *([self._private] if self._private else [])]
        self.registry.register(HttpCollector(ports))
        pages.add_page(self.endpoint.routes)
        pages.add_health(self.endpoint.routes)
        self.extensions.load(self.hub, self.peers.outbox, self.endpoint, self.registry)
        self._watch.set_files({**seen, **self.extensions.files.seen})
        self.addresses: list[tuple[str, int]] = []
        self._lag = LoopLag(self.registry)

    async def start(self) -> None:
        """Listen, then start the extensions.

        Raises:
            ConfigError: if an extension cannot run with these settings.
            StartError: if an address cannot be listened on.
        """
        await self.extensions.prepare()
        server, metrics = self.settings.server, self.settings.metrics
        if self._inherited:
            index = self._inherited.worker.index
            private = Listening.inherited(self._inherited.metrics, index)
            public = Listening.inherited(self._inherited.server, index, self._inherited.unix)
            sends = server.group_swarms and not self.certificate
            self.endpoint.hand_over = hand_over(self._inherited, self.endpoint, sends)
        else:
            with opening("metrics", [metrics.host], metrics.port):
                private = listen([metrics.host] if metrics.port else [], metrics.port)
            with opening("server", server.hosts, server.port):
                public = listen(server.hosts, server.port, server.unix_sockets, int(server.unix_socket_mode, 8))
        self.addresses = public.addresses
        if self._private:
            self._private.listen(private)
        self.endpoint.listen(public, self.certificate)
        self._tasks.start("loop_lag", self._lag.run(), endless=True)
        self._tasks.start("watch_files", self._watch.run(), endless=True)
        self._tasks.start("report_suppressed", report_suppressed(), endless=True)
        self._tasks.repeat("expire_peers", EXPIRE_PERIOD, self._expire_peers)
        self.extensions.start()

    @property
    def urls(self) -> list[str]:
        """The URLs to open in a browser."""
        scheme, server = "https" if self.certificate else "http", self.settings.server
        urls = [f"{url_at(scheme, host, port)}{server.path_prefix}/" for host, port in self.addresses]
        if self._private:
            urls.append(f"{own_statistics(self.settings)}/stats")
        return [*urls, as_http(server.public_url)] if server.public_url else urls

    async def reload(self, fresh: Settings | None = None) -> None:
        """Adopt the settings that can change at run time: access lists, limits, certificate, trusted proxies, places,
        log.

        Without `fresh`, the settings stay and only their files are read again.

        Raises:
            ConfigError: if a file cannot be used; then nothing changes.
        """
        async with self._reloading:
            fresh = fresh or self.settings
            files = self.extensions.files
            (seen, access, certificate, locate), contents = await aside(lambda: (_read_files(fresh), files.read()))
            if self.certificate and certificate:
                self.certificate.replace(certificate)
            if self.hub.nearby and locate:
                self.hub.nearby.change(locate, fresh.nearby.random_share)
            self.reloads["done"] += 1
            self.settings = fresh
            self.endpoint.gate.change(fresh, access, self._budget(fresh))
            self.endpoint.log_addresses = fresh.log.addresses
            self.hub.trace = trace_for(fresh.log.level)
            self.extensions.change(fresh)
            self.hub.restrict(access.serves, self.peers.outbox)
            files.adopt(contents)
            self._watch.set_files({**seen, **files.seen})

    def adopt(self, place: int) -> None:
        """Accept the connections of another worker, too, because it does not."""
        if self.endpoint.hand_over:
            self.endpoint.hand_over.adopt(place)
        for endpoint in self._endpoints:
            endpoint.adopt(place)

    def release(self, place: int) -> None:
        """Leave the connections of another worker to it again."""
        if self.endpoint.hand_over:
            self.endpoint.hand_over.release(place)
        for endpoint in self._endpoints:
            endpoint.release(place)

    def set_loads(self, connections: Sequence[int]) -> None:
        """Note the numbers of WebSockets of all workers."""
        if self.endpoint.hand_over:
            self.endpoint.hand_over.set_loads(connections)

    async def retire(self) -> None:
        """Leave new connections to another process, and close the WebSockets, spread over `server.restart_spread`."""
        spread = self.settings.server.restart_spread
        await asyncio.gather(*(endpoint.retire(spread) for endpoint in self._endpoints))

    async def stop(self) -> None:
        """Stop the extensions and close every connection with 1001, all within `shutdown_timeout` seconds."""
        deadline = monotonic() + self.settings.server.shutdown_timeout
        extensions = asyncio.get_running_loop().create_task(self.extensions.stop(deadline))
        closing = [self.endpoint.close(deadline, extensions)]
        if self._private:
            closing.append(self._private.close(deadline, asyncio.sleep(0)))
        await asyncio.gather(*closing)
        await self._tasks.stop()
        self._whole.save_counters()

    def abort(self) -> None:
        """Abort every connection at once."""
        for endpoint in self._endpoints:
            endpoint.abort()

    def _on_files_changed(self) -> None:
        self._tasks.start("reload_files", self._reload_files())

    async def _reload_files(self) -> None:
        log = structlog.get_logger()
        try:
            await self.reload()
            log.info("files_reloaded")
        except ConfigError as error:
            # The file may be half written; the old content stays in use.
            self.reloads["failed"] += 1
            log.error("reload_failed", error=str(error))

    def _budget(self, settings: Settings) -> SocketBudget:
        return socket_budget(settings, self._inherited.worker.count if self._inherited else 1)

    async def _expire_peers(self) -> None:
        hub = self.hub
        hub.expire(monotonic(), max(50, (hub.seeders + hub.leechers) // EXPIRE_ROUND))


def socket_budget(settings: Settings, workers: int = 1) -> SocketBudget:
    """Return the number of sockets that the limit of open files allows, logging if it is less than the settings ask.

    The limit of open files holds for each of several workers. They share `limits.max_connections`.
    """
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    wanted = ceil(settings.limits.max_connections / workers)
    budget = SocketBudget.of(MAX_FILES if files == resource.RLIM_INFINITY else files, wanted)
    if budget.connections < wanted:
        structlog.get_logger().warning("max_connections_lowered", connections=budget.connections, files=files)
    return budget


def hand_over(inherited: Inherited, endpoint: Endpoint, sends: bool) -> HandOver:
    """Return the hand-over between the workers of this machine. `sends`: this one hands connections to others."""
    index = inherited.worker.index
    inboxes, outboxes = [], []
    for reader, writer in inherited.handing:
        inboxes.append(socket.socket(fileno=reader))
        outboxes.append(socket.socket(fileno=writer))
    for one in (*inboxes, *outboxes):
        one.setblocking(False)
    return HandOver(Placement(index, inherited.worker.count), index, inboxes, outboxes, endpoint, sends)


@contextmanager
def opening(section: str, hosts: Sequence[str], port: int) -> Iterator[None]:
    """Turn the error of an address that cannot be listened on into a `StartError`."""
    try:
        yield
    except (OSError, UnicodeError) as error:
        path = getattr(error, "filename", None)
        where = f"unix:{path}" if path else f"{', '.join(hosts)} port {port}"
        text = f"cannot listen on {where}: {getattr(error, 'strerror', None) or error}"
        key, remedy = ("host", "") if path else _REMEDIES.get(getattr(error, "errno", None) or 0, ("host", ""))
        raise StartError(f"{section}.{key}: {text}{f'; {remedy}' if remedy else ''}") from None


def _read_files(settings: Settings) -> tuple[dict[str, object], AccessLists, Certificate | None, Locate | None]:
    """Read the files that the settings name; this may take long.

    Return their state before the reading, the access lists, the certificate and the function that finds places.

    Raises:
        ConfigError: if a file cannot be used.
    """
    tls, access, nearby = settings.tls, settings.access, settings.nearby
    databases = nearby.databases if nearby.enabled else []
    seen = look([tls.certificate, tls.key, access.allow_infohashes, access.deny_infohashes, *databases])
    (lists, certificate), locate = both(
        lambda: both(lambda: AccessLists(access), lambda: Certificate(tls) if tls.certificate else None),
        lambda: locator(nearby) if nearby.enabled else None,
    )
    return seen, lists, certificate, locate
