"""The load: peers that announce with offers and answer every offer they get.

It costs less than the trackers do: what it sends is made beforehand, and of what it receives it looks for a few words
only. A round of a peer is an announce with `OFFERS` offers, its reply, and the answers to all of those offers.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping
from itertools import cycle, islice
from random import Random
from time import perf_counter
from typing import Final

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

SWARM_SIZE: Final = 50
OFFERS: Final = 5
SDP_SIZE: Final = 900
SEEDERS: Final = 5
"""One peer in so many is a seeder."""

MESSAGES_PER_ROUND: Final = 1 + 2 * OFFERS
"""What a tracker sends: the reply, and each offer and answer to whom it is for."""

_LOST_AFTER: Final = 20.0
"""Seconds without load after which what has not come is lost."""

_PAUSE: Final = 0.05
_TICK: Final = 0.005
_TEXT: Final = WSMsgType.TEXT

_OFFER: Final = b'"offer":{'
_ANSWER: Final = b'"answer":{'
_REPLY: Final = b'"interval":'
_PEER_ID: Final = b'"peer_id":"'
_OFFER_ID: Final = b'"offer_id":"'

_SDP_LINES: Final = (
    "v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n"
    "a=msid-semantic: WMS\r\nm=application 51472 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 192.0.2.17\r\n",
    "a=candidate:842163049 1 udp 1677729535 192.0.2.17 51472 typ srflx raddr 0.0.0.0 rport 0 generation 0\r\n",
    "a=ice-ufrag:4ZcD\r\na=ice-pwd:2/1muCWoOi3uLifh0NuRHlNS\r\na=setup:actpass\r\na=mid:0\r\na=sctp-port:5000\r\n",
    "a=fingerprint:sha-256 7B:8B:F0:65:5F:78:E2:51:3B:AC:6F:F3:3F:46:1B:35:DC:B8:5F:64:1A:24:C2:43:F0:A1:58:D0\r\n",
)
_SDP: Final = "".join(islice(cycle(_SDP_LINES), 40))[:SDP_SIZE]
_SDP_TOKEN: Final = json.dumps(_SDP).encode()
_ANSWER_TAIL: Final = b',"answer":{"type":"answer","sdp":' + _SDP_TOKEN + b"}}"

# Without these two, a binary id ends at the next quote.
_ID_BYTES: Final = bytes(set(range(256)) - set(b'"\\'))


class Load:
    """All peers, and the totals of what has come back."""

    def __init__(self, sockets: int, rate: float | None) -> None:
        random = Random(1)
        self.rate = rate
        self.running = False
        self.received = 0
        self.unexpected = 0
        self.lost = 0
        self.closed = 0
        self.latencies: list[float] = []
        """Seconds from each announce to its reply."""
        self.idle: deque[Peer] = deque()
        hashes = [_binary_id(random) for _ in range(-(-sockets // SWARM_SIZE))]
        self.peers = [Peer(self, hashes[number // SWARM_SIZE], number, random) for number in range(sockets)]

    async def connect(self, port: int) -> None:
        """Open every socket."""
        for start in range(0, len(self.peers), 50):
            await asyncio.gather(*(_open(peer, port) for peer in self.peers[start : start + 50]))

    async def join(self) -> None:
        """Let every peer announce without offers, so that later each offer finds a receiver."""
        for peer in self.peers:
            peer.announce(peer.first_announce, 1)
        await self._until(lambda: not any(peer.missing for peer in self.peers))

    async def start(self) -> None:
        """Begin the rounds: at `rate` a second, or without it every peer's next one as soon as the last is done."""
        self.running = True
        if self.rate is None:
            for peer in self.peers:
                peer.begin_round()
        else:
            self.idle.extend(self.peers)

    async def run(self, seconds: float) -> None:
        """Keep the rounds going."""
        began = last = perf_counter()
        due = 0.0
        while last < began + seconds:
            await asyncio.sleep(_TICK)
            now = perf_counter()
            if self.rate is not None:
                due = min(due + self.rate * (now - last), len(self.peers))
                while due >= 1 and self.idle:
                    due -= 1
                    self.idle.popleft().begin_round()
            last = now

    async def stop(self) -> None:
        """Begin no more rounds, and wait for those that are on their way."""
        self.running = False
        await self._until(lambda: not any(peer.missing for peer in self.peers))
        self.lost = sum(peer.missing for peer in self.peers)

    async def disconnect(self) -> None:
        """Close every socket."""
        for peer in self.peers:
            peer.transport.disconnect()
        await asyncio.gather(*(peer.transport.wait_disconnected() for peer in self.peers), return_exceptions=True)

    async def _until(self, done: Callable[[], bool]) -> None:
        for _ in range(int(_LOST_AFTER / _PAUSE)):
            if done():
                return
            await asyncio.sleep(_PAUSE)


class Peer(WSListener):
    """One socket with one peer_id in one swarm."""

    __slots__ = ("announced", "answer_head", "first_announce", "load", "missing", "round_announce", "transport")

    transport: WSTransport

    def __init__(self, load: Load, info_hash: str, number: int, random: Random) -> None:
        peer_id = f"-WW0208-{number:012}"
        head = {"action": "announce", "info_hash": info_hash, "peer_id": peer_id}
        transfer = {"numwant": OFFERS, "uploaded": 0, "downloaded": 0, "left": number % SEEDERS}
        offers = [{"offer": {"type": "offer", "sdp": _SDP}, "offer_id": _binary_id(random)} for _ in range(OFFERS)]
        self.load = load
        self.first_announce = _encode({**head, **transfer, "event": "started", "offers": []})
        self.round_announce = _encode({**head, **transfer, "offers": offers})
        self.answer_head = _encode(head)[:-1] + b',"to_peer_id":'
        self.missing = 0
        """Messages of this round that have not come yet."""
        self.announced = 0.0

    def announce(self, frame: bytes, missing: int) -> None:
        """Send an announce that so many messages are the answer to."""
        self.missing = missing
        self.announced = perf_counter()
        self.transport.send(_TEXT, frame)

    def begin_round(self) -> None:
        """Announce with offers."""
        self.announce(self.round_announce, 1 + OFFERS)

    def on_ws_connected(self, transport: WSTransport) -> None:
        """The handshake is done."""
        self.transport = transport

    def on_ws_frame(self, _transport: WSTransport, frame: WSFrame) -> None:
        """A message has come: an offer, an answer or a reply."""
        load = self.load
        load.received += 1
        payload = frame.get_payload_as_bytes()
        if payload.find(_OFFER) > 0:
            # Both ids go back just as they came: trackers do not agree on where they stand, nor on how to escape them.
            peer_id = payload.find(_PEER_ID) + 10
            offer_id = payload.find(_OFFER_ID) + 11
            self.transport.send(
                _TEXT,
                b"".join(
                    (
                        self.answer_head,
                        payload[peer_id : payload.find(b'"', peer_id + 1) + 1],
                        b',"offer_id":',
                        payload[offer_id : payload.find(b'"', offer_id + 1) + 1],
                        _ANSWER_TAIL,
                    )
                ),
            )
            return
        if payload.find(_REPLY) > 0:
            load.latencies.append(perf_counter() - self.announced)
        elif payload.find(_ANSWER) < 0:
            load.unexpected += 1
            return
        self.missing -= 1
        if not self.missing and load.running:
            if load.rate is None:
                self.begin_round()
            else:
                load.idle.append(self)

    def on_ws_disconnected(self, _transport: WSTransport) -> None:
        """The socket is gone."""
        self.load.closed += 1


async def _open(peer: Peer, port: int) -> None:
    await ws_connect(lambda: peer, f"ws://127.0.0.1:{port}/", websocket_handshake_timeout=20, use_aiofastnet=False)


def _binary_id(random: Random) -> str:
    return bytes(random.choices(_ID_BYTES, k=20)).decode("latin-1")


def _encode(message: Mapping[str, object]) -> bytes:
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
