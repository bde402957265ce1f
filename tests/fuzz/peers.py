"""The sockets of several clients and the hub behind them: whatever clients send, in any order, the hub is consistent.

Each line of an input is a step. Its first two characters say which: `m` a message, `b` a binary one, `c` the end of the
connection, `l` its loss, each followed by the number of a socket; `t` and `e` let time pass, the latter with an expiry.
A digit alone stands for `m`.
"""

import json
import random
from collections.abc import Iterator

from websockets.frames import CloseCode

from tests.client import HASH, announce, answer, offers
from tests.fuzz import recorded
from tests.fuzz.codec import is_relayed
from tests.fuzz.target import Target
from tests.unit.fakes import peer_id
from tests.unit.sockets import FakeEndpoint, FakeTransport, frames
from tracker.access.addresses import AddressLimits, Quota
from tracker.access.gate import ConnectionInfo
from tracker.core.hub import Hub
from tracker.core.rules import Rules
from tracker.net.frames import CLOSE, TEXT
from tracker.peers import PeerSocket, PeerSockets
from tracker.protocol import client
from tracker.protocol.ids import is_id
from tracker.protocol.messages import AnnounceReply, RelayedAnswer, RelayedOffer
from tracker.reasons import CloseReason

SOCKETS = 4
STEPS = 40
ROOM = "a room"


class Sockets:
    """The sockets: one without limits, and several of one address."""

    def __init__(self) -> None:
        self.hub = Hub(Rules(max_offers=4, min_peers=1, max_swarms_per_connection=5), random.Random(1).random)
        self.shared = PeerSockets(self.hub, max_invalid=5)
        self.now = 1000.0
        self.quota = Quota("192.0.2.1", AddressLimits(offers_per_second=0.5, burst=10), self.now)
        self.open = [self.connect(number) for number in range(SOCKETS)]

    def connect(self, number: int) -> PeerSocket:
        """Open a socket."""
        socket = self.shared.open(FakeEndpoint(), ConnectionInfo("192.0.2.1", self.quota if number else None))
        socket.connection_made(FakeTransport())  # type: ignore[arg-type]
        return socket

    def step(self, line: bytes) -> None:
        """Do one step, and check everything."""
        kind = line[:1]
        number = line[1] % SOCKETS if len(line) > 1 else 0
        socket = self.open[number]
        match kind:
            case b"t":
                self.now += 1 + number * 20
            case b"e":
                self.now += 60 * number
                self.hub.expire(self.now, 1000)
            case b"c":
                socket.close(CloseCode.GOING_AWAY, CloseReason.SHUTDOWN)
            case b"l":
                socket.connection_lost(None)
            case _:
                socket.on_message(line[2:], kind != b"b", self.now)
        self.check()
        if socket.reason is not None:
            self.open[number] = self.connect(number)

    def check(self) -> None:
        """Check the hub, and all that was sent."""
        self.hub.check_invariants()
        for socket in self.open:
            is_closed = False
            for opcode, payload in frames(socket):
                assert not is_closed, "a frame behind the close frame"
                is_closed = opcode == CLOSE
                if opcode == TEXT:
                    self.check_sent(payload)
            assert socket.reason is not CloseReason.INTERNAL_ERROR
            assert socket.reason is None or not socket.peers
        assert self.hub.counters.failures >= 0

    def check_sent(self, payload: bytes) -> None:
        """A message is one that every client reads, and has only ids of its swarm."""
        message = client.decode(payload)
        if isinstance(message, AnnounceReply | RelayedOffer | RelayedAnswer):
            assert message.info_hash is not None
            binary = is_id(message.info_hash)
            assert is_relayed(message.info_hash, binary)
            if isinstance(message, AnnounceReply):
                assert message.interval
                return
            offer_id = message.offer.offer_id if isinstance(message, RelayedOffer) else message.offer_id
            assert is_relayed(message.peer_id, binary)
            assert is_relayed(json.loads(bytes(offer_id)), binary)


def check(data: bytes) -> None:
    """Do all steps."""
    sockets = Sockets()
    for line in data.split(b"\n")[:STEPS]:
        sockets.step(line)
    for socket in sockets.open:
        socket.connection_lost(None)
    sockets.hub.check_invariants()
    assert not sockets.hub.swarms
    assert sockets.hub.seeders == sockets.hub.leechers == 0


def seeds() -> Iterator[bytes]:
    """Yield conversations: messages of real clients, offers with answers, and odd ones."""
    sent = recorded.sent()
    for start in range(0, len(sent), 6):
        yield b"\n".join(b"m%d%b" % (number % SOCKETS, one) for number, one in enumerate(sent[start : start + 6]))
    for info_hash in (HASH, ROOM):
        steps = [
            (0, announce(peer_id(1), info_hash, offers=offers(2))),
            (1, announce(peer_id(2), info_hash, left=0, offers=offers(3, start=5))),
            (2, announce(peer_id(3), info_hash, offers=offers(6, start=9))),
            (0, answer(peer_id(1), peer_id(2), f"{5:020}", info_hash)),
            (1, announce(peer_id(1), info_hash)),
            (3, {"action": "scrape", "info_hash": [info_hash, "x"]}),
            (2, announce(peer_id(3), info_hash, event="completed")),
            (1, announce(peer_id(2), info_hash, event="stopped")),
        ]
        talk = [b"m%d%b" % (number, json.dumps(message).encode()) for number, message in steps]
        yield b"\n".join(talk)
        yield b"\n".join([*talk[:3], b"t3", b"c0", talk[3], b"e3", *talk[4:], b"l1"])
        yield b"\n".join([talk[0], talk[0].replace(b"m0", b"b1"), b"t2", *talk])
    yield b"m0{\nm0{\nm0\xff\nb0\xff\nm1ping\n" + b"m2{\n" * 8


TARGET = Target(
    check,
    seeds,
    (
        *(b"\nm0", b"\nm1", b"\nm2", b"\nb3", b"\nc0", b"\nl1", b"\nt3", b"\ne3", b'"event":"stopped"', b'"left":0,'),
        *(
            b'"event":"completed"',
            b'"answer":',
            b'"offers":[',
            b'"to_peer_id":',
            b'"numwant":',
            HASH.encode(),
            ROOM.encode(),
        ),
        *(f'"{peer_id(number)}"'.encode() for number in range(1, 4)),
        *(b"\\ud800", b"null", b"\\u00ff", b"\xc3\xa9"),
    ),
    max_size=6000,
    runs=200,
)
