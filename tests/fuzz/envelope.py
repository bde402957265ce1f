"""Messages between nodes of a cluster: read or refused, and written again the same.

The first byte of an input is 0 for a whole envelope; otherwise the rest is the body of a valid one.
"""

from collections.abc import Iterator
from contextlib import suppress

import msgspec

from extensions.cluster import wire
from extensions.cluster.envelope import ALL, BROADCAST, HEADER_LENGTH, SINGLE, STREAM, Sealer, sender_of
from extensions.cluster.errors import RefusedError
from extensions.cluster.reasons import Refused
from tests.fuzz.target import Target

A, B = "a" * 16, "b" * 16
TO_B = bytes.fromhex(B)
ID = "h" * 20
SENDER, RECEIVER = Sealer(A, "test", None), Sealer(B, "test", None)
WITH_KEY = Sealer(B, "test", bytes(32))

MESSAGES: tuple[msgspec.Struct, ...] = (
    wire.Begin(1, True),
    wire.Done(),
    wire.Opened([ID, "a room"]),
    wire.Closed([ID]),
    wire.Moved([ID]),
    wire.Shares(ID, [A, B], True),
    wire.Roster(ID, wire.OLDER, [("p" * 20, wire.NEEDS_OFFERS)], 3, 4, ["q" * 20], 1, 2),
    wire.Linked(ID, 5, 6),
    wire.Newcomers(ID, 2),
    wire.Offers(ID, "p" * 20, 3, "q" * 20, 0, [22, 7], b'"' + b"o" * 20 + b'""v=0\\n"'),
    wire.OffersToEach(ID, "p" * 20, ["q" * 20], 1, [22, 7], b'"' + b"o" * 20 + b'""v=0\\n"'),
    wire.Returned(ID, "p" * 20, 0, "", 0, [22, 2], b'"' + b"o" * 20 + b'"""', 1.5),
    wire.Answered(ID, "p" * 20, "q" * 20, False, 22, b'"' + b"o" * 20 + b'""v=0\\n"'),
    wire.Chunk(1, 2, True, memoryview(b"data")),
    wire.Heartbeat("label", "group", "1.0", "t" * 64, 1_700_000_000, 5, 1, 2, 3, 4, wire.CAPABLE),
    wire.Bye(),
    wire.AskAgain(3),
    wire.Tick(),
    wire.Ping(7),
    wire.Pong(7),
    wire.Ask(1, "stats", b"{}"),
    wire.Told(1, 0, True, memoryview(b"{}")),
)
"""One message of each type."""


def check(data: bytes) -> None:
    """Open an envelope and read its messages."""
    if data[:1] == b"\x00":
        payload = data[1:]
        sender_of(payload)
        try:
            RECEIVER.open(payload)
        except RefusedError as error:
            assert error.reason in Refused
            assert len(error.sender) in (0, 16)
        with suppress(RefusedError):
            WITH_KEY.open(payload)
            raise AssertionError("an envelope without a MAC")
    else:
        payload = bytes(HEADER_LENGTH) + data[1:]
    try:
        messages = wire.messages_in(payload)
    except RefusedError:
        return
    parts = [wire.encode(message) for message in messages]
    assert [wire.message_in(part) for part in parts] == messages
    for kind, receiver in ((STREAM, TO_B), (SINGLE, TO_B), (BROADCAST, ALL)):
        sealed = SENDER.seal(kind, receiver, 1, 2, parts)
        assert RECEIVER.open(sealed) == (kind, bytes.fromhex(A), 1, 2)
        assert wire.messages_in(sealed) == messages


def seeds() -> Iterator[bytes]:
    """Yield envelopes and bodies with messages of all types."""
    for message in MESSAGES:
        part = wire.encode(message)
        yield b"\x00" + SENDER.seal(STREAM, TO_B, 1, 1, [part])
        yield b"\x01\x91" + part
    yield b"\x00" + SENDER.seal(BROADCAST, ALL, 0, 9, [wire.encode(message) for message in MESSAGES])
    yield b"\x01\xdd" + len(MESSAGES).to_bytes(4) + b"".join(map(wire.encode, MESSAGES))


TARGET = Target(
    check,
    seeds,
    (
        b"PSC\x01",
        b"\x91",
        b"\xdd\x00\x00\x00",
        b"\xda\x01\x01",
        b"\xcb\x7f\xf8",
        b"\xc0",
        b"\xcf\xff",
        b"\xc4\x04",
        b"\x80",
    ),
    max_size=1500,
)
