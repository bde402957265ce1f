"""A peer that is present on several connections."""

import json
from typing import Any

import pytest

from tests.client import HASH, Json, announce, answer, offers
from tests.unit.fakes import FakeConnection, HubHarness, peer_id
from tracker.core.presence import MAX_CONNECTIONS, MAX_OFFERS, OFFER_LIFETIME, PING_GAP, PING_TIMEOUT
from tracker.core.rules import Rules
from tracker.core.several import MAX_LISTENED
from tracker.protocol import codec
from tracker.reasons import DropReason

A, B, C = (peer_id(number) for number in (1, 2, 3))
ELSEWHERE = "198.51.100.1"


def offered(connection: FakeConnection) -> list[str]:
    """Return the offer_ids of the offers that a connection has received."""
    return [message["offer_id"] for message in connection.take() if "offer" in message]


def answered(connection: FakeConnection) -> list[str]:
    """Return the offer_ids of the answers that a connection has received."""
    return [message["offer_id"] for message in connection.take() if "answer" in message]


def one_offer(number: int) -> tuple[str, list[Json]]:
    """Return an offer in a list, and its id."""
    made = offers(1, start=number)
    return made[0]["offer_id"], made


@pytest.fixture
def harness() -> HubHarness:
    return HubHarness()


@pytest.fixture
def b(harness: HubHarness) -> FakeConnection:
    return harness.join(B)


def again(harness: HubHarness, who: str = A, address: str = "192.0.2.1", **fields: Any) -> FakeConnection:
    """Return a further connection of a peer."""
    connection = FakeConnection(address)
    harness.send(connection, announce(who, **fields))
    connection.take()
    return connection


def test_each_answer_goes_to_the_connection_of_its_offer(harness: HubHarness, b: FakeConnection) -> None:
    ids, made = zip(*(one_offer(number) for number in range(3)), strict=True)
    first = harness.join(A, offers=made[0])
    second = again(harness, offers=made[1])
    harness.send(first, announce(A, offers=made[2]))
    assert sorted(offered(b)) == sorted(ids)
    first.take()
    for offer_id in ids:
        harness.send(b, answer(B, A, offer_id))
    assert (answered(first), answered(second)) == ([ids[0], ids[2]], [ids[1]])
    assert harness.counts() == (0, 2), "it is one peer"


def test_an_offer_id_may_be_escaped_differently_in_the_answer(harness: HubHarness, b: FakeConnection) -> None:
    harness.join(A)
    second = again(harness, offers=[{**offers(1)[0], "offer_id": "\xe9" * 20}])
    offered(b)
    message = answer(B, A, "OFFER")
    harness.send(b, str(message).replace("'", '"').replace("OFFER", "\xe9" * 20).encode())
    assert answered(second) == ["\xe9" * 20]


def test_offers_go_to_the_connection_that_announced_last(harness: HubHarness, b: FakeConnection) -> None:
    first = harness.join(A)
    second = again(harness)
    for last, other in ((second, first), (first, second)):
        harness.send(last, announce(A))
        harness.send(b, announce(B, offers=offers(1)))
        assert len(offered(last)) == 1
        assert offered(other) == []


def test_a_peer_stays_until_it_has_left_its_last_connection(harness: HubHarness, b: FakeConnection) -> None:
    first = harness.join(A)
    second = again(harness)
    harness.send(second, announce(A, event="stopped"))
    harness.hub.close(second)
    assert harness.counts() == (0, 2)
    harness.send(b, announce(B, offers=offers(1)))
    assert len(offered(first)) == 1
    harness.hub.close(first)
    assert harness.counts() == (0, 1)


def test_either_connection_may_answer(harness: HubHarness, b: FakeConnection) -> None:
    first = harness.join(A)
    second = again(harness)
    for connection in (first, second):
        harness.send(connection, answer(A, B, "o" * 20))
    assert answered(b) == ["o" * 20] * 2


def test_a_client_that_reconnects_receives_offers_at_once(harness: HubHarness, b: FakeConnection) -> None:
    old = harness.join(A)
    old.last_received = 0.0
    new = again(harness)
    assert old.pings == 1
    harness.send(b, announce(B, offers=offers(1)))
    assert (offered(old), len(offered(new))) == ([], 1)
    harness.hub.close(old)
    assert harness.counts() == (0, 2)


def test_a_client_that_reconnects_from_elsewhere_receives_offers_soon(harness: HubHarness, b: FakeConnection) -> None:
    old = harness.join(A)
    old.last_received = 0.0
    new = again(harness, address=ELSEWHERE, left=0)
    assert old.pings == 1
    harness.now += PING_TIMEOUT
    harness.expire()
    assert harness.counts() == (1, 1)
    harness.send(b, announce(B, offers=offers(1)))
    assert (offered(old), len(offered(new))) == ([], 1)
    assert harness.hub.counters.dropped[DropReason.TAKEN_OVER] == 1


def test_a_connection_that_answers_a_ping_late_is_as_before(harness: HubHarness, b: FakeConnection) -> None:
    slow = harness.join(A)
    slow.last_received = 0.0
    other = again(harness, address=ELSEWHERE)
    harness.now += PING_TIMEOUT
    harness.expire()
    slow.last_received = harness.now
    harness.expire()
    harness.send(b, announce(B, offers=offers(1)))
    assert (len(offered(slow)), offered(other)) == (1, [])
    # No ping is open any more, so nothing is left to look at.
    slow.last_received = 0.0
    harness.now += PING_TIMEOUT
    harness.expire()
    harness.send(b, announce(B, offers=offers(1)))
    assert len(offered(slow)) == 1


def test_a_stranger_does_not_silence_a_living_peer(harness: HubHarness, b: FakeConnection) -> None:
    offer_id, made = one_offer(1)
    peer = harness.join(A, offers=made)
    stranger = again(harness, address=ELSEWHERE, left=0, offers=made)
    harness.now += PING_TIMEOUT
    harness.expire()
    assert harness.counts() == (0, 2), "the stranger makes no seeder of it"
    harness.send(b, announce(B, offers=offers(1, start=5)))
    assert (len(offered(peer)), offered(stranger)) == (1, [])
    # It has repeated the peer's offer_id, which is not remembered, because the peer had one connection then.
    harness.send(b, answer(B, A, offer_id))
    assert (answered(peer), answered(stranger)) == ([offer_id], [offer_id])
    harness.send(stranger, announce(A, event="stopped"))
    assert harness.counts() == (0, 2)


def test_a_stranger_receives_answers_to_its_own_offers_only(harness: HubHarness, b: FakeConnection) -> None:
    peer = harness.join(A)
    strange, made = one_offer(1)
    stranger = again(harness, address=ELSEWHERE, offers=made)
    own, made = one_offer(2)
    harness.send(peer, announce(A, offers=made))
    harness.send(stranger, announce(A, offers=made))
    harness.now += OFFER_LIFETIME - 1
    harness.send(b, answer(B, A, own))
    harness.send(b, answer(B, A, strange))
    assert answered(stranger) == [strange]
    assert answered(peer) == [own, strange], "it might have made this offer before"


def test_a_stranger_does_not_keep_a_silent_peer(harness: HubHarness) -> None:
    harness.join(A)
    harness.now += harness.hub.rules.peer_timeout
    stranger = again(harness, address=ELSEWHERE)
    harness.send(stranger, answer(A, B, "o" * 20))
    harness.now += 1
    harness.expire()
    assert harness.counts() == (0, 0)


def test_a_stranger_takes_the_place_of_a_peer_that_has_gone(harness: HubHarness, b: FakeConnection) -> None:
    peer = harness.join(A)
    stranger = again(harness, address=ELSEWHERE)
    harness.hub.close(peer)
    harness.send(b, announce(B, offers=offers(1)))
    assert len(offered(stranger)) == 1


def test_a_stranger_cannot_make_a_connection_busy_with_pings(harness: HubHarness) -> None:
    peer = harness.join(A)
    strangers = [again(harness, address=ELSEWHERE) for _ in range(2)]
    for _ in range(100):
        for stranger in strangers:
            harness.send(stranger, announce(A))
        harness.now += PING_GAP / 100
    assert peer.pings <= 2


def test_many_dead_connections_are_found_in_turns(harness: HubHarness) -> None:
    number = MAX_LISTENED + 1
    dead, new = FakeConnection(), FakeConnection(ELSEWHERE)
    harness.hub.rules = Rules(max_swarms_per_connection=number)
    for connection in (dead, new):
        for swarm in range(number):
            message = announce(A, f"{swarm:020}")
            harness.hub.apply(connection, codec.decode(json.dumps(message).encode(), 0), harness.now, harness.outbox)
    dead.last_received = 0.0
    harness.now += PING_TIMEOUT

    def lost() -> int:
        return sum(swarm.peers[A].connection is new for swarm in harness.hub.swarms.values())

    harness.hub.several.listen(harness.now)
    assert lost() == MAX_LISTENED
    harness.hub.several.listen(harness.now)
    assert lost() == number
    # Those that are silent still have turns, because they may answer late.
    dead.last_received = harness.now
    for _ in range(2):
        harness.hub.several.listen(harness.now)
    assert lost() == 0
    assert list(harness.hub.several.pinged) == []


def test_the_least_useful_connection_makes_room(harness: HubHarness) -> None:
    old = harness.join(A)
    stranger = again(harness, address=ELSEWHERE)
    others = [again(harness) for _ in range(MAX_CONNECTIONS - 1)]
    assert [len(connection.peers) for connection in (old, stranger, *others)] == [1, 0, *[1] * (MAX_CONNECTIONS - 1)]
    (failure,) = harness.send(FakeConnection(ELSEWHERE), announce(A))
    assert failure["failure reason"] == "this peer_id is in use on other connections"
    assert harness.hub.counters.dropped[DropReason.PEER_ID_IN_USE] == 1
    again(harness)
    assert len(old.peers) == 0, "its client has announced longest ago"
    assert harness.counts() == (0, 1)


def test_silent_connections_make_room_first(harness: HubHarness) -> None:
    connections = [harness.join(A), *(again(harness) for _ in range(MAX_CONNECTIONS - 1))]
    connections[2].last_received = 0.0
    harness.now += PING_GAP
    again(harness)
    assert len(connections[0].peers) == 0
    harness.now += PING_TIMEOUT
    harness.expire()
    again(harness)
    assert [len(connection.peers) for connection in connections[1:]] == [1, 0, 1]


def test_remembered_offers_are_bounded_and_forgotten(harness: HubHarness) -> None:
    harness = HubHarness(max_offers=MAX_OFFERS)
    harness.join(A)
    second = again(harness)
    presences = harness.hub.swarms[HASH].peers[A].presences
    assert presences
    presence = presences.get(second)
    assert presence
    harness.send(second, announce(A, offers=offers(MAX_OFFERS, start=1000), numwant=MAX_OFFERS))
    harness.send(second, announce(A, offers=offers(3, start=5000), numwant=MAX_OFFERS))
    assert len(presence.offers) == MAX_OFFERS
    harness.now += OFFER_LIFETIME
    harness.expire()
    assert presence.offers == {}


def test_a_seeder_on_two_connections_has_time_to_make_its_offers(harness: HubHarness, b: FakeConnection) -> None:
    harness.hub.offers.parked.enable(lambda _: None)
    harness.send(b, announce(B, offers=offers(3)))
    first = harness.join(A, left=0, event="completed")
    second = again(harness, left=0, event="completed")
    made = harness.remote.deliver_offers(HASH, C, [], harness.now)
    assert made == []
    assert (offered(first), offered(second)) == ([], [])
    assert harness.hub.swarms[HASH].peers[A].offers_due > harness.now


def test_a_swarm_that_is_denied_is_left_on_all_connections(harness: HubHarness) -> None:
    connections = [harness.join(A), again(harness)]
    harness.hub.restrict(lambda _: False, harness.outbox)
    assert [len(connection.peers) for connection in connections] == [0, 0]
    assert all("failure reason" in connection.take()[0] for connection in connections)
    assert harness.hub.swarms == {}


@pytest.mark.parametrize(("address", "forgets"), [("192.0.2.1", True), (ELSEWHERE, False)])
def test_a_client_that_reconnects_has_lost_its_peers_and_a_stranger_changes_nothing(
    harness: HubHarness, b: FakeConnection, address: str, forgets: bool
) -> None:
    harness.join(A)
    harness.send(b, answer(B, A, "o" * 20))
    peer = harness.hub.swarms[HASH].peers[A]
    assert peer.met_count == 1
    harness.send(FakeConnection(address), announce(A))
    assert (peer.met_count == 0) is forgets
