"""The load: peers that announce with offers and answer every offer that they receive.

It uses less CPU time than the trackers do: it encodes its messages beforehand, and searches each received message for
a few words instead of decoding it. A round of a peer is an announce with offers, the reply, and the answers to all of
these offers; or a scrape and the reply.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from random import Random
from time import perf_counter
from typing import Final

import msgspec
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from tracker.protocol import client
from tracker.protocol.codec import make_offer, to_json
from tracker.protocol.messages import Announce, Offer, Scrape

OFFERS: Final = 5
SDP_SIZE: Final = 900
SEEDERS: Final = 5
"""One of this many peers is a seeder."""

_LOST_AFTER: Final = 20.0
"""Seconds without load after which a message that has not arrived counts as lost."""

_LOST_ROUND: Final = 5.0
"""Seconds after which a peer under load begins another round, because some of its messages are lost.

aquatic drops a message to a connection for which 16 others wait.
"""

_STALLED: Final = 0.5
"""Seconds without any message after which the first round of some peers is over."""

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
_ANSWER_TAIL: Final = b',"answer":{"type":"answer","sdp":' + to_json(SDP) + b"}}"

# Without quotes and backslashes in it, a binary id ends at the next quote.
_ID_BYTES: Final = bytes(set(range(256)) - set(b'"\\'))


@dataclass(frozen=True)
class Shape:
    """The number of sockets, and their messages."""

    sockets: int
    offers: int = OFFERS
    swarm_size: int = 50
    swarms: int = 1
    """Swarms of each socket, which is one peer in each of them."""
    active: int | None = None
    """Sockets that announce more than once; None for all."""
    rate: float | None = None
    """Rounds per second of all sockets together. With None, each begins a round when its last one is done."""
    scrape: bool = False
    """Whether a round is a scrape."""


class Load:
    """All peers, and the totals of the messages that they have received.

    If the tracker replies to answers, too, as aquatic does, these replies do not count.
    """

    def __init__(self, shape: Shape, replies_to_answers: bool = False) -> None:
        random = Random(1)
        self.shape = shape
        self.replies_to_answers = replies_to_answers
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

    async def connect(self, port: int | Callable[[int], int], context: ssl.SSLContext | None = None) -> None:
        """Open every socket, with TLS if there is a context. `port` may depend on the peer's number."""
        port_of = port if callable(port) else lambda _: port
        for start in range(0, len(self.peers), _AT_A_TIME):
            some = enumerate(self.peers[start : start + _AT_A_TIME], start)
            await asyncio.gather(*(open_socket(peer, port_of(number), context) for number, peer in some))

    async def join(self) -> None:
        """Let every peer announce without offers, so that later each offer finds a receiver."""
        for peer in self.peers:
            peer.join()
        await self.until(lambda: not any(peer.missing for peer in self.peers))

    async def start(self) -> None:
        """Let every active peer do one round, then begin the rounds. Messages lost in the first round do not count."""
        active = self.peers[: self.shape.active]
        for start in range(0, len(active), _AT_A_TIME):
            some = active[start : start + _AT_A_TIME]
            for peer in some:
                peer.begin_round()
            await self._settled(some)
        self.running = True
        if self.shape.rate is None:
            for peer in active:
                peer.begin_round()
        else:
            self.idle.extend(active)

    async def run(self, seconds: float) -> None:
        """Let the rounds go on for some seconds."""
        began = last = looked = perf_counter()
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
            if now > looked + 1:
                looked = now
                for peer in self.peers:
                    if peer.missing > 0 and now > peer.announced + _LOST_ROUND:
                        peer.give_up()
            last = now

    async def stop(self) -> None:
        """Begin no more rounds, and wait for the end of those under way."""
        self.running = False
        await self.until(lambda: all(peer.missing <= 0 for peer in self.peers))
        self.lost += sum(max(peer.missing, 0) for peer in self.peers)

    async def disconnect(self) -> None:
        """Close every socket."""
        for peer in self.peers:
            peer.transport.disconnect()
        await asyncio.gather(*(peer.transport.wait_disconnected() for peer in self.peers), return_exceptions=True)

    async def _settled(self, peers: Sequence["Peer"]) -> None:
        """Wait until no message of these peers is missing, or none has come to any peer for `_STALLED` seconds."""
        received, since = self.received, perf_counter()
        while any(peer.missing > 0 for peer in peers) and perf_counter() < since + _STALLED:
            await asyncio.sleep(_PAUSE)
            if received != self.received:
                received, since = self.received, perf_counter()

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait for a condition, for `_LOST_AFTER` seconds at most."""
        end = perf_counter() + _LOST_AFTER
        while not done() and perf_counter() < end:  # noqa: ASYNC110
            await asyncio.sleep(_PAUSE)


class Peer(WSListener):
    """One socket with one peer_id, in one or several swarms."""

    __slots__ = ("announced", "answer_tail", "first", "load", "missing", "per_round", "rounds", "sent", "transport")

    transport: WSTransport

    def __init__(self, load: Load, hashes: list[str], number: int, random: Random) -> None:
        shape = load.shape
        peer_id = f"-WW0208-{number:012}"
        transfer: dict[str, object] = {
            "numwant": shape.offers,
            "uploaded": 0,
            "downloaded": 0,
            "left": number % SEEDERS,
        }
        made = [make_offer(_binary_id(random), SDP) for _ in range(shape.offers)]
        self.load = load
        self.first: list[bytes] = []
        rounds = []
        for info_hash in hashes:
            started = {**transfer, "event": "started", "offers": []}
            self.first.append(announce(info_hash, peer_id, started))
            scrape = client.encode(Scrape([info_hash]))
            rounds.append(scrape if shape.scrape else announce(info_hash, peer_id, transfer, made))
        self.rounds = cycle(rounds)
        self.per_round = 1 if shape.scrape else 1 + min(shape.offers, shape.swarm_size - 1)
        self.answer_tail = b',"action":"announce","peer_id":"%b"%b' % (peer_id.encode(), _ANSWER_TAIL)
        self.missing = 0
        """Messages of this round that have not arrived yet."""
        self.announced = 0.0
        self.sent: deque[bool] = deque()
        """If the tracker replies to answers: for each message without a reply yet, whether it was an announce."""

    def announce(self, frame: bytes, missing: int) -> None:
        """Send an announce, to which `missing` messages are the response."""
        self.missing = missing
        self.announced = perf_counter()
        self.transport.send(_TEXT, frame)
        if self.load.replies_to_answers:
            self.sent.append(True)

    def join(self) -> None:
        """Announce without offers in every swarm."""
        for frame in self.first:
            self.announce(frame, len(self.first))

    def begin_round(self) -> None:
        """Announce with offers, or scrape."""
        self.announce(next(self.rounds), self.per_round)

    def end_round(self) -> None:
        """Begin another round: at once, or when the rate allows it."""
        if self.load.shape.rate is None:
            self.begin_round()
        else:
            self.load.idle.append(self)

    def give_up(self) -> None:
        """End a round whose missing messages are lost."""
        self.load.lost += self.missing
        self.missing = 0
        self.end_round()

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Take the transport of the open connection."""
        self.transport = transport

    def on_ws_frame(self, _transport: WSTransport, frame: WSFrame) -> None:
        """Take a message: an offer, an answer or a reply."""
        load = self.load
        load.received += 1
        payload = frame.get_payload_as_bytes()
        if payload.find(_OFFER) > 0:
            # All ids go back byte for byte, because trackers differ in the order of fields and in their escapes.
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
            if load.replies_to_answers:
                self.sent.append(False)
            return
        if payload.find(_REPLY) > 0 or payload.find(_FILES) > 0:
            if load.replies_to_answers and not self.sent.popleft():
                load.received -= 1
                return
            load.latencies.append(perf_counter() - self.announced)
        elif payload.find(_ANSWER) < 0:
            load.unexpected += 1
            return
        self.missing -= 1
        if not self.missing and load.running:
            self.end_round()

    def on_ws_disconnected(self, _transport: WSTransport) -> None:
        """Count the closed socket."""
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


def encode(message: object) -> bytes:
    """Return a JSON value as a frame's payload."""
    return msgspec.json.encode(message)


def announce(info_hash: str, peer_id: str, fields: dict[str, object], offers: Sequence[Offer] = ()) -> bytes:
    """Return the payload of an announce; `fields` are those besides ids and offers, in order."""
    made = Announce(info_hash, peer_id, stopped=False, complete=False, offers=list(offers))
    return client.encode(made, fields)


def _binary_id(random: Random) -> str:
    return bytes(random.choices(_ID_BYTES, k=20)).decode("latin-1")
