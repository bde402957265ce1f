"""Peers that wait for leave to join: what is kept of them, what comes of it, and what does not."""

import json
from math import inf
from typing import Any

import pytest

from tests.client import HASH, Json, announce, answer, offers
from tests.unit.core.test_hub import Recorder
from tests.unit.fakes import FakeConnection, HubHarness, peer_id
from tracker.access.addresses import AddressLimits, Quota
from tracker.core import pending
from tracker.core.pending import PendingJoin
from tracker.reasons import DropReason

A, B, C = peer_id(1), peer_id(2), peer_id(3)
OTHER = "i" * 20


class GuardedHarness(HubHarness):
    """A harness that nobody enters unasked."""

    def __init__(self, **rules: Any) -> None:
        self.recorder = Recorder()
        super().__init__(self.recorder, **rules)
        self.asked: list[PendingJoin] = []
        self.forgotten: list[PendingJoin] = []
        self.hub.pending.require(self.asked.append, self.forgotten.append)

    def waits(self, who: str, info_hash: str = HASH, **fields: Any) -> tuple[FakeConnection, PendingJoin]:
        """A new connection with a peer that waits."""
        connection = FakeConnection()
        assert self.send(connection, announce(who, info_hash, **fields)) == []
        return connection, self.asked[-1]

    def admit(self, join: PendingJoin, seconds: float = inf) -> None:
        self.hub.admit(join, self.now, self.outbox, self.now + seconds)
        self.hub.check_invariants()

    def refuse(self, join: PendingJoin) -> None:
        self.hub.reject(join, DropReason.ADMISSION_DENIED, "no", self.now, self.outbox)
        self.hub.check_invariants()

    def member(self, who: str, **fields: Any) -> FakeConnection:
        """A new connection with a peer that was admitted."""
        connection, join = self.waits(who, **fields)
        self.admit(join)
        connection.take()
        return connection

    @property
    def waiting(self) -> int:
        return len(self.hub.pending)


def dropped(harness: HubHarness) -> dict[DropReason, int]:
    return {reason: number for reason, number in harness.hub.counters.dropped.items() if number}


def replies(messages: list[Json]) -> list[tuple[int, int]]:
    return [(message["complete"], message["incomplete"]) for message in messages if "interval" in message]


def offered(messages: list[Json]) -> list[str]:
    return [message["offer_id"] for message in messages if "offer" in message]


def test_who_waits_is_in_no_swarm_and_is_told_nothing() -> None:
    harness = GuardedHarness()
    b = harness.member(B)
    harness.recorder.take()
    a, join = harness.waits(A, offers=offers(3))
    assert (join.connection, join.info_hash, join.peer_id) == (a, HASH, A)
    assert harness.counts() == (0, 1)
    harness.send(b, announce(B, offers=offers(2)))
    assert (a.inbox, offered(b.take())) == ([], [])
    assert [event[0] for event in harness.recorder.take()] == ["unplaced"]


def test_once_admitted_it_is_as_if_it_had_just_announced() -> None:
    harness = GuardedHarness()
    b = harness.member(B)
    a, join = harness.waits(A, offers=[*offers(3), None], left=0)
    announces = harness.hub.counters.announces
    harness.now += 4
    harness.admit(join)
    assert replies(a.take()) == [(1, 1)]
    assert offered(b.take()) == ["0" * 20]
    assert harness.hub.swarms[HASH].peers[A].last_seen == harness.now
    assert harness.hub.counters.announces == announces
    assert dropped(harness) == {DropReason.INVALID_OFFER: 1, DropReason.UNPLACED_OFFER: 2}
    assert harness.waiting == 0


def test_who_is_refused_is_told_why_and_it_is_no_offence() -> None:
    harness = GuardedHarness()
    a, join = harness.waits(A, offers=offers(3))
    harness.refuse(join)
    assert a.take() == [{"action": "announce", "info_hash": HASH, "failure reason": "no", "interval": 120}]
    assert (harness.hub.counters.failures, harness.hub.swarms) == (1, {})
    assert dropped(harness) == {DropReason.ADMISSION_DENIED: 1}
    harness.send(a, announce(A))
    assert len(harness.asked) == 2, "it may ask again"


def test_members_are_not_asked_about() -> None:
    harness = GuardedHarness()
    a = harness.member(A)
    harness.send(a, announce(A, left=0, offers=offers(2)))
    assert replies(a.take()) == [(1, 0)]
    harness.send(a, {"action": "scrape", "info_hash": HASH})
    harness.send(a, answer(A, B, "o" * 20))
    harness.send(a, announce(A, event="stopped"))
    harness.send(a, announce(C, event="stopped"))
    assert len(harness.asked) == 1


def test_what_it_announces_while_it_waits_is_applied_in_order() -> None:
    harness = GuardedHarness()
    b, c = harness.member(B), harness.member(C)
    a, join = harness.waits(A, offers=offers(1))
    harness.send(a, announce(A, offers=offers(2, start=5)))
    harness.send(a, announce(A, event="completed"))
    assert (a.inbox, len(harness.asked)) == ([], 3), "it is asked about once"
    harness.admit(join)
    assert replies(a.take()) == [(0, 3), (0, 3), (1, 2)]
    got = offered(b.take()) + offered(c.take())
    assert sorted(got) == [f"{n:020}" for n in (0, 5, 6)]
    assert harness.hub.counters.announces == 5


def test_refused_each_of_its_announces_is_answered() -> None:
    harness = GuardedHarness()
    a, join = harness.waits(A)
    harness.send(a, announce(A))
    harness.refuse(join)
    assert len(a.take()) == 2
    assert dropped(harness) == {DropReason.ADMISSION_DENIED: 2}


def test_who_stops_while_it_waits_needs_no_verdict() -> None:
    harness = GuardedHarness()
    a, join = harness.waits(A, offers=offers(1))
    assert replies(harness.send(a, announce(A, event="stopped"))) == [(0, 0)]
    a.take()
    assert (harness.forgotten, harness.waiting) == ([join], 0)
    harness.admit(join)
    harness.refuse(join)
    assert (a.inbox, harness.hub.swarms, dropped(harness)) == ([], {}, {})


def test_one_socket_cannot_stop_anothers_wait() -> None:
    harness = GuardedHarness()
    a, join = harness.waits(A)
    harness.send(FakeConnection(), announce(A, event="stopped"))
    harness.admit(join)
    assert replies(a.take()) == [(0, 1)]


def test_to_come_back_after_a_stop_is_another_question() -> None:
    harness = GuardedHarness()
    a, first = harness.waits(A, offers=offers(1))
    harness.send(a, announce(A, event="stopped"))
    harness.send(a, announce(A))
    a.take()
    second = harness.asked[-1]
    assert second is not first
    harness.admit(first)
    assert a.inbox == [], "the verdict on the first says nothing of the second"
    harness.admit(second)
    assert replies(a.take()) == [(0, 1)]


def test_a_closed_connection_waits_no_more() -> None:
    harness = GuardedHarness()
    a, first = harness.waits(A)
    harness.send(a, announce(B))
    harness.send(a, announce(A, OTHER))
    other, remains = harness.waits(A)
    harness.hub.close(a)
    harness.hub.check_invariants()
    assert len(harness.forgotten) == 3
    harness.admit(first)
    assert harness.hub.swarms == {}
    harness.admit(remains)
    assert replies(other.take()) == [(0, 1)]


def test_an_answer_of_who_waits_is_not_passed_on() -> None:
    harness = GuardedHarness()
    b = harness.member(B)
    a, _ = harness.waits(A)
    harness.send(a, answer(A, B, "o" * 20))
    assert b.take() == []
    assert dropped(harness) == {DropReason.NOT_OWNER: 1}


def test_a_member_on_another_socket_is_asked_about_and_stays_until_it_is_admitted() -> None:
    harness = GuardedHarness()
    old, b = harness.member(A), harness.member(B)
    new, join = harness.waits(A)
    harness.send(b, announce(B, offers=offers(1)))
    assert (offered(old.take()), new.inbox) == (["0" * 20], [])
    harness.send(old, answer(A, B, "0" * 20))
    assert [message["peer_id"] for message in b.take() if "answer" in message] == [A]
    harness.admit(join)
    assert replies(new.take()) == [(0, 2)]
    harness.send(b, announce(B, offers=offers(1)))
    assert (old.take(), offered(new.take())) == ([], ["0" * 20])


def test_who_may_not_take_a_member_over_leaves_it_as_it_is() -> None:
    harness = GuardedHarness()
    owner = harness.member(A)
    thief, join = harness.waits(A, offers=offers(1))
    harness.refuse(join)
    assert "failure reason" in thief.take()[0]
    assert harness.hub.swarms[HASH].peers[A].connection is owner
    assert dropped(harness) == {DropReason.ADMISSION_DENIED: 1}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_peer_that_waits_on_two_connections_is_present_on_both(order: tuple[int, int]) -> None:
    harness = GuardedHarness()
    connections, joins = zip(*(harness.waits(A) for _ in range(2)), strict=True)
    for index in order:
        harness.admit(joins[index])
    assert [len(replies(connection.take())) for connection in connections] == [1, 1]
    assert harness.hub.swarms[HASH].peers[A].connection is connections[order[1]]
    assert [connection.pings for connection in connections] == [1, 1], "each may have died while it waited"


def test_a_refusal_on_one_socket_leaves_the_wait_on_the_other() -> None:
    harness = GuardedHarness()
    old, first = harness.waits(A)
    _, second = harness.waits(A)
    harness.refuse(second)
    harness.admit(first)
    assert replies(old.take()) == [(0, 1)]


def test_what_the_tracker_itself_refuses_is_not_asked_about() -> None:
    harness = GuardedHarness(max_swarms_per_connection=1)
    a = harness.member(A)
    harness.send(a, announce(A, OTHER))
    assert a.take()[0]["failure reason"] == "too many swarms"
    harness.hub.restrict(lambda info_hash: info_hash != OTHER, harness.outbox)
    assert "failure reason" in harness.send(FakeConnection(), announce(A, OTHER))[0]
    assert len(harness.asked) == 1


def test_what_the_tracker_refuses_by_the_time_of_the_verdict_is_refused() -> None:
    harness = GuardedHarness(max_swarms_per_connection=1)
    a, first = harness.waits(A)
    harness.send(a, announce(A, OTHER))
    second = harness.asked[-1]
    _, denied = harness.waits(B, "d" * 20)
    harness.admit(first)
    harness.admit(second)
    harness.hub.restrict(lambda info_hash: info_hash == HASH, harness.outbox)
    harness.admit(denied)
    assert list(harness.hub.swarms) == [HASH]
    assert dropped(harness) == {DropReason.TOO_MANY_SWARMS: 1, DropReason.INFO_HASH_DENIED: 1}


def test_announces_are_paid_for_once() -> None:
    harness = GuardedHarness()
    a = FakeConnection()
    a.quota = Quota("192.0.2.1", AddressLimits(announces_per_second=1, burst=2), harness.now)
    harness.member(B)
    harness.send(a, announce(A))
    harness.admit(harness.asked[-1])
    harness.send(a, announce(A, offers=offers(1)))
    assert dropped(harness) == {}
    harness.send(a, announce(A, offers=offers(1)))
    assert dropped(harness) == {DropReason.TOO_MANY_OFFERS: 1}


def test_who_joins_without_offers_is_given_those_that_wait() -> None:
    harness = GuardedHarness()
    harness.hub.offers.parked.enable(lambda _: None)
    harness.member(B, offers=offers(1))
    a, join = harness.waits(A)
    assert a.inbox == []
    harness.admit(join)
    assert offered(a.take()) == ["0" * 20]


def test_a_pending_announce_keeps_its_message_and_all_of_it_counts() -> None:
    harness = GuardedHarness()
    message = announce(A, offers=offers(2), more="x" * 10_000)
    harness.send(FakeConnection(), message)
    (join,) = harness.asked
    assert json.loads(join.announces[0].payload) == message
    assert join.size == pending.OVERHEAD + len(join.announces[0].payload) > 10_000


def test_those_of_one_connection_and_all_together_may_keep_only_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = GuardedHarness()
    greedy, first = harness.waits(A)
    size = first.size
    monkeypatch.setattr(pending, "MAX_BYTES_OF_ONE", 2 * size)
    monkeypatch.setattr(pending, "MAX_BYTES", 3 * size)
    harness.send(greedy, announce(A))
    for _ in range(20):
        (failure,) = harness.send(greedy, announce(B))
        assert failure == {
            "action": "announce",
            "info_hash": HASH,
            "failure reason": "too many peers wait for admission, try again later",
            "interval": 120,
        }
        greedy.take()
    other, _ = harness.waits(C)
    assert "failure reason" in harness.send(FakeConnection(), announce(C, OTHER))[0]
    assert dropped(harness) == {DropReason.ADMISSION_QUEUE_FULL: 21}
    harness.admit(first)
    greedy.take()
    harness.send(greedy, announce(B))
    assert (greedy.inbox, other.inbox, harness.waiting) == ([], [], 2), "there is harness again"


def test_offers_take_room_too_and_connections_of_one_address_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "MAX_BYTES_OF_ONE", 50_000)
    harness = GuardedHarness()
    quota = Quota("192.0.2.1", AddressLimits(), harness.now)

    def waits(who: str) -> list[Json]:
        connection = FakeConnection()
        connection.quota = quota
        return harness.send(connection, announce(who, offers=offers(1, sdp="x" * 30_000)))

    assert waits(A) == []
    assert waits(B)[0]["failure reason"].startswith("too many peers wait")
    assert harness.waits(B)[0].inbox == [], "another address"


def limited(seconds: float, **rules: Any) -> tuple[GuardedHarness, FakeConnection]:
    """A harness with a member whose admission ends, and its connection."""
    harness = GuardedHarness(**rules)
    connection, join = harness.waits(A)
    harness.admit(join, seconds)
    connection.take()
    return harness, connection


def test_when_an_admission_has_ended_the_next_announce_needs_another_verdict() -> None:
    harness, a = limited(100)
    b = harness.member(B)
    harness.now += 99
    assert replies(harness.send(a, announce(A))) == [(0, 2)]
    a.take()
    harness.now += 1
    assert harness.send(a, announce(A, offers=offers(1))) == []
    assert (len(harness.asked), harness.waiting, harness.counts()) == (3, 1, (0, 2)), "it stays a member meanwhile"
    harness.send(b, announce(B, offers=offers(1, start=7)))
    assert offered(a.take()) == [f"{7:020}"]
    harness.admit(harness.asked[-1])
    assert replies(a.take()) == [(0, 2)]
    assert offered(b.take()) == [f"{0:020}"]
    harness.now += 1000
    assert len(replies(harness.send(a, announce(A)))) == 1, "this verdict lasts"


def test_a_member_whose_admission_is_not_renewed_is_told_why_and_leaves() -> None:
    harness, a = limited(100)
    harness.member(B)
    harness.now += 100
    harness.send(a, announce(A))
    harness.refuse(harness.asked[-1])
    assert [message["failure reason"] for message in a.take()] == ["no"]
    assert harness.counts() == (0, 1)
    assert dropped(harness) == {DropReason.ADMISSION_DENIED: 1, DropReason.ADMISSION_ENDED: 1}


def test_a_member_that_does_not_announce_after_its_admission_leaves() -> None:
    harness, _ = limited(100, announce_interval=120)
    harness.member(B)
    harness.now += 100 + 2 * 120 - 1
    harness.expire()
    assert harness.counts() == (0, 2)
    harness.now += 1
    harness.expire()
    assert harness.counts() == (0, 1)
    assert dropped(harness) == {DropReason.ADMISSION_ENDED: 1}


def test_a_refusal_on_another_connection_does_not_end_an_admission() -> None:
    harness, _ = limited(100)
    harness.now += 100
    _, join = harness.waits(A)
    harness.refuse(join)
    assert harness.counts() == (0, 1)


def test_a_peer_that_leaves_and_returns_has_a_new_admission() -> None:
    harness, a = limited(100)
    harness.send(a, announce(A, event="stopped"))
    harness.send(a, announce(A))
    harness.admit(harness.asked[-1])
    a.take()
    harness.now += 100
    assert len(replies(harness.send(a, announce(A)))) == 1
    assert len(harness.asked) == 2


def test_a_peer_that_is_taken_over_has_the_admission_of_its_new_connection() -> None:
    harness, _ = limited(100)
    taker, join = harness.waits(A)
    harness.admit(join, 300)
    taker.take()
    harness.now += 299
    assert len(replies(harness.send(taker, announce(A)))) == 1
    harness.now += 1
    taker.take()
    assert harness.send(taker, announce(A)) == []
    assert len(harness.asked) == 3
