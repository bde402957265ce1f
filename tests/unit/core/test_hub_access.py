"""Swarms that are denied, and addresses that have used up what they may, as the hub answers."""

import json
from typing import Any

from tests.client import HASH, announce, answer, offers
from tests.unit.fakes import FakeConnection, Room, peer_id
from tracker.access.addresses import AddressLimits, Quota
from tracker.core.swarm import Swarm
from tracker.reasons import DropReason

A, B, C = peer_id(1), peer_id(2), peer_id(3)
OTHER = "o" * 20


def dropped(room: Room) -> dict[DropReason, int]:
    return {reason: number for reason, number in room.hub.tally.dropped.items() if number}


def limited(room: Room, **limits: Any) -> FakeConnection:
    connection = FakeConnection()
    connection.quota = Quota("192.0.2.1", AddressLimits(**limits), room.now)
    return connection


def deny(room: Room, *denied: str) -> None:
    room.hub.serves = lambda info_hash: info_hash not in denied


def close_denied(room: Room) -> list[tuple[FakeConnection, dict[str, Any]]]:
    out = [(connection, json.loads(data)) for connection, data in room.hub.close_denied()]
    room.hub.check_invariants()
    return out


def test_a_denied_swarm_is_a_failure_and_no_offence() -> None:
    room = Room()
    deny(room, HASH)
    client = FakeConnection()
    client.strikes = 3
    for _ in range(20):
        (told,) = room.send(client, announce(A, offers=offers(2)))
        assert set(told) == {"action", "failure reason", "info_hash"}
        assert (told["action"], told["info_hash"]) == ("announce", HASH)
        client.take()
    assert client.strikes == 3
    assert not room.hub.swarms
    assert not client.peers
    assert dropped(room) == {DropReason.INFO_HASH_DENIED: 20}
    (served,) = room.send(client, announce(A, OTHER))
    assert served["incomplete"] == 1


def test_stop_answer_and_scrape_of_a_denied_swarm_are_as_of_an_empty_one() -> None:
    room = Room()
    deny(room, HASH)
    client = FakeConnection()
    room.send(client, announce(A, event="stopped"))
    room.send(client, {"action": "scrape", "info_hash": HASH})
    room.send(client, answer(A, B, "o" * 20))
    stopped, scraped = client.take()
    assert (stopped["complete"], stopped["incomplete"]) == (0, 0)
    assert scraped["files"][HASH]["incomplete"] == 0
    assert room.hub.tally.failures == 0


def test_swarms_that_are_denied_later_are_closed_and_their_peers_told() -> None:
    room = Room()
    a, b = room.join(A), room.join(B, left=0)
    room.send(a, announce(A, OTHER))
    a.take()
    deny(room, HASH)
    told = close_denied(room)
    assert sorted(id(connection) for connection, _ in told) == sorted([id(a), id(b)])
    assert all(message["info_hash"] == HASH and "failure reason" in message for _, message in told)
    assert list(room.hub.swarms) == [OTHER]
    assert (room.hub.seeders, room.hub.leechers) == (0, 1)
    assert (a.strikes, len(a.peers), len(b.peers)) == (0, 1, 0)
    assert dropped(room) == {DropReason.INFO_HASH_DENIED: 2}
    assert close_denied(room) == []
    room.send(b, announce(B))
    assert "failure reason" in b.take()[0]


def test_several_peers_on_one_connection_are_each_told() -> None:
    room = Room()
    client = room.join(A)
    room.send(client, announce(B))
    deny(room, HASH)
    assert len(close_denied(room)) == 2
    assert not room.hub.swarms


def test_extensions_learn_that_a_denied_swarm_is_closed() -> None:
    closed: list[str] = []

    class Listening:
        def swarm_closed(self, swarm: Swarm) -> None:
            closed.append(swarm.info_hash)

        def __getattr__(self, _name: str) -> Any:
            return lambda *_: None

    room = Room(Listening())
    room.join(A)
    room.join(B)
    deny(room, HASH)
    close_denied(room)
    assert closed == [HASH]


def test_what_is_allowed_again_is_served_again() -> None:
    room = Room()
    client = room.join(A)
    deny(room, HASH)
    close_denied(room)
    deny(room)
    assert room.send(client, announce(A))[0]["incomplete"] == 1


def test_too_many_announces_are_failures_and_offences() -> None:
    room = Room()
    client = limited(room, announces_per_second=1, burst=3)
    for _ in range(3):
        room.send(client, announce(A))
    assert client.strikes == 0
    assert all("interval" in message for message in client.take())
    for strikes in range(1, 11):
        (told,) = room.send(client, announce(A))
        assert (told["failure reason"], told["info_hash"]) == ("too many requests from your address", HASH)
        assert client.strikes == strikes
        client.take()
    assert dropped(room) == {DropReason.TOO_MANY_ANNOUNCES: 10}
    room.now += 1
    assert "interval" in room.send(client, announce(A))[0]
    assert client.strikes == 9


def test_a_refused_announce_changes_nothing() -> None:
    room = Room()
    b = room.join(B)
    client = limited(room, announces_per_second=1, burst=1)
    room.send(client, announce(A))
    room.send(client, announce(C, offers=offers(5), left=0))
    assert room.counts() == (0, 2)
    assert b.take() == []


def test_offers_and_answers_are_counted_as_offers() -> None:
    room = Room()
    room.join(B)
    client = limited(room, offers_per_second=1, burst=5)
    assert "interval" in room.send(client, announce(A, offers=offers(4)))[0]
    client.take()
    assert room.send(client, answer(A, B, "o" * 20)) == []
    assert "failure reason" in room.send(client, answer(A, B, "o" * 20))[0]
    client.take()
    assert "failure reason" in room.send(client, announce(A, offers=offers(1)))[0]
    assert dropped(room)[DropReason.TOO_MANY_OFFERS] == 2


def test_a_full_batch_of_offers_fits_through_any_limit_of_who_waits() -> None:
    room = Room()
    client = limited(room, offers_per_second=2, burst=1)
    for _ in range(3):
        assert "interval" in room.send(client, announce(A, offers=offers(20)))[0]
        client.take()
        room.now += 1


def test_scrapes_are_counted_as_announces() -> None:
    room = Room()
    client = limited(room, announces_per_second=1, burst=1)
    scrape = {"action": "scrape", "info_hash": HASH}
    assert "files" in room.send(client, scrape)[0]
    client.take()
    assert "failure reason" in room.send(client, scrape)[0]
    assert dropped(room) == {DropReason.TOO_MANY_ANNOUNCES: 1}


def test_to_stop_is_free() -> None:
    """Or a client that has announced too much could not even leave."""
    room = Room()
    client = limited(room, announces_per_second=1, burst=1)
    room.send(client, announce(A))
    client.take()
    for _ in range(5):
        assert "interval" in room.send(client, announce(A, event="stopped"))[0]
        client.take()
    assert not room.hub.swarms
    assert client.strikes == 0


def test_connections_of_one_address_share_its_quota() -> None:
    room = Room()
    first = limited(room, announces_per_second=1, burst=2)
    second = FakeConnection()
    second.quota = first.quota
    room.send(first, announce(A))
    room.send(second, announce(B))
    assert "failure reason" in room.send(first, announce(A))[-1]
    assert "failure reason" in room.send(second, announce(B))[-1]
    assert "interval" in room.send(FakeConnection(), announce(C))[0]
