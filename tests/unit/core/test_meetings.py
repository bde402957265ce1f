"""Peers that meet again and again, under another peer_id, or not at all."""

from collections import deque

import pytest

from tests.client import HASH, announce, answer, offers
from tests.unit.core.test_hub_parking import ParkingHarness
from tests.unit.fakes import FakeConnection, HubHarness, Json, peer_id
from tracker.core.choice import DAMPING
from tracker.protocol import codec
from tracker.reasons import DropReason

A, B, C = peer_id(1), peer_id(2), peer_id(3)


class EagerClients:
    """Clients as anacrolix/torrent: each answers every offer, and announces at every answer with one fresh offer."""

    def __init__(self, harness: HubHarness, count: int) -> None:
        self.harness = harness
        self.clients = {peer_id(n): FakeConnection() for n in range(count)}
        self.announces = 0
        self.met: set[tuple[str, str]] = set()

    def run(self, most: int = 500) -> None:
        """Let all announce, until no client has a message left, or `most` announces have been made."""
        waiting = deque(self.clients)
        while waiting and self.announces < most:
            self._announce(waiting.popleft())
            for who, connection in self.clients.items():
                for message in connection.take():
                    self._take(who, message, waiting)

    def _announce(self, who: str) -> None:
        self.announces += 1
        self.harness.send(self.clients[who], announce(who, offers=offers(1, start=self.announces), numwant=1))

    def _take(self, who: str, message: Json, waiting: deque[str]) -> None:
        if "offer" in message:
            self.harness.send(self.clients[who], answer(who, message["peer_id"], message["offer_id"]))
        elif "answer" in message:
            self.met.add((who, message["peer_id"]))
            waiting.append(who)


@pytest.mark.parametrize("count", [2, 3, 6, 12])
def test_clients_that_announce_at_every_answer_come_to_rest(count: int) -> None:
    harness = HubHarness()
    clients = EagerClients(harness, count)
    clients.run()
    assert clients.announces <= count * count, "each meets each other one at most once"
    assert {frozenset(pair) for pair in clients.met} == {
        frozenset((a, b)) for a in clients.clients for b in clients.clients if a != b
    }
    harness.now += DAMPING
    before = clients.announces
    clients.run()
    assert before < clients.announces <= before + count * count, "a lost connection is made again"


def test_such_a_client_comes_to_rest_at_a_link_too() -> None:
    harness = ParkingHarness()
    client = harness.join(A)
    member = harness.remote_member("link", 2)
    placed = []
    for number in range(20):
        harness.send(client, announce(A, offers=offers(1, start=number), numwant=1))
        new = harness.placed()
        placed += new
        for _ in new:
            remote = (B, C)[len(placed) % 2]
            harness.remote.deliver_answer(codec.make_answer(HASH, remote, A, f"{number:020}", "v=0"), harness.now)
    assert 2 <= len(placed) <= 3
    assert member.incomplete == 2
    harness.now += DAMPING
    harness.send(client, announce(A, offers=offers(1, start=99), numwant=1))
    assert len(harness.placed()) == 1


def test_a_repeated_announce_with_one_offer_still_reaches_those_that_have_not_answered() -> None:
    harness = HubHarness()
    b, c = harness.join(B), harness.join(C)
    a = harness.join(A, offers=offers(2))
    (offer,) = b.take()
    c.take()
    harness.send(b, answer(B, A, offer["offer_id"]))
    harness.send(a, announce(A, offers=offers(1)))
    assert (len(b.take()), len(c.take())) == (0, 1)


def test_an_answer_under_an_unknown_peer_id_comes_from_the_peer_on_its_connection() -> None:
    """libtorrent of January 2023 answers so."""
    harness = HubHarness()
    b = harness.join(B)
    a = harness.join(A, offers=offers(1))
    (offer,) = b.take()
    harness.send(b, answer(C, A, offer["offer_id"]))
    assert [(message["peer_id"], message["offer_id"]) for message in a.take()] == [(C, offer["offer_id"])]
    harness.send(a, announce(A, offers=offers(1)))
    assert b.take() == [], "they have met"


def test_an_answer_under_an_unknown_peer_id_reaches_a_remote_peer() -> None:
    harness = ParkingHarness()
    b = harness.join(B)
    harness.remote.deliver_offers(HASH, A, [codec.make_offer("o" * 20, "v=0")], harness.now)
    harness.recorder.take()
    harness.send(b, answer(C, A, "o" * 20))
    assert [event[0] for event in harness.recorder.take()] == ["answer"]
    assert harness.hub.counters.answers_handed_over == 1


def test_no_connection_answers_for_a_member_on_another_one_or_for_a_swarm_that_it_is_not_in() -> None:
    harness = HubHarness()
    a, b = harness.join(A), harness.join(B)
    harness.send(b, answer(A, A, "o" * 20))
    elsewhere = harness.join(C, info_hash="i" * 20)
    harness.send(elsewhere, answer(C, A, "o" * 20))
    assert a.take() == []
    assert harness.hub.counters.dropped[DropReason.NOT_OWNER] == 2


def test_a_swarm_of_few_peers_relays_no_offers_if_the_operator_wants_so() -> None:
    harness = ParkingHarness(min_peers=3)
    b = harness.join(B, offers=offers(1))
    a = harness.join(A, offers=offers(2))
    assert harness.parked() == 0
    assert harness.remote.deliver_offers(HASH, C, [codec.make_offer("o" * 20, "v=0")], harness.now) != []
    assert harness.hub.counters.dropped[DropReason.FEW_PEERS] == 3
    harness.join(C)
    assert (a.take(), b.take()) == ([], [])
    harness.send(a, announce(A, offers=offers(2)))
    assert [message["peer_id"] for message in b.take()] == [A]


def test_remote_peers_count_for_the_least_number() -> None:
    harness = ParkingHarness(min_peers=2)
    client = harness.join(A)
    harness.remote_member("link", 1)
    harness.send(client, announce(A, offers=offers(2)))
    assert len(harness.placed()) == 1
