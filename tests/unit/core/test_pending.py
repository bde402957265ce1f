"""Peers that wait for leave to join: what is kept of them, what comes of it, and what does not."""

import json
import sys
from typing import Any

import pytest

from tests.client import HASH, Json, announce, answer, offers
from tests.unit.core.test_hub import Recorder
from tests.unit.fakes import FakeConnection, Room, peer_id
from tracker.access.addresses import AddressLimits, Quota
from tracker.core import pending
from tracker.core.offers import Parking
from tracker.core.pending import PendingJoin, PendingJoins
from tracker.reasons import DropReason

A, B, C = peer_id(1), peer_id(2), peer_id(3)
OTHER = "i" * 20


class GuardedRoom(Room):
    """A room that nobody enters unasked."""

    def __init__(self, **rules: Any) -> None:
        self.recorder = Recorder()
        super().__init__(self.recorder, **rules)
        self.asked: list[PendingJoin] = []
        self.forgotten: list[PendingJoin] = []
        self.hub.lobby = PendingJoins(self.asked.append, self.forgotten.append)

    def waits(self, who: str, info_hash: str = HASH, **fields: Any) -> tuple[FakeConnection, PendingJoin]:
        """A new connection with a peer that waits."""
        connection = FakeConnection()
        assert self.send(connection, announce(who, info_hash, **fields)) == []
        return connection, self.asked[-1]

    def admit(self, join: PendingJoin) -> None:
        self.deliver(self.hub.admitted(join, self.now))

    def refuse(self, join: PendingJoin) -> None:
        self.deliver(self.hub.refused(join, DropReason.ADMISSION_DENIED, "no"))

    def member(self, who: str, **fields: Any) -> FakeConnection:
        """A new connection with a peer that was admitted."""
        connection, join = self.waits(who, **fields)
        self.admit(join)
        connection.take()
        return connection

    @property
    def waiting(self) -> int:
        assert self.hub.lobby
        return self.hub.lobby.waiting


def dropped(room: Room) -> dict[DropReason, int]:
    return {reason: number for reason, number in room.hub.tally.dropped.items() if number}


def replies(messages: list[Json]) -> list[tuple[int, int]]:
    return [(message["complete"], message["incomplete"]) for message in messages if "interval" in message]


def offered(messages: list[Json]) -> list[str]:
    return [message["offer_id"] for message in messages if "offer" in message]


def test_who_waits_is_in_no_swarm_and_is_told_nothing() -> None:
    room = GuardedRoom()
    b = room.member(B)
    room.recorder.take()
    a, join = room.waits(A, offers=offers(3))
    assert (join.connection, join.info_hash, join.peer_id) == (a, HASH, A)
    assert room.counts() == (0, 1)
    room.send(b, announce(B, offers=offers(2)))
    assert (a.inbox, offered(b.take())) == ([], [])
    assert [event[0] for event in room.recorder.take()] == ["unplaced"]


def test_once_admitted_it_is_as_if_it_had_just_announced() -> None:
    room = GuardedRoom()
    b = room.member(B)
    a, join = room.waits(A, offers=[*offers(3), None], left=0)
    announces = room.hub.tally.announces
    room.now += 4
    room.admit(join)
    assert replies(a.take()) == [(1, 1)]
    assert offered(b.take()) == ["0" * 20]
    assert room.hub.swarms[HASH].peers[A].seen == room.now
    assert room.hub.tally.announces == announces
    assert dropped(room) == {DropReason.INVALID_OFFER: 1, DropReason.UNPLACED_OFFER: 2}
    assert room.waiting == 0


def test_who_is_refused_is_told_why_and_it_is_no_offence() -> None:
    room = GuardedRoom()
    a, join = room.waits(A, offers=offers(3))
    room.refuse(join)
    assert a.take() == [{"action": "announce", "info_hash": HASH, "failure reason": "no"}]
    assert (a.strikes, room.hub.tally.failures, room.hub.swarms) == (0, 1, {})
    assert dropped(room) == {DropReason.ADMISSION_DENIED: 1}
    room.send(a, announce(A))
    assert len(room.asked) == 2, "it may ask again"


def test_members_are_not_asked_about() -> None:
    room = GuardedRoom()
    a = room.member(A)
    room.send(a, announce(A, left=0, offers=offers(2)))
    assert replies(a.take()) == [(1, 0)]
    room.send(a, {"action": "scrape", "info_hash": HASH})
    room.send(a, answer(A, B, "o" * 20))
    room.send(a, announce(A, event="stopped"))
    room.send(a, announce(C, event="stopped"))
    assert len(room.asked) == 1


def test_what_it_announces_while_it_waits_is_applied_in_order() -> None:
    room = GuardedRoom()
    b, c = room.member(B), room.member(C)
    a, join = room.waits(A, offers=offers(1))
    room.send(a, announce(A, offers=offers(2, start=5)))
    room.send(a, announce(A, event="completed"))
    assert (a.inbox, len(room.asked)) == ([], 3), "it is asked about once"
    room.admit(join)
    assert replies(a.take()) == [(0, 3), (0, 3), (1, 2)]
    got = offered(b.take()) + offered(c.take())
    assert sorted(got) == [f"{n:020}" for n in (0, 5, 6)]
    assert room.hub.tally.announces == 5


def test_refused_each_of_its_announces_is_answered() -> None:
    room = GuardedRoom()
    a, join = room.waits(A)
    room.send(a, announce(A))
    room.refuse(join)
    assert len(a.take()) == 2
    assert dropped(room) == {DropReason.ADMISSION_DENIED: 2}


def test_who_stops_while_it_waits_needs_no_verdict() -> None:
    room = GuardedRoom()
    a, join = room.waits(A, offers=offers(1))
    assert replies(room.send(a, announce(A, event="stopped"))) == [(0, 0)]
    a.take()
    assert (room.forgotten, room.waiting) == ([join], 0)
    room.admit(join)
    room.refuse(join)
    assert (a.inbox, room.hub.swarms, dropped(room)) == ([], {}, {})


def test_one_socket_cannot_stop_anothers_wait() -> None:
    room = GuardedRoom()
    a, join = room.waits(A)
    room.send(FakeConnection(), announce(A, event="stopped"))
    room.admit(join)
    assert replies(a.take()) == [(0, 1)]


def test_to_come_back_after_a_stop_is_another_question() -> None:
    room = GuardedRoom()
    a, first = room.waits(A, offers=offers(1))
    room.send(a, announce(A, event="stopped"))
    room.send(a, announce(A))
    a.take()
    second = room.asked[-1]
    assert second is not first
    room.admit(first)
    assert a.inbox == [], "the verdict on the first says nothing of the second"
    room.admit(second)
    assert replies(a.take()) == [(0, 1)]


def test_a_closed_connection_waits_no_more() -> None:
    room = GuardedRoom()
    a, first = room.waits(A)
    room.send(a, announce(B))
    room.send(a, announce(A, OTHER))
    other, remains = room.waits(A)
    room.hub.close(a)
    room.hub.check_invariants()
    assert len(room.forgotten) == 3
    room.admit(first)
    assert room.hub.swarms == {}
    room.admit(remains)
    assert replies(other.take()) == [(0, 1)]


def test_an_answer_of_who_waits_is_not_passed_on() -> None:
    room = GuardedRoom()
    b = room.member(B)
    a, _ = room.waits(A)
    room.send(a, answer(A, B, "o" * 20))
    assert b.take() == []
    assert dropped(room) == {DropReason.NOT_OWNER: 1}


def test_a_member_on_another_socket_is_asked_about_and_stays_until_it_is_admitted() -> None:
    room = GuardedRoom()
    old, b = room.member(A), room.member(B)
    new, join = room.waits(A)
    room.send(b, announce(B, offers=offers(1)))
    assert (offered(old.take()), new.inbox) == (["0" * 20], [])
    room.send(old, answer(A, B, "0" * 20))
    assert [message["peer_id"] for message in b.take() if "answer" in message] == [A]
    room.admit(join)
    assert replies(new.take()) == [(0, 2)]
    room.send(b, announce(B, offers=offers(1)))
    assert (old.take(), offered(new.take())) == ([], ["0" * 20])
    assert dropped(room) == {DropReason.TAKEN_OVER: 1}


def test_who_may_not_take_a_member_over_leaves_it_as_it_is() -> None:
    room = GuardedRoom()
    owner = room.member(A)
    thief, join = room.waits(A, offers=offers(1))
    room.refuse(join)
    assert "failure reason" in thief.take()[0]
    assert room.hub.swarms[HASH].peers[A].connection is owner
    assert dropped(room) == {DropReason.ADMISSION_DENIED: 1}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_peer_that_waits_on_two_sockets_belongs_to_the_one_that_it_announced_on_last(order: tuple[int, int]) -> None:
    room = GuardedRoom()
    old, first = room.waits(A)
    new, second = room.waits(A)
    for index in order:
        room.admit((first, second)[index])
    assert room.hub.swarms[HASH].peers[A].connection is new
    assert len(replies(new.take())) == 1
    assert len(replies(old.take())) == (1 if order == (0, 1) else 0)
    assert dropped(room) == {DropReason.TAKEN_OVER: 1}
    assert room.forgotten == ([] if order == (0, 1) else [first])


def test_an_older_socket_that_announces_again_is_the_last_one() -> None:
    room = GuardedRoom()
    old, first = room.waits(A)
    _, second = room.waits(A)
    room.send(old, announce(A))
    room.admit(first)
    room.admit(second)
    assert room.hub.swarms[HASH].peers[A].connection is old


def test_a_refusal_on_one_socket_leaves_the_wait_on_the_other() -> None:
    room = GuardedRoom()
    old, first = room.waits(A)
    _, second = room.waits(A)
    room.refuse(second)
    room.admit(first)
    assert replies(old.take()) == [(0, 1)]


def test_what_the_tracker_itself_refuses_is_not_asked_about() -> None:
    room = GuardedRoom(max_swarms_per_connection=1)
    a = room.member(A)
    room.send(a, announce(A, OTHER))
    assert a.take()[0]["failure reason"] == "too many swarms on one connection"
    room.hub.serves = lambda info_hash: info_hash != OTHER
    assert "failure reason" in room.send(FakeConnection(), announce(A, OTHER))[0]
    assert len(room.asked) == 1


def test_what_the_tracker_refuses_by_the_time_of_the_verdict_is_refused() -> None:
    room = GuardedRoom(max_swarms_per_connection=1)
    a, first = room.waits(A)
    room.send(a, announce(A, OTHER))
    second = room.asked[-1]
    _, denied = room.waits(B, "d" * 20)
    room.admit(first)
    room.admit(second)
    room.hub.serves = lambda _: False
    room.admit(denied)
    assert list(room.hub.swarms) == [HASH]
    assert dropped(room) == {DropReason.TOO_MANY_SWARMS: 1, DropReason.INFO_HASH_DENIED: 1}


def test_announces_are_paid_for_once() -> None:
    room = GuardedRoom()
    a = FakeConnection()
    a.quota = Quota("192.0.2.1", AddressLimits(announces_per_second=1, burst=2), room.now)
    room.send(a, announce(A))
    room.admit(room.asked[-1])
    assert len(replies(room.send(a, announce(A)))) == 2


def test_who_joins_without_offers_is_given_those_that_wait() -> None:
    room = GuardedRoom()
    room.hub.parking = Parking(lambda _: None)
    room.member(B, offers=offers(1))
    a, join = room.waits(A)
    assert a.inbox == []
    room.admit(join)
    assert offered(a.take()) == ["0" * 20]


def test_the_frame_is_not_kept() -> None:
    room = GuardedRoom()
    payload = json.dumps(announce(A, offers=offers(2))).encode()
    before = sys.getrefcount(payload)
    room.hub.receive(FakeConnection(), payload, room.now)
    assert len(room.asked[0].announces[0].offers) == 2
    assert sys.getrefcount(payload) == before


def test_those_of_one_connection_and_all_together_may_keep_only_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    room = GuardedRoom()
    greedy, first = room.waits(A)
    size = first.size
    monkeypatch.setattr(pending, "MAX_BYTES_OF_ONE", 2 * size)
    monkeypatch.setattr(pending, "MAX_BYTES", 3 * size)
    room.send(greedy, announce(A))
    for _ in range(20):
        (failure,) = room.send(greedy, announce(B))
        assert failure == {
            "action": "announce",
            "info_hash": HASH,
            "failure reason": "too many wait for admission, try again later",
        }
        greedy.take()
    assert greedy.strikes == 0
    other, _ = room.waits(C)
    assert "failure reason" in room.send(FakeConnection(), announce(C, OTHER))[0]
    assert dropped(room) == {DropReason.ADMISSION_QUEUE_FULL: 21}
    room.admit(first)
    greedy.take()
    room.send(greedy, announce(B))
    assert (greedy.inbox, other.inbox, room.waiting) == ([], [], 2), "there is room again"


def test_offers_take_room_too_and_connections_of_one_address_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "MAX_BYTES_OF_ONE", 50_000)
    room = GuardedRoom()
    quota = Quota("192.0.2.1", AddressLimits(), room.now)

    def waits(who: str) -> list[Json]:
        connection = FakeConnection()
        connection.quota = quota
        return room.send(connection, announce(who, offers=offers(1, sdp="x" * 30_000)))

    assert waits(A) == []
    assert waits(B)[0]["failure reason"].startswith("too many wait")
    assert room.waits(B)[0].inbox == [], "another address"
