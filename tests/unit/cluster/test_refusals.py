"""Nodes that lie, flood or are others: their messages are refused and counted, and harm nothing."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.cluster import wire
from extensions.cluster.envelope import ALL, BROADCAST, SINGLE, STREAM, Sealer
from extensions.cluster.members import MAX_NODES
from extensions.cluster.membership import MAX_BURST, MESSAGE_COST
from extensions.cluster.reasons import Dropped, Left, Refused
from tests.client import HASH, announce, offers
from tests.unit.cluster.test_wire import messages
from tests.unit.cluster.world import TRACKER, Station, World
from tests.unit.fakes import FakeConnection, peer_id

P, Q = peer_id(1), peer_id(2)
STRANGER = "f" * 16


def heartbeat(tracker_id: str = TRACKER, age: int = 1) -> wire.Heartbeat:
    return wire.Heartbeat("stranger", "", "1.0", tracker_id, 1, age, 0, 0, 0, 0, 0)


class Stranger:
    """Another node, whose messages are written by hand."""

    def __init__(self, station: Station, node_id: str = STRANGER) -> None:
        self.station = station
        self.node_id = node_id
        self.sealer = Sealer(node_id, "test", None)
        self.receiver = bytes.fromhex(station.node_id)
        self.beats = 0
        self.seq = 0

    def beat(self, message: Any = None) -> None:
        self.beats += 1
        part = wire.encode(message or heartbeat())
        self.station.node.receive(self.sealer.seal(BROADCAST, ALL, 0, self.beats, [part]))

    def tell(self, *sent: Any, epoch: int = 1) -> None:
        self.seq += 1
        parts = [one if isinstance(one, bytes) else wire.encode(one) for one in sent]
        self.station.node.receive(self.sealer.seal(STREAM, self.receiver, epoch, self.seq, parts))


@pytest.fixture
def station() -> Station:
    return World(1).stations[0]


@pytest.fixture
def stranger(station: Station) -> Stranger:
    return Stranger(station)


def test_a_node_must_introduce_itself(station: Station, stranger: Stranger) -> None:
    stranger.tell(wire.Done())
    assert station.node.parts.refused == {Refused.UNKNOWN_NODE: 1}
    assert station.log.events == [], "it may have started just now"
    stranger.beat()
    assert ("joined", STRANGER) in station.log.events


def test_the_first_message_may_introduce_it(station: Station, stranger: Stranger) -> None:
    stranger.tell(heartbeat(), wire.Begin(0, False))
    assert list(station.node.parts.members.others) == [STRANGER]


def test_a_node_of_another_tracker_is_refused(station: Station, stranger: Stranger) -> None:
    stranger.beat(heartbeat("u" * 64))
    assert station.node.parts.refused == {Refused.OTHER_TRACKER: 1}
    assert station.node.parts.members.others == {}


def test_a_node_of_another_version_is_refused(station: Station) -> None:
    payload = Sealer(STRANGER, "test", None).seal(BROADCAST, ALL, 0, 1, [wire.encode(heartbeat())])
    station.node.receive(payload[:3] + b"\x09" + payload[4:])
    assert station.log.events == [("refused", Refused.OTHER_VERSION, STRANGER)]


def test_a_node_with_another_key_is_refused() -> None:
    station = World(1, needs_mac=True).stations[0]
    Stranger(station).beat()
    assert station.node.parts.refused == {Refused.WRONG_KEY: 1}
    assert station.node.parts.members.others == {}


def test_a_message_that_comes_twice_is_refused_in_silence(station: Station, stranger: Stranger) -> None:
    stranger.beat()
    stranger.beats = 0
    stranger.beat()
    stranger.tell(wire.Begin(0, False))
    stranger.seq = 0
    stranger.tell(wire.Begin(0, False))
    assert station.node.parts.refused == {Refused.DUPLICATE: 2}
    assert not any(event[0] == "refused" for event in station.log.events)


def test_a_node_that_floods_is_refused_until_it_is_slower(station: Station, stranger: Stranger) -> None:
    stranger.beat()
    size = 1 << 20
    for _ in range(2 * MAX_BURST // size):
        stranger.tell(bytes(size))
    refused = station.node.parts.refused
    # What is no message costs as much as one that is.
    assert refused[Refused.FLOOD] + refused[Refused.GARBAGE] == 2 * MAX_BURST // size
    assert abs(refused[Refused.GARBAGE] - MAX_BURST / (size + MESSAGE_COST)) < 3
    station.world.now += 5
    stranger.tell(wire.Tick())
    assert station.node.parts.refused == refused


def test_there_is_a_limit_of_nodes(station: Station) -> None:
    for number in range(MAX_NODES + 3):
        Stranger(station, f"{number:016x}").beat()
    assert len(station.node.parts.members.others) == MAX_NODES
    assert station.node.parts.refused == {Refused.TOO_MANY_NODES: 3}


def test_garbage_in_the_sequence_is_taken_for_a_lost_message(station: Station, stranger: Stranger) -> None:
    stranger.beat()
    stranger.tell(wire.Begin(0, False))
    stranger.tell(b"\xc1")
    assert station.node.parts.refused == {Refused.GARBAGE: 1}
    assert station.node.parts.sessions.by_id[STRANGER].has_missed


def test_a_node_that_has_stopped_is_not_revived_by_late_messages(station: Station, stranger: Stranger) -> None:
    stranger.beat()
    stranger.beat(wire.Bye())
    assert ("left", STRANGER, Left.STOPPED) in station.log.events
    stranger.beat()
    stranger.tell(heartbeat(), wire.Begin(0, False))
    assert station.node.parts.members.others == {}


def test_a_lost_node_is_revived_by_a_new_heartbeat_but_not_by_an_old_one(station: Station, stranger: Stranger) -> None:
    stranger.beat()
    stranger.beat()
    station.node.lost(STRANGER)
    station.node.lost(STRANGER)
    assert station.log.events[-1] == ("left", STRANGER, Left.LOST)
    stranger.beats = 0
    stranger.beat()
    assert station.node.parts.members.others == {}
    stranger.beats = 2
    stranger.beat()
    assert list(station.node.parts.members.others) == [STRANGER]


def test_old_messages_do_not_keep_a_dead_node_alive(station: Station, stranger: Stranger) -> None:
    """Another program may repeat them, whatever they are."""
    old: list[bytes] = []

    def receive(payload: bytes) -> None:
        old.append(payload)
        station.node.receive(payload)

    seal = stranger.sealer.seal
    receive(seal(BROADCAST, ALL, 0, 1, [wire.encode(heartbeat())]))
    receive(seal(STREAM, stranger.receiver, 1, 1, [wire.encode(heartbeat()), wire.encode(wire.Begin(0, False))]))
    receive(seal(SINGLE, stranger.receiver, 1, 1, [wire.encode(wire.Tick())]))
    receive(seal(SINGLE, stranger.receiver, 1, 1, [wire.encode(wire.Ping(1))]))
    for _ in range(10):
        station.world.pass_time(1)
        for payload in old:
            station.node.receive(payload)
    assert station.log.events.count(("joined", STRANGER)) == 1
    assert station.node.parts.members.others == {}
    # The node itself, if it was only cut off, begins a new epoch.
    stranger.tell(heartbeat(), wire.Begin(0, False), epoch=2)
    assert list(station.node.parts.members.others) == [STRANGER]


def test_offers_and_answers_that_no_client_may_make_are_dropped(station: Station, stranger: Stranger) -> None:
    station.join(P)
    stranger.beat()
    good_id, good = b'"%b"' % (b"o" * 20), b'"v=0"'
    bad_offers = [
        (Q, b"", b""),
        (Q, b'"short"', good),
        (Q, good_id[:-1], good),
        (Q, good_id, b"1"),
        (Q, good_id, b'"'),
        (Q, good_id, b'"v=0'),
        (Q, good_id, b'"\xff"'),
        (Q, good_id, b'"""'),
        (Q, good_id, b'"\\"'),
        (Q, good_id, b'"%b"' % (b"x" * 70_000)),
        ("not binary", good_id, good),
    ]
    for who, one, sdp in bad_offers:
        stranger.tell((wire.OFFERS, HASH, who, 2, P, 0, [len(one), len(sdp)], one + sdp))
    stranger.tell((wire.OFFERS, HASH, Q, 2, P, 0, [len(good_id)], good_id))
    stranger.tell((wire.OFFERS, HASH, Q, 2, P, 0, [], b""))
    # Of two, the invalid one could be for either peer.
    sizes = [len(good_id), len(good), 7, len(good)]
    stranger.tell((wire.OFFERS_TO_EACH, HASH, Q, [P, Q], 0, sizes, good_id + good + b'"short"' + good))
    bad_answers = [
        (Q, 0, b""),
        (Q, 99, good_id + good),
        (Q, 3, b'"o"' + good),
        ("text", len(good_id), good_id + good),
        (Q, len(good_id), good_id + b'"\xff"'),
    ]
    for who, size, texts in bad_answers:
        stranger.tell((wire.ANSWER, HASH, who, P, False, size, texts))
    assert station.node.parts.sessions.dropped == {Dropped.INVALID: len(bad_offers) + 1 + 2 + len(bad_answers)}
    assert station.node.parts.refused == {}
    (connection,) = [peer.connection for peer in station.hub.swarms[HASH].peers.values()]
    assert isinstance(connection, FakeConnection)
    assert connection.take() == []
    stranger.tell((wire.OFFERS, HASH, Q, 2, P, 0, [len(good_id), len(good)], good_id + good))
    (message,) = connection.take()
    assert message["offer_id"] == "o" * 20


@given(told=st.lists(st.lists(messages, max_size=4), max_size=8))
@settings(max_examples=100)
def test_whatever_a_node_tells_the_hub_stays_sound(told: list[list[Any]]) -> None:
    world = World(1)
    station = world.stations[0]
    stranger = Stranger(station)
    station.send(FakeConnection(), announce(P, offers=offers(2)))
    stranger.beat()
    for sent in told:
        stranger.tell(*sent)
        world.settle()
        station.check()
    world.pass_time(5)
    assert station.node.parts.members.others == {}
    station.check()
    assert station.view() == (0, 1)


def test_a_repeated_heartbeat_of_a_node_that_has_ended_makes_it_no_owner_and_no_gateway() -> None:
    """Its last heartbeats may be older than this node, which has never heard of it."""
    world = World(2, is_capable=True)
    world.pass_time(5)
    one, other = world.stations
    ghosts = [Stranger(one, f"{number:x}" * 16) for number in range(1, 6)]
    ghosts += [Stranger(other, ghost.node_id) for ghost in ghosts]
    gateways = [station.node.parts.gateway.is_here for station in world.stations]
    claims = heartbeat()
    claims.flags = wire.CAPABLE | wire.GATEWAY
    for second in range(5):
        for ghost in ghosts:
            ghost.beat(claims)
        for number in range(10):
            world.stations[number % 2].join(peer_id(second), f"{second:019}{number}")
            world.stations[1 - number % 2].join(peer_id(second + 50), f"{second:019}{number}")
        world.pass_time(1)
        for number in range(10):
            assert one.view(f"{second:019}{number}") == other.view(f"{second:019}{number}") == (0, 2)
    assert [station.node.parts.gateway.is_here for station in world.stations] == gateways
    # A message to this node cannot be older than it.
    ghosts[0].tell(heartbeat(), wire.Begin(0, False))
    world.settle()
    assert ghosts[0].node_id in one.node.parts.owners.ring
    assert ghosts[1].node_id not in one.node.parts.owners.ring


def test_a_repeated_question_is_answered_once(station: Station, stranger: Stranger) -> None:
    asked: list[bytes] = []
    station.node.parts.questions.on_ask("some", lambda data, _: asked.append(data))
    stranger.beat()

    def ask(number: int) -> None:
        part = wire.encode(wire.Ask(number, "some", b"%d" % number))
        station.node.receive(stranger.sealer.seal(SINGLE, stranger.receiver, 1, 0, [part]))

    # Those that come late are answered, too, if they are not too late.
    for number in (1, 2, 2, 1, 4, 3, 3, 4, 70, 69, 7, 6, 5, 70, 7, 1 << 62, 71):
        ask(number)
    assert asked == [b"%d" % number for number in (1, 2, 4, 3, 70, 69, 7, 1 << 62)]
    assert station.node.parts.sessions.dropped == {Dropped.REPEATED: 9}
