"""The extension `dht`: finds the other trackers of this tracker's swarms, and lets them find this one."""

import asyncio
import platform
import time
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from math import inf
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from extensions.dht.metrics import DhtCollector
from extensions.dht.records import descriptor
from extensions.dht.settings import DhtSettings
from extensions.dht.swarm_keys import SwarmKeys
from extensions.entries import sign_entry
from extensions.identity import own_key
from extensions.trackers import MAX_URL, RENDEZVOUS, Sighting, TrackerEntry, is_url
from tracker.extension import (
    ConfigError,
    Extension,
    ExtensionOff,
    Request,
    Response,
    Swarm,
    TrackerHandle,
    plain,
    swarm_key,
)

if TYPE_CHECKING:
    from extensions.dht.service import Service

DESCRIPTOR_PERIOD: Final = 60.0
"""Seconds for which one descriptor is used, because each needs a new signature."""


class Dht(Extension):
    """The API for other extensions. An info_hash is binary or text here, as in the tracker.

    If the DHT cannot be used at all, no tracker is found and nothing is published. In a cluster, this holds for all
    nodes but the gateway, which publishes the tracker for the swarms of all of them.
    """

    Settings = DhtSettings
    at_gateway = True
    make_service: "Callable[..., Service] | None" = None
    """Makes the service from the arguments of `Service`, which is the default."""

    def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
        super().__init__(tracker, settings)
        self._service: Service | None = None
        self._keys = SwarmKeys()
        """The swarms that are open, pinned or looked up."""
        self._open: dict[str, None] = {}
        """The infohashes of the open swarms."""
        self._pinned: set[str] = set()
        self._on_sighting: list[Callable[[str, Sighting], None]] = []
        self._url: str = tracker.settings.server.public_url
        self._publishes = bool(self._url) and settings.publish != "none"
        self.started = asyncio.Event()
        """Set once the extension has started, or failed to start."""
        self._descriptor: TrackerEntry | None = None
        self._descriptor_made = -inf
        if self._url and not (is_url(self._url) and _can_be_split(self._url)):
            raise ConfigError(f"server.public_url: not a URL that fits a record (ASCII, {MAX_URL} characters)")
        tracker.add_route(descriptor.PATH, self._serve_descriptor)
        tracker.registry.register(DhtCollector(lambda: self._service, lambda: tracker.runs_here))
        tracker.add_table("dht", self.table)

    def table(self) -> list[dict[str, Any]]:
        """Return a summary for the status page: one row, or none if the DHT is off."""
        service = self._service
        if service is None:
            return []
        return [
            {
                "reachable": service.reachable.is_set(),
                "nodes_known": service.node.stats.get("dht.dht_nodes", 0),
                "swarms_published": service.directory.published,
                "lookups_waiting": service.client.scheduler.lookups_waiting,
            }
        ]

    @property
    def service(self) -> "Service | None":
        """The service; None before the start, after the end, and if the DHT is off."""
        return self._service

    async def trackers(self, info_hash: str, thorough: bool = False) -> AsyncIterator[Sighting]:
        """Yield the other trackers that serve a swarm, as they are found; see `Directory.trackers`."""
        if self.tracker.runs_here:
            await self.started.wait()
        if self._service:
            key = self._keys.hold(info_hash)
            try:
                async for sighting in self._service.directory.trackers(key, thorough):
                    yield sighting
            finally:
                self._keys.release(info_hash)

    def publish(self, info_hash: str) -> None:
        """Publish this tracker for an infohash, with or without a swarm; no effect if it publishes nothing at all."""
        if info_hash not in self._pinned:
            self._pinned.add(info_hash)
            self._keys.hold(info_hash)
        if self._service:
            self._service.directory.publish(swarm_key(info_hash))

    def withdraw(self, info_hash: str) -> None:
        """Undo `publish`."""
        if info_hash in self._pinned:
            self._pinned.discard(info_hash)
            self._keys.release(info_hash)
        if self._service:
            self._service.directory.withdraw(swarm_key(info_hash))

    def known(self, info_hash: str) -> list[Sighting]:
        """Return the other trackers that are known to serve an infohash, without a lookup."""
        return self._service.directory.sightings.known(swarm_key(info_hash)) if self._service else []

    def learn(self, info_hash: str, entry: TrackerEntry) -> bool:
        """Check an entry that another tracker has passed on. Return whether it was new and valid.

        With an empty `info_hash` it is a descriptor: an entry of the rendezvous. Otherwise, the swarm must be open
        here. Listeners are told as of an entry that was found in the DHT.
        """
        if not self._service:
            return False
        return self._service.directory.learn(swarm_key(info_hash) if info_hash else RENDEZVOUS, entry)

    def entries(self, info_hash: str) -> list[TrackerEntry]:
        """Return the valid signed entries of other trackers that are known for a swarm, to be passed on.

        With an empty `info_hash` they are the descriptors of all known trackers.
        """
        if not self._service:
            return []
        return self._service.directory.sightings.entries(swarm_key(info_hash) if info_hash else RENDEZVOUS)

    def own_descriptor(self) -> TrackerEntry | None:
        """Return our own entry for the rendezvous, with most of its lifetime left; None if nothing is published."""
        if not self._service or not self._publishes:
            return None
        now = time.monotonic()
        if now - self._descriptor_made > DESCRIPTOR_PERIOD:
            self._descriptor_made = now
            self._descriptor = sign_entry(self._key, b"", self._url, time.time())
        return self._descriptor

    def distrust(self, tracker_id: str, url: str) -> None:
        """Believe no entry of a tracker at a URL that was signed before now, because the URL leads to another one."""
        if self._service:
            self._service.directory.sightings.distrust(tracker_id, url)

    def on_sighting(self, tell: Callable[[str, Sighting], None]) -> None:
        """Call `tell` with infohash and tracker whenever any lookup finds a tracker, or a newer entry of one."""
        self._on_sighting.append(tell)

    def stop_telling(self, tell: Callable[[str, Sighting], None]) -> None:
        """Undo `on_sighting`."""
        self._on_sighting.remove(tell)

    async def prepare(self) -> None:
        try:
            check_libtorrent()
            self._key = await own_key(self.tracker)
        except BaseException:
            self.started.set()
            raise

    async def start(self) -> None:
        try:
            await self._start()
        finally:
            self.started.set()

    async def _start(self) -> None:
        state_dir = self.tracker.settings.server.state_dir.expanduser()
        url = self._url if self._publishes else ""
        make_service = self.make_service
        if make_service is None:
            from extensions.dht.service import Service

            make_service = Service
        service = make_service(self.settings, self._key, url, state_dir, task_failures=self.tracker.task_failures)
        service.directory.sightings.listeners.append(self._tell)
        try:
            await service.start()
        except BaseException as error:
            await service.stop()
            if isinstance(error, OSError):
                raise ExtensionOff("the DHT cannot be used", str(error)) from None
            raise
        self._service = service
        for info_hash in self._pinned:
            service.directory.publish(swarm_key(info_hash))
        # A tracker that publishes nothing still looks there for others.
        service.directory.publish(RENDEZVOUS)
        if not self._publishes:
            self.tracker.log.info("dht_publishes_nothing", public_url=self._url, publish=self.settings.publish)

    async def stop(self) -> None:
        service, self._service = self._service, None
        if not self.tracker.runs_here:
            # Another node is the gateway now. This one may become it again.
            self.started.clear()
        for info_hash in self._open:
            self._keys.release(info_hash)
        self._open.clear()
        if service:
            await service.stop()

    async def swarm_opened(self, swarm: Swarm) -> None:
        self._open[swarm.info_hash] = None
        self._keys.hold(swarm.info_hash)

    async def swarm_changed(self, swarm: Swarm) -> None:
        if self._service and (key := self._key_of(swarm)):
            peers = swarm.own_complete + swarm.own_incomplete
            if peers:
                self._service.directory.swarm(key, peers, bool(swarm.remotes))
            else:
                # The gateway of a cluster keeps it open.
                self._service.directory.swarm_closed(key)

    async def swarm_closed(self, swarm: Swarm) -> None:
        if self._service and (key := self._key_of(swarm)):
            self._service.directory.swarm_closed(key)
        del self._open[swarm.info_hash]
        self._keys.release(swarm.info_hash)

    def _key_of(self, swarm: Swarm) -> bytes | None:
        """Return the key of an open swarm.

        Return None if it is the key of a text swarm, too: no torrent has such an infohash, so a client that announces
        it has computed it. It must not withdraw the text swarm by leaving.
        """
        key = swarm_key(swarm.info_hash)
        return key if self._keys.info_hash_of(key) == swarm.info_hash else None

    def _tell(self, key: bytes, sighting: Sighting) -> None:
        info_hash = self._keys.info_hash_of(key)
        for tell in self._on_sighting:
            tell(info_hash, sighting)

    async def _serve_descriptor(self, _request: Request) -> Response:
        own = self.own_descriptor()
        return Response(descriptor.write(own), "application/json") if own else plain(HTTPStatus.NOT_FOUND)


def check_libtorrent() -> None:
    """Raise `ExtensionOff` if libtorrent cannot be imported, because it has no wheels for some Pythons and machines."""
    try:
        import libtorrent  # noqa: F401
    except ModuleNotFoundError:
        python = ".".join(platform.python_version_tuple()[:2])
        raise ExtensionOff("libtorrent is not installed", f"it may have no wheel for Python {python}") from None
    except ImportError as error:
        raise ExtensionOff("libtorrent cannot be loaded", str(error)) from None


def _can_be_split(url: str) -> bool:
    try:
        return bool(urlsplit(url).hostname)
    except ValueError:
        return False
