"""A node of a cluster that gets any messages of another one: its swarms stay consistent, and its peers get no bad ids.

The parts of an input, divided by `|||`, are bodies of envelopes. The first byte of each says how it is sent: `b` to all
nodes, `s` outside of a sequence, otherwise as the next one in the sequence. `t` lets a second pass instead.
"""

import json
from collections.abc import Iterator
from functools import partial

import msgspec

from extensions.cluster import wire
from extensions.cluster.envelope import ALL, BROADCAST, HEADER_LENGTH, SINGLE, STREAM, Sealer
from extensions.cluster.errors import RefusedError
from extensions.cluster.reasons import Refused
from tests.client import HASH, announce, answer, offers
from tests.fuzz import envelope
from tests.fuzz.codec import is_relayed
from tests.fuzz.target import Target
from tests.unit.cluster.world import TRACKER, Station, World
from tests.unit.fakes import FakeConnection, Json, peer_id
from tracker.protocol.ids import is_id

OTHER = "a" * 16
DIVIDER = b"|||"
ROOM = "a room"
LOCAL = peer_id(1)
HEARTBEAT = wire.Heartbeat("label", "", "1.0", TRACKER, 1_700_000_000, 500, 1, 2, 3, 4, wire.CAPABLE)


class Other:
    """The other node, which sends any bytes in valid envelopes."""

    def __init__(self, station: Station) -> None:
        self._station = station
        self._sealer = Sealer(OTHER, "test", None)
        self._numbers = dict.fromkeys((BROADCAST, SINGLE, STREAM), 0)

    def send(self, kind: int, body: bytes) -> None:
        """Send a body, encoded or not."""
        self._numbers[kind] += 1
        receiver = ALL if kind == BROADCAST else bytes.fromhex(self._station.node_id)
        epoch = 1 if kind == STREAM else 0
        sealed = self._sealer.seal(kind, receiver, epoch, self._numbers[kind], [])
        self._station.node.receive(sealed[:HEADER_LENGTH] + body)


def check(data: bytes) -> None:
    """Let a node receive messages."""
    world = World(1)
    (station,) = world.stations
    station.outbox.on_put = check_put
    clients = [FakeConnection(), FakeConnection()]
    other = Other(station)
    other.send(BROADCAST, body(HEARTBEAT))
    for info_hash in (HASH, ROOM):
        for number, client in enumerate(clients):
            made = offers(2, start=10 * number)
            station.send(client, announce(peer_id(number + 1), info_hash, offers=made, left=number))
    for part in data.split(DIVIDER, 20):
        kind = part[:1]
        if kind == b"t":
            world.pass_time(1)
        elif was_checked(part[1:]):
            other.send({b"b": BROADCAST, b"s": SINGLE}.get(kind, STREAM), part[1:])
            world.settle()
        world.check()
    # The peers are served as ever.
    station.send(clients[0], announce(LOCAL, offers=offers(1, start=50)))
    station.send(clients[1], answer(peer_id(2), LOCAL, f"{10:020}"))
    world.pass_time(0.5)
    world.check()
    for client in clients:
        station.hub.close(client)
    assert station.hub.seeders == station.hub.leechers == 0
    assert station.node.parts.refused.keys() <= set(Refused)


def was_checked(body: bytes) -> bool:
    """Return whether another node of the tracker could send a body.

    It has checked the SDPs of its clients. Those are not checked again for invalid escapes and control characters,
    which would take as long as all other checks together (`codec.rebuilt_offers`).
    """
    try:
        messages = wire.messages_in(bytes(HEADER_LENGTH) + body)
    except RefusedError:
        return True
    for message in messages:
        texts, end = getattr(message, "texts", b""), 0
        for size in getattr(message, "sizes", [getattr(message, "size", 0), len(texts)]):
            text, end = texts[end : end + size], end + size
            if text[:1] == text[-1:] == b'"' and text.count(b'"') == 2 and not is_string(text):
                return False
    return True


def is_string(text: bytes) -> bool:
    """Return whether a text is a JSON string."""
    try:
        return isinstance(json.loads(text), str)
    except ValueError:
        return False


def check_put(message: Json) -> None:
    """A client of a binary swarm gets binary ids only."""
    info_hash = message.get("info_hash", HASH)
    for name in ("info_hash", "peer_id", "offer_id"):
        assert name not in message or is_relayed(message[name], is_id(info_hash))


def body(*messages: msgspec.Struct) -> bytes:
    """Return the body of an envelope."""
    return b"\xdd" + len(messages).to_bytes(4) + b"".join(map(wire.encode, messages))


def seeds() -> Iterator[bytes]:
    """Yield conversations."""
    raw_offer = b'"' + b"o" * 20 + b'""v=0\\n"'
    roster = partial(wire.Roster, HASH, wire.OLDER)
    talk = (
        wire.Begin(0, False),
        wire.Opened([HASH, ROOM]),
        wire.Shares(HASH, [OTHER], True),
        roster([("p" * 20, wire.NEEDS_OFFERS), ("q" * 20, wire.COMPLETE)]),
        roster([], 20, 30, ["r" * 20], 1, 1),
        wire.Roster(ROOM, wire.NEWCOMER, [("p", 0)]),
        wire.Done(),
        wire.Offers(HASH, "p" * 20, 0, "", 0, [22, 7], raw_offer),
        wire.Offers(HASH, "p" * 20, 3, LOCAL, 0, [22, 7], raw_offer),
        wire.OffersToEach(HASH, "p" * 20, [LOCAL], 0, [22, 7], raw_offer),
        wire.Answered(HASH, "p" * 20, LOCAL, True, 22, raw_offer),
        wire.Returned(HASH, LOCAL, 0, "", 0, [22, 7], raw_offer, 0.5),
        wire.Linked(HASH, 1, 2),
        wire.Newcomers(HASH, 1),
        wire.Closed([HASH]),
    )
    yield b"m" + body(*talk) + DIVIDER + b"t"
    yield DIVIDER.join(b"m" + body(message) for message in talk)
    # All but the offers of the gateway's streams, which need an event loop.
    for message in envelope.MESSAGES:
        yield b"m" + body(talk[0]) + DIVIDER + b"m" + body(message) + DIVIDER + b"t"
        yield b"s" + body(message) + DIVIDER + b"b" + body(HEARTBEAT)
    yield b"m" + body(roster([("p" * 20, 0)])) + DIVIDER + b"m" + body(wire.Bye()) + DIVIDER + b"t"


TARGET = Target(
    check,
    seeds,
    (
        DIVIDER,
        DIVIDER + b"t",
        HASH.encode(),
        LOCAL.encode(),
        b"\x91",
        b"\xdd\x00\x00\x00\x01",
        b"p" * 20,
        b"\xa6a room",
    ),
    runs=40,
)
