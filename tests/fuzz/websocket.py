"""A client's connection behind its opening handshake: any pieces have the same answers, and closing is in order.

The first byte of an input cuts the rest into pieces.
"""

import random
from collections.abc import Iterator

from websockets.frames import Close, Frame, Opcode

from tests.client import HASH
from tests.fuzz.target import Target, cut
from tests.unit.fakes import peer_id
from tests.unit.sockets import FakeEndpoint, FakeTransport, frames
from tracker.access.gate import ConnectionInfo
from tracker.core.hub import Hub
from tracker.core.rules import Rules
from tracker.net.deflate import Deflate
from tracker.net.frames import CLOSE, COMPRESSED, PING, PONG, TEXT
from tracker.net.websocket import MAX_CONTROLS
from tracker.peers import PeerSocket, PeerSockets
from tracker.protocol import client
from tracker.reasons import CloseReason

ANNOUNCE = f'{{"action":"announce","info_hash":"{HASH}","peer_id":"{peer_id(1)}"}}'.encode()
SCRAPE = b'{"action":"scrape","info_hash":[]}'

Sent = list[tuple[int, bytes]]


def check(data: bytes) -> None:
    """Receive the same bytes at once, and in pieces."""
    if not data:
        return
    compressed, stream = data[0] >= 0x80, data[1:]
    sent, reason = played([stream], compressed)
    assert played(cut(stream, data[0] & 0x7F), compressed) == (sent, reason), "pieces"
    codes = [payload for opcode, payload in sent if opcode == CLOSE]
    assert len(codes) == (reason is not None)
    for code in codes:
        assert sent[-1] == (CLOSE, code), "a frame behind the close frame"
        assert Close.parse(code).code >= 1000
    assert sum(opcode == PONG for opcode, _ in sent) <= stream.count(bytes([0x80 | PING]))


def played(pieces: list[bytes], compressed: bool) -> tuple[Sent, CloseReason | None]:
    """Return the frames that the tracker sends, and why the connection ends, if it does."""
    hub = Hub(Rules(), random.Random(1).random)
    socket = PeerSockets(hub, max_invalid=5).open(FakeEndpoint(), ConnectionInfo("192.0.2.1", None))
    transport = FakeTransport()
    socket.connection_made(transport)  # type: ignore[arg-type]
    if compressed:
        socket.use_deflate(Deflate(0))
    sent: Sent = []
    for piece in pieces:
        if not transport.is_closing():
            socket.data_received(piece)
        sent += frames(socket)
        hub.check_invariants()
    check_sent(socket, sent, compressed)
    socket.connection_lost(None)
    assert not hub.swarms
    return sent, None if socket.reason is CloseReason.CONNECTION_LOST else socket.reason


def check_sent(socket: PeerSocket, sent: Sent, compressed: bool) -> None:
    """All messages are those of the protocol, and no error came from the tracker itself."""
    assert socket.reason is not CloseReason.INTERNAL_ERROR
    for opcode, payload in sent:
        if opcode & ~COMPRESSED == TEXT:
            assert bool(opcode & COMPRESSED) == compressed
            client.decode(Deflate(0).inflate(payload, 1 << 16) if compressed else payload)
        else:
            assert opcode in (CLOSE, PONG)


def seeds() -> Iterator[bytes]:
    """Yield messages with control frames among them."""

    def frame(opcode: int, payload: bytes = b"", fin: bool = True, rsv1: bool = False) -> bytes:
        written = Frame(Opcode(opcode), payload, fin).serialize(mask=True)
        return bytes([written[0] | rsv1 << 6]) + written[1:]

    for number, start in enumerate((b"\x00", b"\x05", b"\x80", b"\x93")):
        yield start + frame(1, ANNOUNCE) + frame(9, b"ping") + frame(8, b"\x03\xe8bye") + frame(1, SCRAPE)
        yield start + frame(2, SCRAPE[:9], False) + frame(9) + frame(0, SCRAPE[9:]) + frame(10, b"x") + frame(8)
        yield start + frame(1, Deflate(0).compress(ANNOUNCE), rsv1=True) + frame(8, bytes([3, number]))
        yield start + frame(1, b"{") * 6 + frame(1, ANNOUNCE)
        yield start + frame(1, b"\xff") + frame(9)
        yield start + frame(1) * 30


TARGET = Target(
    check,
    seeds,
    (b"\x81\x80", b"\x01\x80", b"\x80\x80", b"\x88\x82", b"\x89\x80", b"\x8a\x80", b"\xc1", b"\x88\x80", ANNOUNCE[:64]),
    # Room for as many pings as may come in one piece.
    max_size=1 + MAX_CONTROLS * 6,
    runs=600,
)
