"""A simulated tracker: the product's hub, extensions, links, and directory, on a modelled network and DHT."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from prometheus_client import CollectorRegistry

from extensions.dht.cache import Known
from extensions.dht.directory import Directory
from extensions.dht.extension import Dht as DhtExtension
from extensions.dht.krpc.messages import Address
from extensions.dht.krpc.schedule import LookupLimits
from extensions.dht.krpc.scheduler import Scheduler
from extensions.dht.records import descriptor
from extensions.dht.records.bep5 import Bep5Fallback
from extensions.dht.settings import DhtSettings
from extensions.federation.exchange import Exchange
from extensions.federation.extension import Federation
from extensions.federation.link import Link
from extensions.federation.mesh import Mesh
from extensions.identity import KEY_FILE
from extensions.trackers import TrackerEntry
from tests.simulation.dht.model import Dht, DhtClient, NoNode
from tests.simulation.network import End, Host, InMemoryChannel, Line, Network
from tests.simulation.peers import Home, PeerConnection, PeerOutbox
from tracker.core.hub import Hub
from tracker.core.rules import Rules
from tracker.extension import BackgroundTasks, CloseReason, Extension, Request, Response
from tracker.extension.host import ExtensionHost
from tracker.protocol.messages import Announce, Answer
from tracker.settings import Settings

JOINS_DHT: Final = (0.3, 1.0)
"""Seconds from the start of a tracker until it knows nodes of the DHT."""

EXPIRE_PERIOD: Final = 5.0
SAVE_PERIOD: Final = 300.0
"""Seconds between two looks for silent peers, and two saves of the DHT's cache."""

STOP_TIMEOUT: Final = 10.0


@dataclass
class Disk:
    """The state of a tracker that survives a restart."""

    directory: Path
    cache: dict[bytes, Known] = field(default_factory=dict)

    def write_key(self, seed: int) -> None:
        """Give the tracker a key pair."""
        key = Ed25519PrivateKey.from_private_bytes(random.Random(seed).randbytes(32))
        self.directory.mkdir(parents=True, exist_ok=True)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.directory / KEY_FILE).write_bytes(pem)


class ModelledService:
    """The interface of `extensions.dht.service.Service`, with the product's directory on the modelled DHT."""

    def __init__(
        self,
        dht: Dht,
        disk: Disk,
        address: str,
        fetch: Callable[[Address, float], Any],
        settings: DhtSettings,
        key: Ed25519PrivateKey,
        url: str,
        _state_dir: Path,
        task_failures: Counter[str] | None = None,
    ) -> None:
        self.node = NoNode()
        self.reachable = asyncio.Event()
        self.settled = self.reachable
        scheduler = Scheduler(LookupLimits(), self.reachable.is_set, time.monotonic)
        self.client = DhtClient(dht, scheduler, address)
        self._disk = disk
        self._known = {info_hash: copy(known) for info_hash, known in disk.cache.items()}
        self._tasks = BackgroundTasks(task_failures)
        client: Any = self.client
        self.directory = Directory(
            client,
            Bep5Fallback(client, fetch, 443, settings.private, time.time, time.monotonic, Counter()),
            scheduler,
            key,
            url,
            settings.publish,
            (),
            settings.max_published,
            self._known,
            self.reachable.is_set,
            self._tasks.start,
            time.time,
            time.monotonic,
            random.uniform,
        )

    async def start(self) -> None:
        """Join the DHT in the background."""
        self._upkeep = self._tasks.start("dht_upkeep", self._keep_up(), endless=True)

    async def stop(self) -> None:
        """Stop, and save the cache."""
        self._upkeep.cancel()
        await self.directory.close()
        self.client.close()
        self.save()

    def save(self) -> None:
        """Write the cache to the disk."""
        self._disk.cache = {info_hash: copy(known) for info_hash, known in self._known.items()}

    async def _keep_up(self) -> None:
        await asyncio.sleep(random.uniform(*JOINS_DHT))
        self.reachable.set()
        self.client.scheduler.wake()
        while True:
            await asyncio.sleep(SAVE_PERIOD)
            self.save()


class _Routes:
    """The HTTP routes of a tracker."""

    def __init__(self) -> None:
        self.paths: dict[str, Callable[[Request], Any]] = {}

    def add(self, path: str, route: Callable[[Request], Any], *, public: bool = False) -> None:
        self.paths[path] = route


class _Endpoint:
    """The part of `tracker.net.endpoint.Endpoint` that extensions use."""

    def __init__(self) -> None:
        self.routes = _Routes()

    def add_subprotocol(self, name: str, opener: object) -> None: ...


class Tracker(Host, Home):
    """One tracker. It can be started again after its end."""

    is_hostile = False
    federation_type: type[Federation] = Federation

    def __init__(
        self, number: int, network: Network, dht: Dht, disk: Disk, settings: Mapping[str, Any], rules: Rules, line: Line
    ) -> None:
        self.number = number
        self.url = f"wss://t{number}.example"
        self.address = f"5.{number // 65536}.{number // 256 % 256}.{number % 256}"
        self.line = line
        self.disk = disk
        self.settings = dict(settings)
        """The section of the extension `federation`."""
        self.starts = 0
        self._network = network
        self._dht = dht
        self._rules = rules
        self._tasks = BackgroundTasks()
        self._outbox = PeerOutbox()
        self._connections: dict[PeerConnection, None] = {}
        self.hub: Hub
        self.federation: Federation
        self.failures: Counter[str] = Counter()
        """Failures of extensions and of background tasks."""
        self.ended: Counter[str] = Counter()
        """Ended links of earlier runs by reason."""
        self._host: ExtensionHost
        self._endpoint = _Endpoint()
        network.hosts[self.url] = self

    @property
    def mesh(self) -> Mesh | None:
        """Its links; None before the start of the extension."""
        return self.federation.mesh

    @property
    def exchange(self) -> Exchange | None:
        """The exchange with its neighbours; None before the start of the extension."""
        return self.federation.exchange

    @property
    def links(self) -> dict[str, Link]:
        """Its open links by tracker id."""
        return self.mesh.links if self.is_up and self.mesh else {}

    @property
    def service(self) -> Any:
        """Its service of the DHT; None before the start of the extension."""
        return cast(DhtExtension, self._host.extensions["dht"]).service

    @property
    def ends(self) -> Counter[str]:
        """All ended links by reason."""
        ended = self.mesh.ended if self.is_up and self.mesh else Counter()
        return self.ended + Counter({reason.value: number for reason, number in ended.items()})

    async def start(self) -> None:
        """Start; peers and other trackers can connect from now on."""
        self.starts += 1
        settings = Settings.model_validate(
            {
                "server": {"public_url": self.url, "state_dir": self.disk.directory},
                "extensions": {"federation": {"enabled": True, **self.settings}, "dht": {"enabled": True}},
            }
        )
        classes: dict[str, type[Extension]] = {"dht": DhtExtension, "federation": self.federation_type}
        self._host = host = ExtensionHost(classes, settings)
        self._endpoint = _Endpoint()
        self.hub = Hub(self._rules, random.Random(random.random()).random, observer=host)
        endpoint: Any = self._endpoint
        host.load(self.hub, self._outbox, endpoint, CollectorRegistry())
        self.federation = cast(Federation, host.extensions["federation"])
        self.federation.connect = lambda url, _trusted: self.connect(url)
        finder = cast(DhtExtension, host.extensions["dht"])
        finder.make_service = self._make_service
        await host.prepare()
        self._tasks = BackgroundTasks(host.task_failures)
        self._tasks.repeat("expire_peers", EXPIRE_PERIOD, self._expire_peers)
        self.is_up = True
        host.start()

    async def stop(self) -> None:
        """Stop as the product does on SIGTERM."""
        self.is_up = False
        self._drop_peers()
        await self._host.stop(time.monotonic() + STOP_TIMEOUT)
        await self._tasks.stop()
        self._network.cut(self.url)
        if self.mesh:
            self.ended += Counter({reason.value: number for reason, number in self.mesh.ended.items()})
        self.failures += self._host.errors + self._host.task_failures

    async def kill(self) -> None:
        """End without a word, as a killed process does."""
        cache = self.disk.cache
        self.is_up = False
        self._network.cut(self.url)
        if self.service:
            self.service.client.close()
        await self.stop()
        self.disk.cache = cache

    def accept(self, channel: InMemoryChannel) -> None:
        """Serve a link that another tracker has dialed."""
        self._tasks.start("accept", self._serve(channel))

    async def connect(self, url: str) -> End:
        """Dial another tracker."""
        return await self._network.connect(self.url, url)

    def apply(self, connection: PeerConnection, message: Announce | Answer) -> None:
        """Apply a message of a local peer."""
        self._connections[connection] = None
        self.hub.apply(connection, message, time.monotonic(), self._outbox)

    def disconnect(self, connection: PeerConnection) -> None:
        """End the connection of a local peer."""
        self._connections.pop(connection, None)
        self.hub.close(connection)

    async def descriptor(self) -> Response:
        """Return the response at the path of the descriptor."""
        response: Response = await self._endpoint.routes.paths[descriptor.PATH](Request(descriptor.PATH, "", {}))
        return response

    async def _serve(self, channel: InMemoryChannel) -> None:
        accepted: Any = channel
        try:
            if self.mesh:
                await self.mesh.accept(accepted)
        finally:
            channel.close(1000, CloseReason.CLOSED_BY_EXTENSION)

    def _make_service(self, settings: DhtSettings, *arguments: Any, **options: Any) -> Any:
        return ModelledService(self._dht, self.disk, self.address, self._fetch, settings, *arguments, **options)

    async def _fetch(self, address: Address, now: float) -> TrackerEntry:
        """Fetch the descriptor of the tracker with an address."""
        await asyncio.sleep(0.2)
        for host in self._network.hosts.values():
            if host.address == address[0] and host.is_up and not self._network.is_apart(self.url, host.url):
                assert isinstance(host, Tracker)
                response = await host.descriptor()
                if response.status is HTTPStatus.OK:
                    return descriptor.read(response.body, now)
        raise descriptor.DescriptorError("no answer")

    def _drop_peers(self) -> None:
        connections, self._connections = self._connections, {}
        for connection in connections:
            self.hub.close(connection)
            connection.owner.lose()

    async def _expire_peers(self) -> None:
        self.hub.expire(time.monotonic(), max(50, (self.hub.seeders + self.hub.leechers) // 12))
