"""A tracker that keeps the rules of `peerservers.federation.1` only as far as a test wants, and has no features."""

import asyncio
import json
import os
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil  # type: ignore[import-untyped]
import websockets
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection

from extensions.federation import wire
from extensions.federation.filters import OwnSwarms, tag_of
from extensions.federation.handshake import LinkError
from extensions.federation.session import Session, State
from extensions.federation.transports import SUBPROTOCOL
from extensions.trackers import TrackerEntry
from tests.client import PATIENCE, RawClient, raw_client
from tests.conftest import StartTracker, TrackerProcess, environment, free_port
from tests.unit.fakes import peer_id

Message = TypeVar("Message", bound=wire.Message)

A, B, C = peer_id(1), peer_id(2), peer_id(3)
LINKS = "peerservers_federation_links"
SDP = "v=0\r\n"


class HostileLink:
    """One end of a link. Messages are read only when a test asks for them.

    `swarms` are those of `session`. It knows each infohash that a test uses.
    """

    def __init__(self, socket: ClientConnection | ServerConnection, session: Session, swarms: OwnSwarms) -> None:
        self.socket = socket
        self.session = session
        self.swarms = swarms
        self.seen: list[wire.Message] = []
        """All that was received."""
        self._waiting: deque[wire.Message] = deque()

    async def send(self, *messages: bytes) -> None:
        """Send any bytes as messages in one text frame."""
        await self.socket.send(b"\n".join(messages), text=True)

    async def receive(self) -> wire.Message:
        """Return the next message. Raise `ConnectionClosed` at the end."""
        while not self._waiting:
            frame = await asyncio.wait_for(self.socket.recv(decode=False), PATIENCE)
            self._waiting.extend(wire.decode(bytes(frame)))
        self.seen.append(self._waiting.popleft())
        return self.seen[-1]

    async def until(self, kind: type[Message], wanted: Callable[[Message], bool] = lambda _: True) -> Message:
        """Return the next message of a type, and skip those before it. Raise `ConnectionClosed` at the end."""
        while True:
            message = await self.receive()
            if isinstance(message, kind) and wanted(message):
                return message

    async def shake(self) -> str:
        """Shake hands properly, and return the other tracker's id. Raise `LinkError` or `ConnectionClosed`."""
        await self.send(self.session.start())
        while self.session.state is not State.OPEN:
            for reply in self.session.receive(msgspec.json.encode(await self.receive()))[1]:
                await self.send(reply)
        return self.session.tracker_id

    async def ended(self) -> str:
        """Wait for the end. Return the reason in `bye`, or "" if there was none."""
        with suppress(websockets.ConnectionClosed):
            await self.until(wire.Bye, lambda _: False)
        return next((message.reason for message in self.seen if isinstance(message, wire.Bye)), "")

    async def is_there(self) -> None:
        """Wait until all that was sent has been read by the other side, which must not have closed."""
        await asyncio.wait_for(await self.socket.ping(), PATIENCE)

    def name(self, info_hash: str) -> str:
        """Return this side's name of a swarm on this link."""
        self.swarms.add(info_hash)
        name: str = json.loads(self.session.tell([(info_hash, 1, 1)])[0])["swarms"][0][0]
        return name

    def opened(self, *info_hashes: str) -> bytes:
        """Return `opened` with the tags of swarms."""
        return wire.encode(wire.Opened("".join(f"{tag_of(info_hash):016x}" for info_hash in info_hashes)))

    def have(self, *swarms: tuple[str, int, int]) -> bytes:
        """Return `have` with (info_hash, seeders, leechers)."""
        return wire.encode(
            wire.Have([(self.name(info_hash), seeders, leechers) for info_hash, seeders, leechers in swarms])
        )

    def offers(self, info_hash: str, peer_id: str, offer_ids: Iterable[str], sdp: str = SDP) -> bytes:
        """Return `offers` of a peer."""
        offers = [{"offer": {"type": "offer", "sdp": sdp}, "offer_id": offer_id} for offer_id in offer_ids]
        return as_json(type="offers", swarm=self.name(info_hash), peer_id=peer_id, offers=offers)

    def answer(self, info_hash: str, peer_id: str, to_peer_id: str, offer_id: str, sdp: str = SDP) -> bytes:
        """Return a peer's `answer`."""
        ids = {"peer_id": peer_id, "to_peer_id": to_peer_id, "offer_id": offer_id}
        return as_json(type="answer", swarm=self.name(info_hash), **ids, sdp=sdp)


def as_json(**fields: Any) -> bytes:
    """Return a message with these fields."""
    return json.dumps(fields, ensure_ascii=False).encode()


@asynccontextmanager
async def link_to(
    url: str,
    key: Ed25519PrivateKey | None = None,
    named: str | None = None,
    shake: bool = True,
    wanted: Sequence[str] = (),
    **options: Any,
) -> AsyncIterator[HostileLink]:
    """Dial a tracker. `named` is the URL in the `hello`, `wanted` are the swarms for which the link is made."""
    swarms = OwnSwarms()
    for info_hash in wanted:
        swarms.add(info_hash)
    session = Session(
        key or Ed25519PrivateKey.generate(),
        os.urandom(32),
        url=url if named is None else named,
        swarms=swarms,
        features=(),
        wanted=wanted,
    )
    options = {"compression": None, "max_size": None, "max_queue": None, "close_timeout": 1, **options}
    async with websockets.connect(url, subprotocols=[SUBPROTOCOL], **options) as socket:
        assert socket.subprotocol == SUBPROTOCOL
        link = HostileLink(socket, session, swarms)
        if shake:
            await link.shake()
        yield link


@asynccontextmanager
async def hostile_tracker(
    serve: Callable[[HostileLink], Awaitable[None]],
    key: Ed25519PrivateKey | None = None,
    tls: ssl.SSLContext | None = None,
    **options: Any,
) -> AsyncIterator[str]:
    """Yield the URL of a tracker that calls `serve` with each link, before the handshake."""
    own_key = key or Ed25519PrivateKey.generate()

    async def handle(socket: ServerConnection) -> None:
        swarms = OwnSwarms()
        session = Session(own_key, os.urandom(32), accepts=lambda _: True, swarms=swarms, features=())
        with suppress(websockets.ConnectionClosed, LinkError):
            await serve(HostileLink(socket, session, swarms))

    options = {"subprotocols": [SUBPROTOCOL], "compression": None, "max_size": None, **options}
    async with websockets.serve(handle, "127.0.0.1", 0, ssl=tls, **options) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"{'wss' if tls else 'ws'}://127.0.0.1:{port}/"


def federated(state_dir: Path, public_url: str = "", **settings: Any) -> dict[str, str]:
    """Return the environment of a tracker with the extension `federation` and its settings."""
    return {
        **environment("server", state_dir=str(state_dir), public_url=public_url),
        **environment("extensions.federation", enabled=True, **settings),
    }


def want(tracker: Any, tracker_id: str, url: str) -> bool:
    """Have a tracker in this process dial another one. Return whether it does."""
    entry = TrackerEntry(tracker_id, 2**40, url, bytes(64))
    wanted: bool = tracker.extension("federation").discovery.pursuits.want(entry)
    return wanted


async def refusal(url: str, key: Ed25519PrivateKey) -> str:
    """Dial a tracker that refuses the link, and return its reason."""
    async with link_to(url, key, shake=False) as link:
        with suppress(LinkError, websockets.ConnectionClosed):
            await link.shake()
        return await link.ended()


async def start_target(start_tracker: StartTracker, state_dir: Path, **settings: Any) -> TrackerProcess:
    """A tracker that other trackers may link with."""
    port = free_port()
    return await start_tracker(port=port, env=federated(state_dir, f"ws://127.0.0.1:{port}", **settings))


@asynccontextmanager
async def local_peer(tracker: TrackerProcess) -> AsyncIterator[RawClient]:
    """A peer of a tracker, A; it must be served as ever when all is over."""
    async with raw_client(tracker.url) as client:
        await client.announce(A)
        yield client
        assert (await client.announce(A))["interval"] > 0


def memory(tracker: TrackerProcess) -> int:
    """Return the resident memory of a tracker's process in bytes."""
    size: int = psutil.Process(tracker.process.pid).memory_info().rss
    return size


async def ended(tracker: TrackerProcess, reason: str) -> float:
    """Return how many links have ended for a reason."""
    return await tracker.metric("peerservers_federation_links_ended_total", reason=reason)


async def dropped(tracker: TrackerProcess, reason: str) -> float:
    """Return how much was dropped for a reason."""
    return await tracker.metric("peerservers_federation_dropped_total", reason=reason)


async def at_least(value: Awaitable[float], wanted: float) -> bool:
    """For `eventually`: whether a figure is as great as wanted."""
    return await value >= wanted


async def equals(value: Awaitable[float], wanted: float) -> bool:
    """For `eventually`: whether a figure is as wanted."""
    return await value == wanted
