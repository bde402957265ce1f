"""Swarms that are denied, and addresses that have used up what they may, as the hub answers."""

from typing import Any

from tests.client import HASH, announce, answer, offers
from tests.unit.fakes import FakeConnection, HubHarness, peer_id
from tracker.access.addresses import AddressLimits, Quota
from tracker.core.swarm import Swarm
from tracker.reasons import DropReason

A, B, C = peer_id(1), peer_id(2), peer_id(3)
OTHER = "o" * 20


def dropped(harness: HubHarness) -> dict[DropReason, int]:
    return {reason: number for reason, number in harness.hub.counters.dropped.items() if number}


def limited(harness: HubHarness, **limits: Any) -> FakeConnection:
    connection = FakeConnection()
    connection.quota = Quota("192.0.2.1", AddressLimits(**limits), harness.now)
    return connection


def deny(harness: HubHarness, *denied: str) -> None:
    """Deny swarms, and close those that are open."""
    harness.hub.restrict(lambda info_hash: info_hash not in denied, harness.outbox)
    harness.hub.check_invariants()


def test_a_denied_swarm_is_a_failure_and_no_offence() -> None:
    harness = HubHarness()
    deny(harness, HASH)
    client = FakeConnection()
    for _ in range(20):
        (told,) = harness.send(client, announce(A, offers=offers(2)))
        assert set(told) == {"action", "failure reason", "info_hash"}
        assert (told["action"], told["info_hash"]) == ("announce", HASH)
        client.take()
    assert not harness.hub.swarms
    assert not client.peers
    assert dropped(harness) == {DropReason.INFO_HASH_DENIED: 20}
    (served,) = harness.send(client, announce(A, OTHER))
    assert served["incomplete"] == 1


def test_stop_answer_and_scrape_of_a_denied_swarm_are_as_of_an_empty_one() -> None:
    harness = HubHarness()
    deny(harness, HASH)
    client = FakeConnection()
    harness.send(client, announce(A, event="stopped"))
    harness.send(client, {"action": "scrape", "info_hash": HASH})
    harness.send(client, answer(A, B, "o" * 20))
    stopped, scraped = client.take()
    assert (stopped["complete"], stopped["incomplete"]) == (0, 0)
    assert scraped["files"][HASH]["incomplete"] == 0
    assert harness.hub.counters.failures == 0


def test_swarms_that_are_denied_later_are_closed_and_their_peers_told() -> None:
    harness = HubHarness()
    a, b = harness.join(A), harness.join(B, left=0)
    harness.send(a, announce(A, OTHER))
    a.take()
    deny(harness, HASH)
    for peer in (a, b):
        (told,) = peer.take()
        assert (told["info_hash"], "failure reason" in told) == (HASH, True)
    assert list(harness.hub.swarms) == [OTHER]
    assert (harness.hub.seeders, harness.hub.leechers) == (0, 1)
    assert (len(a.peers), len(b.peers)) == (1, 0)
    assert dropped(harness) == {DropReason.INFO_HASH_DENIED: 2}
    deny(harness, HASH)
    assert (a.inbox, b.inbox) == ([], [])
    harness.send(b, announce(B))
    assert "failure reason" in b.take()[0]


def test_several_peers_on_one_connection_are_each_told() -> None:
    harness = HubHarness()
    client = harness.join(A)
    harness.send(client, announce(B))
    client.take()
    deny(harness, HASH)
    assert len(client.take()) == 2
    assert not harness.hub.swarms


def test_extensions_learn_that_a_denied_swarm_is_closed() -> None:
    closed: list[str] = []

    class Listening:
        def swarm_closed(self, swarm: Swarm) -> None:
            closed.append(swarm.info_hash)

        def __getattr__(self, _name: str) -> Any:
            return lambda *_: None

    harness = HubHarness(Listening())
    harness.join(A)
    harness.join(B)
    deny(harness, HASH)
    assert closed == [HASH]


def test_what_is_allowed_again_is_served_again() -> None:
    harness = HubHarness()
    client = harness.join(A)
    deny(harness, HASH)
    client.take()
    deny(harness)
    assert harness.send(client, announce(A))[0]["incomplete"] == 1


def test_too_many_announces_are_failures_and_offences() -> None:
    harness = HubHarness()
    client = limited(harness, announces_per_second=1, burst=3)
    for _ in range(3):
        harness.send(client, announce(A))
    assert all("interval" in message for message in client.take())
    for _ in range(10):
        (told,) = harness.send(client, announce(A))
        assert (told["failure reason"], told["info_hash"]) == ("too many requests from your address", HASH)
        client.take()
    assert dropped(harness) == {DropReason.TOO_MANY_ANNOUNCES: 10}
    harness.now += 1
    assert "interval" in harness.send(client, announce(A))[0]


def test_a_refused_announce_changes_nothing() -> None:
    harness = HubHarness()
    b = harness.join(B)
    client = limited(harness, announces_per_second=1, burst=1)
    harness.send(client, announce(A))
    harness.send(client, announce(C, offers=offers(5), left=0))
    assert harness.counts() == (0, 2)
    assert b.take() == []


def test_offers_and_answers_are_counted_as_offers() -> None:
    harness = HubHarness()
    harness.join(B)
    client = limited(harness, offers_per_second=1, burst=5)
    assert "interval" in harness.send(client, announce(A, offers=offers(4)))[0]
    client.take()
    assert harness.send(client, answer(A, B, "o" * 20)) == []
    assert "failure reason" in harness.send(client, answer(A, B, "o" * 20))[0]
    client.take()
    assert "failure reason" in harness.send(client, announce(A, offers=offers(1)))[0]
    assert dropped(harness)[DropReason.TOO_MANY_OFFERS] == 2


def test_a_full_batch_of_offers_fits_through_any_limit_of_who_waits() -> None:
    harness = HubHarness()
    client = limited(harness, offers_per_second=2, burst=1)
    for _ in range(3):
        assert "interval" in harness.send(client, announce(A, offers=offers(20)))[0]
        client.take()
        harness.now += 1


def test_scrapes_are_counted_as_announces() -> None:
    harness = HubHarness()
    client = limited(harness, announces_per_second=1, burst=1)
    scrape = {"action": "scrape", "info_hash": HASH}
    assert "files" in harness.send(client, scrape)[0]
    client.take()
    (told,) = harness.send(client, scrape)
    assert (told["action"], told["info_hash"], "failure reason" in told) == ("scrape", HASH, True)
    assert dropped(harness) == {DropReason.TOO_MANY_ANNOUNCES: 1}


def test_to_stop_is_free() -> None:
    """Or a client that has announced too much could not even leave."""
    harness = HubHarness()
    client = limited(harness, announces_per_second=1, burst=1)
    harness.send(client, announce(A))
    client.take()
    for _ in range(5):
        assert "interval" in harness.send(client, announce(A, event="stopped"))[0]
        client.take()
    assert not harness.hub.swarms


def test_connections_of_one_address_share_its_quota() -> None:
    harness = HubHarness()
    first = limited(harness, announces_per_second=1, burst=2)
    second = FakeConnection()
    second.quota = first.quota
    harness.send(first, announce(A))
    harness.send(second, announce(B))
    assert "failure reason" in harness.send(first, announce(A))[-1]
    assert "failure reason" in harness.send(second, announce(B))[-1]
    assert "interval" in harness.send(FakeConnection(), announce(C))[0]
