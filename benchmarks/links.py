"""Linked trackers of this project, and the other ends of links."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final
from urllib.request import urlopen

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from picows import WSListener, WSMsgType, WSTransport
from websockets.asyncio.server import ServerConnection

from benchmarks.load import encode, open_socket
from benchmarks.servers import OURS, Running, ServerFailed, running
from benchmarks.suite import Suite
from extensions.dialing import Target
from extensions.federation.filters import OwnSwarms
from extensions.federation.session import Session
from extensions.federation.transports import Dialed, dial

TIMEOUT: Final = 30.0
SWARMS_PER_SOCKET: Final = 1000


class Tracker:
    """A running tracker, and its statistics over HTTP."""

    def __init__(self, server: Running) -> None:
        self.server = server
        self.port = server.port

    @property
    def links(self) -> list[dict[str, Any]]:
        """Its links."""
        links: list[dict[str, Any]] = json.loads(self._get("/stats.json"))["federation"]
        return links

    def metric(self, name: str, label: str = "") -> float:
        """The sum of a metric's values with a label, such as `direction="in"`."""
        lines = [line for line in self._get("/metrics").splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rpartition(" ")[2]) for line in lines if label in line)

    def _get(self, path: str) -> str:
        with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=TIMEOUT) as response:
            text: str = response.read().decode()
            return text


@contextmanager
def tracker(suite: Suite, *peers: str) -> Iterator[Tracker]:
    """One of ours, with links to the URLs in `peers`."""
    environment = {
        "PEERSERVERS_TRACKER__MAX_FOREIGN_OFFERS": str(10**9),
        "PEERSERVERS_EXTENSIONS__FEDERATION__MAX_LINKS": "1000",
        "PEERSERVERS_EXTENSIONS__FEDERATION__PEERS": json.dumps(peers),
    }
    with running(OURS, suite.commands[OURS], suite.server_core, environment) as server:
        yield Tracker(server)


@asynccontextmanager
async def two(suite: Suite, linked: bool = True) -> AsyncIterator[list[Tracker]]:
    """Two trackers, of which the second has dialed the first."""
    with tracker(suite) as one, tracker(suite, *[f"ws://127.0.0.1:{one.port}"] * linked) as other:
        await until(lambda: len(one.links) == len(other.links) == linked)
        yield [one, other]


async def until(done: Callable[[], bool], pause: float = 0.1) -> None:
    """Wait for something. Raises `TimeoutError`."""
    async with asyncio.timeout(TIMEOUT):
        while not done():  # noqa: ASYNC110
            await asyncio.sleep(pause)


def shared(pair: list[Tracker]) -> set[int]:
    """How many swarms each end of each link says are shared."""
    return {link["shared_swarms"] for one in pair for link in one.links}


def check_shared(pair: list[Tracker], expected: set[int]) -> None:
    """Raises `ServerFailed` if it is not so many."""
    if shared(pair) != expected:
        raise ServerFailed("not all swarms are shared that should be")


async def neighbour(port: int, swarms: OwnSwarms | None = None) -> tuple[Session, Dialed]:
    """A tracker with these open swarms that has dialed the one at a port, and proved its id."""
    url = f"ws://127.0.0.1:{port}/"
    transport = Dialed(await dial(Target(url, "127.0.0.1", port)))
    session = Session(Ed25519PrivateKey.generate(), os.urandom(32), url=url, swarms=swarms, features=())
    await _shake_hands(session, transport)
    return session, transport


async def accept(socket: ServerConnection) -> None:
    """Be a tracker that is dialed, until the link ends."""
    transport: Any = socket
    session = Session(Ed25519PrivateKey.generate(), os.urandom(32), accepts=lambda _: True, features=())
    await _shake_hands(session, Dialed(transport))
    await socket.wait_closed()


async def _shake_hands(session: Session, transport: Dialed) -> None:
    await transport.send(session.start())
    while not session.tracker_id:
        for reply in session.receive(await transport.receive())[1]:
            await transport.send(reply)


class Client(WSListener):
    """A client that ignores all messages."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        """The handshake is done."""
        self.transport = transport


async def open_swarms(port: int, first: int, number: int, kind: int) -> list[Client]:
    """Open swarms with these numbers as infohashes, by clients that are to be kept, with one peer in each."""
    clients = []
    for swarm in range(first, first + number):
        if (swarm - first) % SWARMS_PER_SOCKET == 0:
            clients.append(Client())
            await open_socket(clients[-1], port)
        open_swarm(clients[-1], swarm, kind)
        if swarm % 100 == 0:
            await asyncio.sleep(0.01)
    return clients


def open_swarm(client: Client, swarm: int, kind: int) -> None:
    """Open one swarm by a peer."""
    ids = {"action": "announce", "info_hash": f"{swarm:020}", "peer_id": f"{kind}-{swarm:018}"}
    client.transport.send(WSMsgType.TEXT, encode({**ids, "left": 1, "offers": []}))
