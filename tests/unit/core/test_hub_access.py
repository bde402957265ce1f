"""Swarms that are denied, and addresses that have used up what they may, as the hub answers."""

from typing import Any

from tests.client import HASH, announce, answer, offers, soon
from tests.unit.fakes import FakeConnection, HubHarness, peer_id
from tracker.access.addresses import LARGE, AddressLimits, Quota
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
        assert set(told) == {"action", "failure reason", "info_hash", "interval"}
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


def test_an_announce_over_the_limit_is_served_without_its_offers() -> None:
    harness = HubHarness()
    b = harness.join(B)
    client = limited(harness, announces_per_second=1, burst=1)
    harness.send(client, announce(A))
    harness.send(client, announce(C, offers=offers(5), left=0))
    assert [(reply["complete"], reply["incomplete"]) for reply in client.take()] == [(0, 2), (1, 2)]
    assert harness.counts() == (1, 2)
    assert b.take() == []
    assert dropped(harness) == {DropReason.TOO_MANY_OFFERS: 5}
    harness.send(b, announce(B, offers=offers(2)))
    assert len(client.take()) == 2, "it is a member like the others"


def test_a_client_whose_offers_were_removed_may_make_them_again_soon() -> None:
    harness = HubHarness()
    client = limited(harness, offers_per_second=1, burst=1)
    harness.join(B)
    assert harness.send(client, announce(A, offers=offers(1)))[0]["interval"] in soon(30)
    assert harness.send(client, announce(A))[1]["interval"] in soon(30), "the swarm is small"
    client.take()
    for _ in range(100):
        harness.send(client, announce(A, offers=offers(1)))
    intervals = {reply["interval"] for reply in client.take()}
    assert 60 <= min(intervals) < 70
    assert 110 < max(intervals) <= 120


def test_only_the_offers_over_the_limit_are_removed() -> None:
    harness = HubHarness()
    others = [harness.join(peer_id(n)) for n in range(10, 30)]
    client = limited(harness, offers_per_second=2, burst=1)
    for _ in range(3):
        assert "interval" in harness.send(client, announce(A, offers=offers(20)))[0]
        client.take()
        assert sum(len(other.take()) for other in others) == 2
        harness.now += 1


def test_an_answer_over_the_limit_is_dropped() -> None:
    harness = HubHarness()
    b = harness.join(B)
    client = limited(harness, offers_per_second=1, burst=1)
    harness.send(client, announce(A))
    client.take()
    for _ in range(3):
        assert harness.send(client, answer(A, B, "o" * 20)) == []
    assert len(b.take()) == 1


def test_a_client_over_the_limit_can_leave() -> None:
    harness = HubHarness()
    client = limited(harness, announces_per_second=1, burst=1)
    harness.send(client, announce(A))
    client.take()
    for _ in range(5):
        assert "interval" in harness.send(client, announce(A, event="stopped"))[0]
        client.take()
    assert not harness.hub.swarms


def test_an_address_may_have_only_so_many_peers() -> None:
    harness = HubHarness()
    first = limited(harness, peers_per_address=LARGE + 1)
    for n in range(LARGE + 1):
        assert "incomplete" in harness.send(first, announce(A, f"{n:020}"))[-1]
    first.take()
    (failure,) = harness.send(first, announce(A, OTHER))
    assert (failure["failure reason"], failure["interval"]) == ("too many swarms", 120)
    assert "incomplete" in harness.send(first, announce(A, f"{5:020}"))[-1], "it is in this swarm already"
    harness.send(first, announce(A, f"{6:020}", event="stopped"))
    assert "incomplete" in harness.send(first, announce(A, OTHER))[-1]
    assert dropped(harness) == {DropReason.TOO_MANY_SWARMS: 1}


def test_a_failure_tells_when_to_announce_again() -> None:
    """libtorrent announces a torrent no more after a failure without an interval."""
    harness = HubHarness(announce_interval=90)
    deny(harness, HASH)
    client = FakeConnection()
    assert harness.send(client, announce(A))[0]["interval"] == 90
    client.take()
    for message in (b"{", {"action": "scrape"}):
        assert "interval" not in harness.send(client, message)[-1]


def test_connections_of_one_address_share_its_quota() -> None:
    harness = HubHarness()
    first = limited(harness, announces_per_second=1, burst=2)
    second = FakeConnection()
    second.quota = first.quota
    harness.send(first, announce(A))
    harness.send(second, announce(B))
    for connection, peer in ((first, A), (second, B)):
        harness.send(connection, announce(peer, offers=offers(1)))
    assert dropped(harness) == {DropReason.TOO_MANY_OFFERS: 2}
    harness.send(FakeConnection(), announce(C, offers=offers(1)))
    assert dropped(harness) == {DropReason.TOO_MANY_OFFERS: 2}
