"""Real trackers in this process, with WebSockets and libtorrent, for comparison with simulated ones."""

import asyncio
import itertools
import random
import socket
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

from websockets.exceptions import WebSocketException

from extensions.dht.extension import Dht as DhtExtension
from extensions.dht.service import Service
from extensions.federation.extension import Federation
from extensions.federation.link import Link
from extensions.federation.mesh import Mesh
from extensions.federation.transports import Dialer, Transport
from tests.private_dht import PrivateDht
from tests.simulation.measures import Sample, sample
from tests.simulation.peers import Home, PeerConnection, SimulatedPeer
from tests.simulation.scenarios import REAL_NODES, REAL_PACE
from tracker import client
from tracker.core.hub import Hub
from tracker.protocol.client import MessageError, decode, encode
from tracker.protocol.messages import Announce, AnnounceReply, Answer, RelayedAnswer, RelayedOffer
from tracker.server import Server
from tracker.settings import Settings

TIME_LIMIT: Final = 3600.0

_ports: Final = itertools.count(10_000)


class RealNetwork:
    """Counts dials and connections, as `tests.simulation.network.Network` does."""

    def __init__(self) -> None:
        self.dials = self.connected = 0
        self._dialer = Dialer()

    async def connect(self, url: str, trusted: bool) -> Transport:
        """Connect to a tracker's URL."""
        self.dials += 1
        transport = await self._dialer.connect(url, trusted)
        self.connected += 1
        return transport


class RealDht:
    """Counts lookups and stores of all trackers, as `tests.simulation.dht.model.Dht` does."""

    def __init__(self) -> None:
        self.gets = self.puts = 0

    def counted(self, *arguments: Any, **options: Any) -> Service:
        """Return a service that is counted here."""
        service = Service(*arguments, **options)
        methods: Any = service.client
        for name in ("get", "get_peers", "put", "announce"):
            setattr(methods, name, self._counting(name, getattr(methods, name)))
        return service

    def _counting(self, name: str, method: Any) -> Any:
        def call(*arguments: Any) -> Any:
            if name.startswith("get"):
                self.gets += 1
            else:
                self.puts += 1
            return method(*arguments)

        return call


class RealTracker(Home):
    """A tracker with its peers' WebSockets."""

    is_hostile = False

    def __init__(self, settings: Settings, network: RealNetwork, dht: RealDht) -> None:
        self._server = Server(settings, {"dht": DhtExtension, "federation": Federation})
        extensions = self._server.extensions.extensions
        self._federation = cast(Federation, extensions["federation"])
        self._federation.connect = network.connect
        cast(DhtExtension, extensions["dht"]).make_service = dht.counted
        self._url = f"ws://127.0.0.1:{settings.server.port}"
        self._queues: dict[PeerConnection, asyncio.Queue[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def hub(self) -> Hub:
        """Its swarms."""
        return self._server.hub

    @property
    def mesh(self) -> Mesh | None:
        """Its links."""
        return self._federation.mesh

    @property
    def links(self) -> dict[str, Link]:
        """Its open links by tracker id."""
        return self.mesh.links if self.mesh else {}

    async def start(self) -> None:
        """Start; peers and other trackers can connect from now on."""
        await self._server.start()
        self.is_up = True

    async def stop(self) -> None:
        """End the peers' connections, and stop."""
        self.is_up = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.stop()

    def apply(self, connection: PeerConnection, message: Announce | Answer) -> None:
        """Send a message on the WebSocket of a connection, which opens with the first message."""
        queue = self._queues.get(connection)
        if queue is None:
            queue = self._queues[connection] = asyncio.Queue()
            task = asyncio.ensure_future(self._carry(connection, queue))
            self._tasks.add(task)
        queue.put_nowait(encode(message))

    async def _carry(self, connection: PeerConnection, queue: asyncio.Queue[bytes]) -> None:
        async with client.connect(self._url, TIME_LIMIT) as socket:
            sending = asyncio.ensure_future(self._send(socket, queue))
            try:
                while True:
                    self._receive(connection, await socket.receive_text())
            except WebSocketException:
                pass
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, socket: client.TrackerClient, queue: asyncio.Queue[bytes]) -> None:
        while True:
            await socket.send_text(await queue.get())

    def _receive(self, connection: PeerConnection, text: str) -> None:
        peer = connection.owner
        with suppress(MessageError):
            message = decode(text)
            if isinstance(message, AnnounceReply):
                peer.on_reply(int(message.interval or 120))
            elif isinstance(message, RelayedOffer):
                peer.on_offer(connection, message.peer_id, message.offer)
            elif isinstance(message, RelayedAnswer) and isinstance(peer, SimulatedPeer):
                peer.on_answer(
                    Answer(peer.info_hash, message.peer_id, peer.peer_id, message.sdp.copy(), message.offer_id.copy())
                )


class RealWorld:
    """Real trackers and their peers, as `measures.sample` expects a world to be."""

    def __init__(self, trackers: int, dht: PrivateDht, directory: Path) -> None:
        self.network = RealNetwork()
        self.dht = RealDht()
        self.peers: dict[str, SimulatedPeer] = {}
        self.swarms: dict[str, list[SimulatedPeer]] = {}
        self.samples: list[Sample] = []
        self.honest = [self._tracker(number, dht, directory) for number in range(trackers)]
        self.started = time.monotonic()

    @property
    def now(self) -> float:
        """The monotonic clock."""
        return time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since the beginning."""
        return self.now - self.started

    async def start(self, within: float) -> None:
        """Start the trackers at random moments within some seconds."""

        async def start(tracker: RealTracker) -> None:
            await asyncio.sleep(random.uniform(0, within))
            await tracker.start()

        self.started = time.monotonic()
        await asyncio.gather(*map(start, self.honest))

    def add_peer(self, info_hash: str, tracker: RealTracker) -> SimulatedPeer:
        """Add a peer, which must still `join`."""
        peer = SimulatedPeer(len(self.peers), info_hash, tracker, False, self._on_meeting)
        self.peers[peer.peer_id] = peer
        self.swarms.setdefault(info_hash, []).append(peer)
        return peer

    async def join(self, peers: Iterable[SimulatedPeer], within: float) -> None:
        """Let peers join at random moments within some seconds."""
        loop = asyncio.get_running_loop()
        for peer in peers:
            loop.call_later(random.uniform(0, within), peer.join)
        await asyncio.sleep(within)

    async def observe(self, seconds: float, period: float = 5.0) -> None:
        """Take a sample at each period until the world has this age."""
        while self.age < seconds:
            await asyncio.sleep(period - self.age % period)
            self.samples.append(sample(self))

    async def stop(self) -> None:
        """Stop everything."""
        for peer in self.peers.values():
            peer.forget()
        await asyncio.gather(*(tracker.stop() for tracker in self.honest))

    def _tracker(self, number: int, dht: PrivateDht, directory: Path) -> RealTracker:
        port = _free_port()
        settings = Settings.model_validate(
            {
                "server": {
                    "host": "127.0.0.1",
                    "port": port,
                    "public_url": f"ws://127.0.0.1:{port}",
                    "state_dir": directory / str(number),
                },
                "limits": {"exempt": ["127.0.0.1"]},
                "extensions": {
                    "dht": {"enabled": True, **dht.settings},
                    "federation": {"enabled": True, "allow_private_addresses": True},
                },
            }
        )
        return RealTracker(settings, self.network, self.dht)

    def _on_meeting(self, peer: SimulatedPeer, other_id: str) -> None:
        peer.meet(other_id)
        self.peers[other_id].meet(peer.peer_id)


async def live(trackers: int, infohashes: int, spread: tuple[int, int], seconds: float) -> RealWorld:
    """Let real trackers and peers live as those of the scenario `validate` do."""
    start = REAL_PACE
    with tempfile.TemporaryDirectory(prefix="simulation-") as directory:
        async with PrivateDht(REAL_NODES) as dht:
            world = RealWorld(trackers, dht, Path(directory))
            try:
                await world.start(start)
                await world.observe(2 * start)
                peers = [
                    world.add_peer(info_hash, tracker)
                    for info_hash in [random.randbytes(20).decode("latin-1") for _ in range(infohashes)]
                    for tracker in random.sample(world.honest, random.randint(*spread))
                ]
                await world.join(peers, start)
                await world.observe(world.age + seconds)
            finally:
                await world.stop()
    return world


def _free_port() -> int:
    """Return a TCP port on which no program listens, outside of the range from which the system gives ports."""
    while True:
        port = next(_ports)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
