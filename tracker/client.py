"""A WebTorrent tracker client: `peerservers check` and the tests are peers with it.

A `TrackerClient` is one WebSocket. Any number of peers and swarms share it, as in webtorrent and libtorrent.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from websockets.asyncio import client
from websockets.asyncio.client import ClientConnection

from tracker.checks import UNIX
from tracker.protocol.client import MessageError, decode, encode
from tracker.protocol.codec import make_answer
from tracker.protocol.messages import (
    Announce,
    AnnounceReply,
    Failure,
    Message,
    Offer,
    RelayedAnswer,
    RelayedOffer,
    Scrape,
    ScrapeReply,
    TrackerMessage,
)

T = TypeVar("T")
M = TypeVar("M", AnnounceReply, RelayedOffer, RelayedAnswer, ScrapeReply, Failure)

_NAMES: Final[dict[type[TrackerMessage], str]] = {
    AnnounceReply: "reply",
    RelayedOffer: "offer",
    RelayedAnswer: "answer",
    ScrapeReply: "reply",
    Failure: "failure",
}


class BinaryFrameError(MessageError):
    """The tracker has sent a binary frame. Browsers' clients read only text frames."""


class TextSocket:
    """A WebSocket to a tracker, with text frames each way. `time_limit` is in seconds, for each wait.

    Methods raise websockets' `ConnectionClosed` once the connection is closed.
    """

    def __init__(self, socket: ClientConnection, time_limit: float) -> None:
        self.socket = socket
        self.time_limit = time_limit

    async def send_text(self, payload: str | bytes) -> None:
        """Send a text frame with any payload; bytes need not be valid UTF-8."""
        await self.socket.send(payload, text=True)

    async def receive_text(self) -> str:
        """Return the payload of the next frame. Raise `TimeoutError`, and `BinaryFrameError` for a binary frame."""
        async with asyncio.timeout(self.time_limit):
            return _text(await self.socket.recv())

    async def received_texts(self) -> list[str]:
        """Return the payloads that have arrived already, without waiting. Raise `BinaryFrameError`."""
        texts = []
        try:
            while True:
                # `recv` returns a buffered message before this time limit is looked at.
                async with asyncio.timeout(0):
                    texts.append(_text(await self.socket.recv()))
        except TimeoutError:
            return texts

    async def ping(self) -> float:
        """Send a ping and wait for the pong; return the seconds between. Raise `TimeoutError`.

        The pong arrives behind everything that the tracker sent before it read the ping.
        """
        async with _limited(self.time_limit, "pong"):
            return await (await self.socket.ping())

    async def closed(self) -> tuple[int | None, str]:
        """Wait until the connection is closed; return the code and reason of the close. Raise `TimeoutError`."""
        async with _limited(self.time_limit, "close"):
            await self.socket.wait_closed()
        return self.socket.close_code, self.socket.close_reason or ""


class TrackerClient(TextSocket):
    """A WebSocket to a tracker that carries typed messages.

    The methods that wait for a message skip frames that are no message of a tracker, and all other messages.
    """

    async def send(self, message: Message, fields: Mapping[str, object] | None = None) -> None:
        """Send a message; `fields` as for `tracker.protocol.client.encode`."""
        await self.send_text(encode(message, fields))

    async def announce(self, message: Announce, fields: Mapping[str, object] | None = None) -> AnnounceReply | Failure:
        """Announce; return the reply for this swarm. Raise `TimeoutError`."""
        await self.send(message, fields)
        return await self.reply(message.info_hash)

    async def scrape(self, info_hashes: Sequence[str] | None) -> ScrapeReply | Failure:
        """Scrape these swarms, or all of them if None; return the reply. Raise `TimeoutError`."""
        await self.send(Scrape(None if info_hashes is None else list(info_hashes)))

        def wanted(message: TrackerMessage) -> ScrapeReply | Failure | None:
            if isinstance(message, Failure):
                return message if message.action == "scrape" else None
            return message if isinstance(message, ScrapeReply) else None

        return await self._wait_for(wanted, ScrapeReply, "reply")

    async def reply(self, info_hash: str) -> AnnounceReply | Failure:
        """Return the next reply to an announce: counts, or a failure for this swarm or none. Raise `TimeoutError`."""

        def wanted(message: TrackerMessage) -> AnnounceReply | Failure | None:
            if isinstance(message, Failure):
                return message if message.info_hash in (None, info_hash) else None
            return message if isinstance(message, AnnounceReply) else None

        return await self._wait_for(wanted, AnnounceReply, "reply")

    async def expect(self, kind: type[M], wanted: Callable[[M], bool] = lambda _: True, name: str | None = None) -> M:
        """Return the next message of a type that satisfies `wanted`.

        Raise `TimeoutError`, whose text has `name`, and `MessageError` if a message of that type is invalid.
        """
        return await self._wait_for(
            lambda message: message if isinstance(message, kind) and wanted(message) else None,
            kind,
            name or _NAMES[kind],
        )

    async def _wait_for(self, select: Callable[[TrackerMessage], T | None], kind: type[TrackerMessage], name: str) -> T:
        async with _limited(self.time_limit, name):
            while True:
                payload = _text(await self.socket.recv())
                try:
                    selected = select(decode(payload))
                except MessageError as error:
                    if error.meant is kind:
                        raise
                    continue
                if selected is not None:
                    return selected


class Peer:
    """One peer_id in one swarm, on a client's WebSocket."""

    def __init__(self, client: TrackerClient, info_hash: str, peer_id: str) -> None:
        self.client = client
        self.info_hash = info_hash
        self.peer_id = peer_id

    async def send(self, fields: Mapping[str, object], offers: Sequence[Offer] = ()) -> None:
        """Announce, without waiting for the reply. `fields` are those besides ids and offers."""
        await self.client.send(self._announce(offers), fields)

    async def announce(self, fields: Mapping[str, object], offers: Sequence[Offer] = ()) -> AnnounceReply | Failure:
        """Announce; return the reply. Raise `TimeoutError`."""
        return await self.client.announce(self._announce(offers), fields)

    async def answer(self, to_peer_id: str, offer_id: str, sdp: str) -> None:
        """Answer another peer's offer. A tracker sends no reply to that."""
        await self.client.send(make_answer(self.info_hash, self.peer_id, to_peer_id, offer_id, sdp))

    async def reply(self) -> AnnounceReply | Failure:
        """Return the next reply for this swarm. Raise `TimeoutError`."""
        return await self.client.reply(self.info_hash)

    def _announce(self, offers: Sequence[Offer]) -> Announce:
        return Announce(self.info_hash, self.peer_id, stopped=False, complete=False, offers=list(offers))


@asynccontextmanager
async def connect(url: str, time_limit: float, **options: Any) -> AsyncIterator[TrackerClient]:
    """Connect to a tracker at a `ws://` or `wss://` URL, or at `unix:` and the path of its Unix-domain socket.

    The connection is closed at the end of the block.

    `time_limit` is in seconds, for the opening handshake and for each wait. `options` are websockets'. Raise `OSError`,
    `TimeoutError`, `ValueError` for a bad URL, and websockets' `WebSocketException` if there is no WebSocket.
    """
    async with open_socket(url, time_limit, **options) as socket:
        yield TrackerClient(socket, time_limit)


@asynccontextmanager
async def open_socket(url: str, time_limit: float, **options: Any) -> AsyncIterator[ClientConnection]:
    """Open a WebSocket as `connect` does. Redirects are not followed, because browsers do not follow them either."""
    # The queue has no limit: a client that has stopped to read would otherwise not see the tracker's close frame.
    defaults = {"open_timeout": time_limit, "close_timeout": 1, "compression": None, "max_queue": None}
    options = {**defaults, **options}
    path = url.removeprefix(UNIX)
    if path != url:
        url = "wss://localhost/" if options.get("ssl") else "ws://localhost/"
        options |= {"unix": True, "path": path}
    async with _Connect(url, **options) as socket:
        yield socket


class _Connect(client.connect):
    def process_redirect(self, exc: Exception) -> Exception:
        return exc


@asynccontextmanager
async def _limited(time_limit: float, name: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(time_limit):
            yield
    except TimeoutError:
        raise TimeoutError(f"no {name} within {time_limit:g} s") from None


def _text(payload: str | bytes) -> str:
    if isinstance(payload, bytes):
        raise BinaryFrameError("a binary frame, which browsers' clients cannot read")
    return payload
