"""aiortc, WebRTC in Python, as a peer whose every message is sent by a test."""

import asyncio
import importlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from tests.client import PATIENCE, Json, RawClient, answer, raw_client
from tests.conftest import TrackerProcess

try:
    aiortc: Any = importlib.import_module("aiortc")
except ImportError:
    aiortc = None

# With control characters, quotes and the upper half of latin-1, as in most infohashes.
HASH = bytes(range(0, 256, 13)).decode("latin-1")

NewId = Callable[[], str]


class RtcPeer:
    """A peer with WebRTC connections, which offers and answers them through a tracker."""

    def __init__(self, tracker: RawClient, info_hash: str, new_id: NewId) -> None:
        self.tracker = tracker
        self.info_hash = info_hash
        self.new_id = new_id
        self.peer_id = new_id()
        self.connections: list[Any] = []
        self.offered: dict[str, tuple[Any, Any]] = {}

    async def join(self) -> Json:
        """Announce without offers."""
        return await self.tracker.announce(self.peer_id, self.info_hash, event="started")

    async def offer(self, count: int) -> Json:
        """Announce with offers; return the tracker's reply."""
        offers = []
        for _ in range(count):
            connection, offer_id = self._connection(), self.new_id()
            self.offered[offer_id] = connection, connection.createDataChannel("webtorrent")
            await connection.setLocalDescription(await connection.createOffer())
            offer = {"type": "offer", "sdp": connection.localDescription.sdp}
            offers.append({"offer": offer, "offer_id": offer_id})
        return await self.tracker.announce(self.peer_id, self.info_hash, numwant=count, offers=offers)

    async def accept_offer(self) -> str:
        """Answer the next offer and return its peer_id. Texts on the channel go back with this peer_id added."""
        return await self._answer(await self.tracker.receive_until(lambda message: "offer" in message))

    async def accept_answer(self) -> tuple[str, Any]:
        """Accept the next answer; return its peer_id and, once it is open, the channel."""
        return await self._open(await self.tracker.receive_until(lambda message: "answer" in message))

    async def accept_any(self) -> tuple[str, Any]:
        """Answer offers until an answer arrives; return its peer_id and, once it is open, the channel."""
        while "answer" not in (message := await self.tracker.receive_until(lambda message: "offer_id" in message)):
            await self._answer(message)
        return await self._open(message)

    async def close(self) -> None:
        """End all connections."""
        await asyncio.gather(*(connection.close() for connection in self.connections))

    async def _answer(self, message: Json) -> str:
        assert message["info_hash"] == self.info_hash
        connection = self._connection()

        def echo(channel: Any) -> None:
            channel.on("message", lambda text: channel.send(f"{text} from {self.peer_id}"))

        connection.on("datachannel", echo)
        await connection.setRemoteDescription(aiortc.RTCSessionDescription(**message["offer"]))
        await connection.setLocalDescription(await connection.createAnswer())
        sdp = connection.localDescription.sdp
        await self.tracker.send(answer(self.peer_id, message["peer_id"], message["offer_id"], self.info_hash, sdp))
        return str(message["peer_id"])

    async def _open(self, message: Json) -> tuple[str, Any]:
        assert message["info_hash"] == self.info_hash
        connection, channel = self.offered.pop(message["offer_id"])
        opened = asyncio.Event()
        channel.on("open", opened.set)
        await connection.setRemoteDescription(aiortc.RTCSessionDescription(**message["answer"]))
        await asyncio.wait_for(opened.wait(), PATIENCE)
        return message["peer_id"], channel

    def _connection(self) -> Any:
        connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        self.connections.append(connection)
        return connection


def random_id() -> str:
    """Return an id of 20 random bytes, as latin-1 text."""
    return random.randbytes(20).decode("latin-1")


@asynccontextmanager
async def rtc_peer(tracker: TrackerProcess, info_hash: str = HASH, new_id: NewId = random_id) -> AsyncIterator[RtcPeer]:
    """Connect a peer with its own socket to the tracker. `new_id` makes its peer_id and offer_ids."""
    async with raw_client(tracker.url) as client:
        peer = RtcPeer(client, info_hash, new_id)
        yield peer
        await peer.close()


async def echo(channel: Any, text: str) -> str:
    """Send a text over a channel; return the response."""
    received: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    channel.once("message", received.set_result)
    channel.send(text)
    return await asyncio.wait_for(received, PATIENCE)


async def connect(offering: RtcPeer, answering: RtcPeer) -> None:
    """Open a channel between two peers of a swarm: the first announces offers, the second answers one."""
    counts, maker = await asyncio.gather(offering.offer(5), answering.accept_offer())
    assert (counts["complete"], counts["incomplete"]) == (0, 2)
    assert maker == offering.peer_id
    peer_id, channel = await offering.accept_answer()
    assert peer_id == answering.peer_id
    assert await echo(channel, "hello") == f"hello from {answering.peer_id}"
    assert await answering.tracker.nothing_came(), "one peer gets one offer of an announce"
