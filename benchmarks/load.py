"""The load: peers that announce with offers and answer every offer they get.

It costs less than the trackers do: what it sends is made beforehand, and of what it receives it looks for a few words
only. A round of a peer is an announce with offers, its reply, and the answers to all of those offers; or a scrape and
its reply.
"""

import asyncio
import json
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from random import Random
from time import perf_counter
from typing import Final

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

OFFERS: Final = 5
SDP_SIZE: Final = 900
SEEDERS: Final = 5
"""One peer in so many is a seeder."""

_LOST_AFTER: Final = 20.0
"""Seconds without load after which what has not come is lost."""

_HANDSHAKE_TIMEOUT: Final = 30.0
_AT_A_TIME: Final = 50
_PAUSE: Final = 0.01
_TICK: Final = 0.001
_TEXT: Final = WSMsgType.TEXT

_OFFER: Final = b'"offer":{'
_ANSWER: Final = b'"answer":{'
_REPLY: Final = b'"interval":'
_FILES: Final = b'"files":'
_INFO_HASH: Final = b'"info_hash":"'
_PEER_ID: Final = b'"peer_id":"'
_OFFER_ID: Final = b'"offer_id":"'

_SDP_LINES: Final = (
    "v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n"
    "a=msid-semantic: WMS\r\nm=application 51472 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 192.0.2.17\r\n",
    "a=candidate:842163049 1 udp 1677729535 192.0.2.17 51472 typ srflx raddr 0.0.0.0 rport 0 generation 0\r\n",
    "a=ice-ufrag:4ZcD\r\na=ice-pwd:2/1muCWoOi3uLifh0NuRHlNS\r\na=setup:actpass\r\na=mid:0\r\na=sctp-port:5000\r\n",
    "a=fingerprint:sha-256 7B:8B:F0:65:5F:78:E2:51:3B:AC:6F:F3:3F:46:1B:35:DC:B8:5F:64:1A:24:C2:43:F0:A1:58:D0\r\n",
)
SDP: Final = "".join(islice(cycle(_SDP_LINES), 40))[:SDP_SIZE]
_ANSWER_TAIL: Final = b',"answer":{"type":"answer","sdp":' + json.dumps(SDP).encode() + b"}}"

# Without these two, a binary id ends at the next quote.
_ID_BYTES: Final = bytes(set(range(256)) - set(b'"\\'))


@dataclass(frozen=True)
class Shape:
    """How many sockets there are, and what they do."""

    sockets: int
    offers: int = OFFERS
    swarm_size: int = 50
    swarms: int = 1
    """How many each socket is in, as one peer in each."""
    active: int | None = None
    """How many of the sockets announce more than once; without, all."""
    rate: float | None = None
    """Rounds a second of all together; without, each begins its next one when its last is done."""
    scrape: bool = False
    """Whether a round is a scrape."""


class Load:
    """All peers, and the totals of what has come back."""

    def __init__(self, shape: Shape) -> None:
        random = Random(1)
        self.shape = shape
        self.running = False
        self.received = 0
        self.unexpected = 0
        self.lost = 0
        self.closed = 0
        self.latencies: list[float] = []
        """Seconds from each announce to its reply."""
        self.idle: deque[Peer] = deque()
        groups = -(-shape.sockets // shape.swarm_size)
        self.hashes = [[_binary_id(random) for _ in range(shape.swarms)] for _ in range(groups)]
        """The infohashes of the first `swarm_size` peers, of the next, and so on."""
        self.peers = [Peer(self, self.hashes[n // shape.swarm_size], n, random) for n in range(shape.sockets)]

    async def connect(self, port: int, context: ssl.SSLContext | None = None) -> None:
        """Open every socket; with TLS if there is a context."""
        for start in range(0, len(self.peers), _AT_A_TIME):
            some = self.peers[start : start + _AT_A_TIME]
            await asyncio.gather(*(open_socket(peer, port, context) for peer in some))

    async def join(self) -> None:
        """Let every peer announce without offers, so that later each offer finds a receiver."""
        for peer in self.peers:
            peer.join()
        await self.until(lambda: not any(peer.missing for peer in self.peers))

    async def start(self) -> None:
        """Begin the rounds of those that are active, each of which has had one then."""
        active = self.peers[: self.shape.active]
        for start in range(0, len(active), _AT_A_TIME):
            some = active[start : start + _AT_A_TIME]
            for peer in some:
                peer.begin_round()
            await self.until(lambda some=some: not any(peer.missing for peer in some))  # type: ignore[misc]
        self.running = True
        if self.shape.rate is None:
            for peer in active:
                peer.begin_round()
        else:
            self.idle.extend(active)

    async def run(self, seconds: float) -> None:
        """Keep the rounds going."""
        began = last = perf_counter()
        due = 0.0
        rate = self.shape.rate
        while last < began + seconds:
            await asyncio.sleep(_PAUSE if rate is None else _TICK)
            now = perf_counter()
            if rate is not None:
                due = min(due + rate * (now - last), len(self.peers))
                while due >= 1 and self.idle:
                    due -= 1
                    self.idle.popleft().begin_round()
            last = now

    async def stop(self) -> None:
        """Begin no more rounds, and wait for those that are on their way."""
        self.running = False
        await self.until(lambda: not any(peer.missing for peer in self.peers))
        self.lost = sum(peer.missing for peer in self.peers)

    async def disconnect(self) -> None:
        """Close every socket."""
        for peer in self.peers:
            peer.transport.disconnect()
        await asyncio.gather(*(peer.transport.wait_disconnected() for peer in self.peers), return_exceptions=True)

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait, but not for ever."""
        end = perf_counter() + _LOST_AFTER
        while not done() and perf_counter() < end:  # noqa: ASYNC110
            await asyncio.sleep(_PAUSE)


class Peer(WSListener):
    """One socket with one peer_id, in one swarm or some."""

    __slots__ = ("announced", "answer_tail", "first", "load", "missing", "per_round", "rounds", "transport")

    transport: WSTransport

    def __init__(self, load: Load, hashes: list[str], number: int, random: Random) -> None:
        shape = load.shape
        peer_id = f"-WW0208-{number:012}"
        transfer = {"numwant": shape.offers, "uploaded": 0, "downloaded": 0, "left": number % SEEDERS}
        made = [{"offer": {"type": "offer", "sdp": SDP}, "offer_id": _binary_id(random)} for _ in range(shape.offers)]
        self.load = load
        self.first: list[bytes] = []
        rounds = []
        for info_hash in hashes:
            head = {"action": "announce", "info_hash": info_hash, "peer_id": peer_id, **transfer}
            self.first.append(encode({**head, "event": "started", "offers": []}))
            scrape = {"action": "scrape", "info_hash": info_hash}
            rounds.append(encode(scrape if shape.scrape else {**head, "offers": made}))
        self.rounds = cycle(rounds)
        self.per_round = 1 if shape.scrape else 1 + min(shape.offers, shape.swarm_size - 1)
        self.answer_tail = b',"action":"announce","peer_id":"%b"%b' % (peer_id.encode(), _ANSWER_TAIL)
        self.missing = 0
        """Messages of this round that have not come yet."""
        self.announced = 0.0

    def announce(self, frame: bytes, missing: int) -> None:
        """Send an announce that so many messages are the answer to."""
        self.missing = missing
        self.announced = perf_counter()
        self.transport.send(_TEXT, frame)

    def join(self) -> None:
        """Announce without offers in every swarm."""
        for frame in self.first:
            self.announce(frame, len(self.first))

    def begin_round(self) -> None:
        """Announce with offers, or scrape."""
        self.announce(next(self.rounds), self.per_round)

    def on_ws_connected(self, transport: WSTransport) -> None:
        """The handshake is done."""
        self.transport = transport

    def on_ws_frame(self, _transport: WSTransport, frame: WSFrame) -> None:
        """A message has come: an offer, an answer or a reply."""
        load = self.load
        load.received += 1
        payload = frame.get_payload_as_bytes()
        if payload.find(_OFFER) > 0:
            # All ids go back just as they came: trackers do not agree on where they stand, nor on how to escape them.
            info_hash = payload.find(_INFO_HASH)
            peer_id = payload.find(_PEER_ID) + 10
            offer_id = payload.find(_OFFER_ID)
            self.transport.send(
                _TEXT,
                b"".join(
                    (
                        b"{",
                        payload[info_hash : payload.find(b'"', info_hash + 13) + 1],
                        b',"to_peer_id":',
                        payload[peer_id : payload.find(b'"', peer_id + 1) + 1],
                        b",",
                        payload[offer_id : payload.find(b'"', offer_id + 12) + 1],
                        self.answer_tail,
                    )
                ),
            )
            return
        if payload.find(_REPLY) > 0 or payload.find(_FILES) > 0:
            load.latencies.append(perf_counter() - self.announced)
        elif payload.find(_ANSWER) < 0:
            load.unexpected += 1
            return
        self.missing -= 1
        if not self.missing and load.running:
            if load.shape.rate is None:
                self.begin_round()
            else:
                load.idle.append(self)

    def on_ws_disconnected(self, _transport: WSTransport) -> None:
        """The socket is gone."""
        self.load.closed += 1


async def open_socket(listener: WSListener, port: int, context: ssl.SSLContext | None = None) -> None:
    """Connect to a tracker on this machine."""
    scheme = "wss" if context else "ws"
    await ws_connect(
        lambda: listener,
        f"{scheme}://127.0.0.1:{port}/",
        ssl_context=context,
        websocket_handshake_timeout=_HANDSHAKE_TIMEOUT,
        use_aiofastnet=False,
    )


def encode(message: Mapping[str, object]) -> bytes:
    """As a frame's payload."""
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


def _binary_id(random: Random) -> str:
    return bytes(random.choices(_ID_BYTES, k=20)).decode("latin-1")
