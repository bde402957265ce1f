"""Offers that find nobody wait for who comes next, here or behind a remote member."""

import json
import sys
from typing import Any

import pytest

from tests.client import HASH, announce, answer, offers, soon
from tests.unit.core.test_hub import Recorder
from tests.unit.fakes import FakeConnection, HubHarness
from tests.unit.federation.links import A, B, C, some_offers
from tracker.core.overlap import UNKNOWN
from tracker.core.parked import LIFETIME
from tracker.core.presence import PING_TIMEOUT
from tracker.core.swarm import RemoteMember
from tracker.protocol import codec
from tracker.reasons import DropReason

OTHER = "i" * 20
ID = [f"{n:020}" for n in range(10)]


class ParkingHarness(HubHarness):
    """A harness whose hub keeps offers, and hears nothing of it unless asked."""

    def __init__(self, **rules: int) -> None:
        self.recorder = Recorder()
        super().__init__(self.recorder, **rules)
        self.waited: list[float] = []
        self.parking = self.hub.offers.parked
        self.parking.enable(self.waited.append)

    def remote_member(self, owner: str, incomplete: int) -> RemoteMember:
        """Leechers behind a link."""
        member = self.remote.add_remote(HASH, owner)
        assert member
        self.remote.set_remote(member, 0, incomplete)
        self.hub.check_invariants()
        return member

    def place_parked(
        self, member: RemoteMember, newcomers: int, owner: str | None = None
    ) -> list[tuple[str, str, list[str]]]:
        """What is placed there: owner, whose, offer_ids."""
        self.recorder.take()
        self.remote.place_parked(member, [UNKNOWN] * newcomers, self.now, owner)
        self.hub.check_invariants()
        return self.placed()

    def placed(self) -> list[tuple[str, str, list[str]]]:
        """What was placed since the last time."""
        return [event[1:] for event in self.recorder.take() if event[0] == "placed"]  # type: ignore[misc]

    def parked(self) -> int:
        """How many offers wait."""
        return self.parking.count(self.now)

    def place_again(self, numbers: list[int], refused: RemoteMember | None, who: str = A, age: float = 0) -> list[str]:
        """Place refused offers again; return the offer_ids that local peers got."""
        self.recorder.take()
        got: list[str] = []
        self.outbox.on_put = lambda message: got.append(message["offer_id"])
        again = [one for number in numbers for one in some_offers(1, start=number)]
        self.remote.place_again(HASH, who, again, refused, age, self.now)
        self.outbox.on_put = lambda _: None
        self.hub.check_invariants()
        return got


def offered(connection: FakeConnection) -> list[tuple[str, str]]:
    """Whose offers a connection was given, and which."""
    return [(message["peer_id"], message["offer_id"]) for message in connection.take() if "offer" in message]


def newcomer(harness: HubHarness, who: str, **fields: Any) -> FakeConnection:
    """A new connection with a peer; what it was sent is in its inbox."""
    connection = FakeConnection()
    harness.send(connection, announce(who, **fields))
    return connection


def test_who_comes_without_offers_is_given_one_of_each_that_wait() -> None:
    harness = ParkingHarness()
    a = harness.join(A, offers=offers(3))
    b = harness.join(B, offers=offers(3, start=5))
    assert offered(a) == [(B, ID[5])]
    c = newcomer(harness, C)
    assert offered(c) == [(A, ID[0]), (B, ID[6])]
    harness.send(c, answer(C, A, ID[0]))
    assert [message["peer_id"] for message in a.take()] == [C]
    assert offered(b) == []


def test_it_is_answered_before() -> None:
    harness = ParkingHarness()
    harness.join(A, offers=offers(1))
    first, second = newcomer(harness, B).take()
    assert ("interval" in first, "offer" in second) == (True, True)


def test_who_makes_offers_is_not_given_those_that_wait() -> None:
    harness = ParkingHarness()
    a = harness.join(A, offers=offers(3))
    b = newcomer(harness, B, offers=offers(2, start=5))
    assert (offered(a), offered(b)) == ([(B, ID[5])], [])


def test_without_parking_nothing_waits() -> None:
    harness = HubHarness()
    harness.join(A, offers=offers(3))
    assert offered(newcomer(harness, B)) == []
    assert harness.hub.counters.dropped[DropReason.UNPLACED_OFFER] == 3


def test_what_waits_is_not_counted_as_dropped_and_is_told_as_unplaced_all_the_same() -> None:
    harness = ParkingHarness()
    harness.join(A, offers=offers(3))
    assert ("unplaced", HASH, A, 3) in harness.recorder.take()
    assert not harness.hub.counters.dropped
    assert harness.parked() == 3


def test_each_offer_is_given_once() -> None:
    harness = ParkingHarness()
    harness.join(A, offers=offers(2))
    got = [offered(newcomer(harness, who)) for who in ("b" * 20, "c" * 20, "d" * 20)]
    assert got == [[(A, ID[0])], [(A, ID[1])], []]


def test_only_who_is_new_is_given_some() -> None:
    harness = ParkingHarness()
    b = harness.join(B)
    harness.join(A, offers=offers(3))
    assert len(offered(b)) == 1
    harness.send(b, announce(B))
    assert offered(b) == []


def test_offers_wait_in_their_own_swarm() -> None:
    harness = ParkingHarness()
    harness.join(A, offers=offers(1))
    assert offered(newcomer(harness, B, info_hash=OTHER)) == []


def test_offers_wait_45_seconds() -> None:
    harness = ParkingHarness()
    harness.join(A, offers=offers(2))
    harness.now += LIFETIME - 1
    assert offered(newcomer(harness, B)) == [(A, ID[0])]
    harness.now += 1
    assert offered(newcomer(harness, C)) == []
    assert harness.waited == [LIFETIME - 1]


def test_the_offers_of_who_leaves_are_gone() -> None:
    harness = ParkingHarness(peer_timeout=1200)
    c = harness.join(C)
    for leave in ("stop", "close", "silence"):
        a = harness.join(A, offers=offers(3))
        assert harness.parked() == 2
        if leave == "stop":
            harness.send(a, announce(A, event="stopped"))
        elif leave == "close":
            harness.hub.close(a)
        else:
            harness.now += 5000
            harness.send(c, announce(C))
            harness.expire()
        harness.hub.check_invariants()
        assert harness.parked() == 0, leave


@pytest.mark.parametrize("end", ["closed", "silent"])
def test_the_offers_of_a_connection_are_gone_when_it_ends_or_is_silent(end: str) -> None:
    harness = ParkingHarness()
    old = harness.join(A, offers=offers(3))
    harness.join(A)
    assert harness.parked() == 3
    if end == "closed":
        harness.hub.close(old)
    else:
        old.last_received = 0.0
        harness.join(A)
        harness.now += PING_TIMEOUT
        harness.expire()
    assert harness.parked() == 0
    assert offered(newcomer(harness, B)) == []


def test_the_offers_of_a_connection_from_elsewhere_are_not_parked() -> None:
    harness = ParkingHarness()
    harness.join(A, offers=offers(1))
    harness.send(FakeConnection("198.51.100.1"), announce(A, offers=offers(3, start=5)))
    assert offered(newcomer(harness, B)) == [(A, ID[0])]


def test_the_new_offers_of_a_peer_replace_those_of_its_other_connection() -> None:
    harness = ParkingHarness()
    harness.join(A, offers=offers(3))
    harness.join(A, offers=offers(2, start=5))
    assert harness.parked() == 2
    assert offered(newcomer(harness, B)) == [(A, ID[5])]


def test_offers_that_wait_do_not_keep_the_frame_they_came_in() -> None:
    harness = ParkingHarness()
    frame = json.dumps(announce(A, offers=offers(1), padding="x" * 100_000)).encode()
    references = sys.getrefcount(frame)
    harness.send(FakeConnection(), frame)
    assert harness.parked() == 1
    assert sys.getrefcount(frame) == references


def test_those_that_come_behind_a_remote_member_are_given_what_waits() -> None:
    harness = ParkingHarness()
    harness.join(A, offers=offers(3))
    harness.join(B, offers=offers(3, start=5))
    member = harness.remote_member("link", 2)
    assert harness.place_parked(member, 2) == [("link", A, ID[0:2]), ("link", B, ID[6:8])]
    assert harness.place_parked(member, 1) == [("link", A, ID[2:3])]
    assert harness.hub.counters.offers_handed_over == 5


def test_who_was_given_offers_meanwhile_makes_as_many_less() -> None:
    harness = ParkingHarness()
    harness.join(A, offers=offers(5))
    member = harness.remote_member("link", 2)
    for n in range(2):
        harness.remote.deliver_offers(HASH, C, some_offers(1, start=n), harness.now)
    assert harness.place_parked(member, 1) == []
    assert harness.parked() == 5
    assert harness.place_parked(member, 3) == [("link", A, ID[0:2])], "one of the three is still theirs"
    assert harness.place_parked(member, 1) == [("link", A, ID[2:3])], "and that is all"


def test_a_meeting_is_counted_for_one_newcomer() -> None:
    harness = ParkingHarness()
    harness.join(A, offers=offers(5))
    member = harness.remote_member("link", 1)
    harness.remote.deliver_offers(HASH, C, some_offers(1), harness.now)
    assert harness.place_parked(member, 1) == [], "that was the one who made the offer"
    harness.remote.set_remote(member, 0, 2)
    assert harness.place_parked(member, 1) == [("link", A, ID[0:1])], "this one has made none"


def test_a_meeting_is_counted_where_the_other_is() -> None:
    harness = ParkingHarness()
    harness.join(A, offers=offers(5))
    one, other = harness.remote_member("one", 1), harness.remote_member("other", 1)
    harness.remote.deliver_offers(HASH, C, some_offers(1), harness.now, "one")
    assert harness.place_parked(other, 1, "other") == [("other", A, ID[0:1])], "nobody there has made it an offer"
    assert harness.place_parked(one, 1, "one") == []


def test_nothing_is_placed_behind_a_member_of_a_swarm_that_has_closed() -> None:
    harness = ParkingHarness()
    a = harness.join(A, offers=offers(3))
    member = harness.remote_member("link", 1)
    harness.hub.close(a)
    harness.join(A, offers=offers(3))
    assert harness.place_parked(member, 1) == []
    assert harness.parked() == 3


def test_without_parking_or_observer_there_is_nothing_to_place() -> None:
    harness = HubHarness()
    harness.join(A, offers=offers(3))
    member = harness.remote.add_remote(HASH, "link")
    assert member
    harness.remote.place_parked(member, [UNKNOWN], harness.now)


def test_what_one_member_refuses_another_is_given() -> None:
    harness = ParkingHarness()
    harness.join(A)
    refusing, other = harness.remote_member("refusing", 50), harness.remote_member("other", 1)
    assert harness.place_again([0, 1], refusing) == []
    assert harness.placed() == [("other", A, ID[0:1])]
    assert (refusing.incomplete, other.incomplete) == (50, 1), "it still counts"
    assert harness.counts() == (0, 52)
    assert harness.parked() == 1, "what is left waits"


def test_what_a_member_refuses_local_peers_are_given() -> None:
    harness = ParkingHarness()
    harness.join(A)
    b = harness.join(B)
    assert harness.place_again([0], harness.remote_member("refusing", 5)) == [ID[0]]
    assert offered(b) == [(A, ID[0])]
    assert harness.placed() == []


def test_refused_offers_of_a_link_that_has_ended_go_to_anybody() -> None:
    harness = ParkingHarness()
    harness.join(A)
    harness.remote_member("other", 1)
    harness.place_again([0, 1, 2], None)
    assert harness.placed() == [("other", A, ID[0:1])]
    assert harness.parked() == 2


def test_refused_offers_of_who_has_left_are_let_go() -> None:
    harness = ParkingHarness()
    a = harness.join(A)
    b = harness.join(B)
    member = harness.remote_member("refusing", 1)
    harness.hub.close(a)
    assert harness.place_again([0], member) == []
    harness.hub.close(b)
    assert harness.place_again([0], member) == []
    assert harness.parked() == 0


def test_an_old_swarms_member_that_refuses_leaves_the_new_swarm_alone() -> None:
    harness = ParkingHarness()
    a = harness.join(A)
    member = harness.remote_member("refusing", 5)
    harness.hub.close(a)
    harness.join(A)
    harness.place_again([0], member)
    assert harness.counts() == (0, 1)
    assert (member.complete, member.incomplete) == (0, 5), "it is nobody's any more"
    assert harness.parked() == 1


def test_refused_offers_wait_beside_those_that_wait_already() -> None:
    harness = ParkingHarness()
    a = harness.join(A)
    member = harness.remote_member("refusing", 1)
    harness.send(a, announce(A, offers=offers(5)))
    assert (harness.placed(), harness.parked()) == ([("refusing", A, ID[0:1])], 4)
    harness.place_again([0], member)
    assert harness.parked() == 5


def test_refused_offers_wait_no_longer_than_they_are_good_for() -> None:
    harness = ParkingHarness()
    a = harness.join(A)
    member = harness.remote_member("refusing", 1)
    harness.send(a, announce(A, offers=offers(2)))
    harness.now += 9
    harness.place_again([0], member, age=9)
    assert harness.parked() == 2
    harness.now += LIFETIME - 9
    assert offered(newcomer(harness, B)) == []
    assert harness.parked() == 0


def test_a_refused_offer_that_waits_alone_has_its_own_age() -> None:
    harness = ParkingHarness()
    harness.join(A)
    harness.place_again([0, 1], None, age=9)
    harness.now += LIFETIME - 10
    assert offered(newcomer(harness, B)) == [(A, ID[0])]
    assert harness.waited == [LIFETIME - 1]
    harness.now += 1
    assert offered(newcomer(harness, C)) == []


def test_a_refused_offer_does_not_wait_with_those_that_were_too_old_when_it_was_made() -> None:
    harness = ParkingHarness()
    a = harness.join(A, offers=offers(2))
    member = harness.remote_member("refusing", 1)
    harness.now += LIFETIME
    harness.send(a, announce(A, offers=offers(1, start=5)))
    harness.now += 1
    harness.place_again([5], member, age=1)
    assert offered(newcomer(harness, B)) == [(A, ID[5])]


def test_who_was_given_offers_meanwhile_is_remembered_when_refused_offers_join_those_that_wait() -> None:
    harness = ParkingHarness()
    a = harness.join(A)
    member = harness.remote_member("refusing", 1)
    harness.send(a, announce(A, offers=offers(3)))
    harness.remote.deliver_offers(HASH, C, some_offers(1), harness.now)
    harness.place_again([0], member)
    harness.remote.set_remote(member, 0, 3)
    assert harness.place_parked(member, 2) == [("refusing", A, ID[1:2])]


def test_who_is_alone_announces_more_often_while_offers_are_kept() -> None:
    harness = ParkingHarness(announce_interval=120, lonely_interval=30)

    def interval(connection: FakeConnection, who: str) -> int:
        connection.take()
        (reply,) = [message for message in harness.send(connection, announce(who)) if "interval" in message]
        return int(reply["interval"])

    a = harness.join(A)
    assert interval(a, A) in soon(30)
    b = harness.join(B)
    assert {interval(a, A), interval(b, B)} <= {*soon(30)}
    harness.send(b, answer(B, A, "o" * 20))
    assert {interval(a, A), interval(b, B)} <= {*soon(30)}, "they have met, and others may come"
    harness.hub.close(b)
    assert interval(a, A) in soon(30)
    member = harness.remote_member("link", 1)
    assert interval(a, A) in soon(30), "that may be the same peer, which announces to two trackers"
    harness.remote.deliver_answer(codec.make_answer(HASH, B, A, ID[0], "sdp"), harness.now)
    harness.remote.set_remote(member, 0, 9)
    assert interval(a, A) in soon(30), "it has met only one of nine"
    harness.remote.set_remote(member, 0, 16)
    assert interval(a, A) == 120, "the swarm is not small"


def taken(harness: HubHarness, count: int, info_hash: str = HASH, owner: str | None = None) -> int:
    """Deliver remote offers; return the number that local peers took."""
    return count - len(harness.remote.deliver_offers(info_hash, C, some_offers(count), harness.now, owner))


def test_a_peer_is_given_only_so_many_remote_offers_a_minute() -> None:
    harness = ParkingHarness(max_foreign_offers=3)
    harness.join(A)
    assert [taken(harness, 1) for _ in range(5)] == [1, 1, 1, 0, 0]
    harness.now += 30
    assert taken(harness, 2) == 0
    harness.now += 31
    assert taken(harness, 1) == 1


def test_of_one_place_a_peer_is_given_half_of_that() -> None:
    for limit, wanted in ((1, [1, 0, 0]), (4, [2, 2, 0])):
        harness = ParkingHarness(max_foreign_offers=limit)
        harness.join(A)
        given = [sum(taken(harness, 1, owner=owner) for _ in range(5)) for owner in ("one", "two", "three")]
        assert given == wanted


def test_the_limit_is_each_peers_own_and_not_one_of_local_offers() -> None:
    harness = ParkingHarness(max_foreign_offers=2)
    harness.join(A)
    for _ in range(3):
        taken(harness, 1)
    b = harness.join(B, OTHER)
    assert taken(harness, 1, OTHER) == 1
    for _ in range(5):
        harness.send(b, announce(B, HASH, offers=offers(1)))
    assert harness.hub.counters.offers_relayed == 2 + 1 + 5
