"""Offers that find nobody wait for who comes next, here or behind a remote member."""

import json
import sys
from typing import Any

from tests.client import HASH, Json, announce, answer, offers
from tests.unit.core.test_hub import Recorder
from tests.unit.fakes import FakeConnection, Room
from tests.unit.federation.links import A, B, C, ids_of, some_offers
from tracker.core.offers import LIFETIME, Parking
from tracker.core.swarm import RemoteMember
from tracker.protocol import codec
from tracker.reasons import DropReason

OTHER = "i" * 20
ID = [f"{n:020}" for n in range(10)]


class ParkingRoom(Room):
    """A room whose hub keeps offers, and hears nothing of it unless asked."""

    def __init__(self, **rules: int) -> None:
        self.recorder = Recorder()
        super().__init__(self.recorder, **rules)
        self.waited: list[float] = []
        self.parking = self.hub.parking = Parking(self.waited.append)

    def remote(self, owner: str, incomplete: int) -> RemoteMember:
        """Leechers behind a link."""
        member = self.foreign.add_remote(HASH, owner)
        assert member
        self.foreign.set_remote(member, 0, incomplete)
        self.hub.check_invariants()
        return member

    def place_parked(
        self, member: RemoteMember, newcomers: int, owner: str | None = None
    ) -> list[tuple[str, str, list[str]]]:
        """What is placed there: owner, whose, offer_ids."""
        self.recorder.take()
        self.foreign.place_parked(member, newcomers, self.now, owner)
        self.hub.check_invariants()
        return self.placed()

    def placed(self) -> list[tuple[str, str, list[str]]]:
        """What was placed since the last time."""
        return [event[1:] for event in self.recorder.take() if event[0] == "placed"]  # type: ignore[misc]

    def parked(self) -> int:
        """How many offers wait."""
        return self.parking.offers(self.now)

    def place_again(
        self, numbers: list[int], refused: RemoteMember | None, who: str = A, age: float = 0
    ) -> list[FakeConnection]:
        """Have refused offers placed again; who got some."""
        self.recorder.take()
        again = [one for number in numbers for one in some_offers(1, start=number)]
        out = self.foreign.place_again(HASH, who, again, refused, age, self.now)
        self.hub.check_invariants()
        return [connection for connection, _ in out]


def offered(connection: FakeConnection) -> list[tuple[str, str]]:
    """Whose offers a connection was given, and which."""
    return [(message["peer_id"], message["offer_id"]) for message in connection.take() if "offer" in message]


def newcomer(room: Room, who: str, **fields: Any) -> FakeConnection:
    """A new connection with a peer; what it was sent is in its inbox."""
    connection = FakeConnection()
    room.send(connection, announce(who, **fields))
    return connection


def test_who_comes_without_offers_is_given_one_of_each_that_wait() -> None:
    room = ParkingRoom()
    a = room.join(A, offers=offers(3))
    b = room.join(B, offers=offers(3, start=5))
    assert offered(a) == [(B, ID[5])]
    c = newcomer(room, C)
    assert offered(c) == [(A, ID[0]), (B, ID[6])]
    room.send(c, answer(C, A, ID[0]))
    assert [message["peer_id"] for message in a.take()] == [C]
    assert offered(b) == []


def test_it_is_answered_before() -> None:
    room = ParkingRoom()
    room.join(A, offers=offers(1))
    first, second = newcomer(room, B).take()
    assert ("interval" in first, "offer" in second) == (True, True)


def test_who_makes_offers_is_not_given_those_that_wait() -> None:
    room = ParkingRoom()
    a = room.join(A, offers=offers(3))
    b = newcomer(room, B, offers=offers(2, start=5))
    assert (offered(a), offered(b)) == ([(B, ID[5])], [])


def test_without_parking_nothing_waits() -> None:
    room = Room()
    room.join(A, offers=offers(3))
    assert offered(newcomer(room, B)) == []
    assert room.hub.tally.dropped[DropReason.UNPLACED_OFFER] == 3


def test_what_waits_is_not_counted_as_dropped_and_is_told_as_unplaced_all_the_same() -> None:
    room = ParkingRoom()
    room.join(A, offers=offers(3))
    assert ("unplaced", HASH, A, 3) in room.recorder.take()
    assert not room.hub.tally.dropped
    assert room.parked() == 3


def test_each_offer_is_given_once() -> None:
    room = ParkingRoom()
    room.join(A, offers=offers(2))
    got = [offered(newcomer(room, who)) for who in ("b" * 20, "c" * 20, "d" * 20)]
    assert got == [[(A, ID[0])], [(A, ID[1])], []]


def test_only_who_is_new_is_given_some() -> None:
    room = ParkingRoom()
    b = room.join(B)
    room.join(A, offers=offers(3))
    assert len(offered(b)) == 1
    room.send(b, announce(B))
    assert offered(b) == []


def test_offers_wait_in_their_own_swarm() -> None:
    room = ParkingRoom()
    room.join(A, offers=offers(1))
    assert offered(newcomer(room, B, info_hash=OTHER)) == []


def test_offers_wait_45_seconds() -> None:
    room = ParkingRoom()
    room.join(A, offers=offers(2))
    room.now += LIFETIME - 1
    assert offered(newcomer(room, B)) == [(A, ID[0])]
    room.now += 1
    assert offered(newcomer(room, C)) == []
    assert room.waited == [LIFETIME - 1]


def test_the_offers_of_who_leaves_are_gone() -> None:
    room = ParkingRoom(peer_timeout=1200)
    room.join(C)
    for leave in ("stop", "close", "silence"):
        a = room.join(A, offers=offers(3))
        assert room.parked() == 2
        if leave == "stop":
            room.send(a, announce(A, event="stopped"))
        elif leave == "close":
            room.hub.close(a)
        else:
            room.hub.expire(a, room.now + 5000)
        room.hub.check_invariants()
        assert room.parked() == 0, leave


def test_the_offers_of_a_connection_are_gone_when_another_takes_its_peer_over() -> None:
    room = ParkingRoom()
    room.join(A, offers=offers(3))
    room.join(A)
    assert room.parked() == 0
    assert offered(newcomer(room, B)) == []


def test_who_takes_its_peer_over_leaves_its_new_offers() -> None:
    room = ParkingRoom()
    room.join(A, offers=offers(3))
    room.join(A, offers=offers(2, start=5))
    assert room.parked() == 2
    assert offered(newcomer(room, B)) == [(A, ID[5])]


def test_offers_that_wait_do_not_keep_the_frame_they_came_in() -> None:
    room = ParkingRoom()
    frame = json.dumps(announce(A, offers=offers(1), padding="x" * 100_000)).encode()
    references = sys.getrefcount(frame)
    room.hub.receive(FakeConnection(), frame, room.now)
    assert room.parked() == 1
    assert sys.getrefcount(frame) == references


def test_those_that_come_behind_a_remote_member_are_given_what_waits() -> None:
    room = ParkingRoom()
    room.join(A, offers=offers(3))
    room.join(B, offers=offers(3, start=5))
    member = room.remote("link", 2)
    assert room.place_parked(member, 2) == [("link", A, ID[0:2]), ("link", B, ID[6:8])]
    assert room.place_parked(member, 1) == [("link", A, ID[2:3])]
    assert room.hub.tally.offers_handed_over == 5


def test_who_was_given_offers_meanwhile_makes_as_many_less() -> None:
    room = ParkingRoom()
    room.join(A, offers=offers(5))
    member = room.remote("link", 2)
    for n in range(2):
        room.foreign.deliver_offers(HASH, C, some_offers(1, start=n), room.now)
    assert room.place_parked(member, 1) == []
    assert room.parked() == 5
    assert room.place_parked(member, 3) == [("link", A, ID[0:2])], "one of the three is still theirs"
    assert room.place_parked(member, 1) == [("link", A, ID[2:3])], "and that is all"


def test_a_meeting_is_counted_for_one_newcomer() -> None:
    room = ParkingRoom()
    room.join(A, offers=offers(5))
    member = room.remote("link", 1)
    room.foreign.deliver_offers(HASH, C, some_offers(1), room.now)
    assert room.place_parked(member, 1) == [], "that was the one who made the offer"
    room.foreign.set_remote(member, 0, 2)
    assert room.place_parked(member, 1) == [("link", A, ID[0:1])], "this one has made none"


def test_a_meeting_is_counted_where_the_other_is() -> None:
    room = ParkingRoom()
    room.join(A, offers=offers(5))
    one, other = room.remote("one", 1), room.remote("other", 1)
    room.foreign.deliver_offers(HASH, C, some_offers(1), room.now, "one")
    assert room.place_parked(other, 1, "other") == [("other", A, ID[0:1])], "nobody there has made it an offer"
    assert room.place_parked(one, 1, "one") == []


def test_nothing_is_placed_behind_a_member_of_a_swarm_that_has_closed() -> None:
    room = ParkingRoom()
    a = room.join(A, offers=offers(3))
    member = room.remote("link", 1)
    room.hub.close(a)
    room.join(A, offers=offers(3))
    assert room.place_parked(member, 1) == []
    assert room.parked() == 3


def test_without_parking_or_observer_there_is_nothing_to_place() -> None:
    room = Room()
    room.join(A, offers=offers(3))
    member = room.foreign.add_remote(HASH, "link")
    assert member
    room.foreign.place_parked(member, 1, room.now)


def test_what_one_member_refuses_another_is_given() -> None:
    room = ParkingRoom()
    room.join(A)
    refusing, other = room.remote("refusing", 50), room.remote("other", 1)
    assert room.place_again([0, 1], refusing) == []
    assert room.placed() == [("other", A, ID[0:1])]
    assert (refusing.incomplete, other.incomplete) == (50, 1), "it still counts"
    assert room.counts() == (0, 52)
    assert room.parked() == 1, "what is left waits"


def test_what_a_member_refuses_local_peers_are_given() -> None:
    room = ParkingRoom()
    room.join(A)
    b = room.join(B)
    assert room.place_again([0], room.remote("refusing", 5)) == [b]
    assert room.placed() == []


def test_refused_offers_of_a_link_that_has_ended_go_to_anybody() -> None:
    room = ParkingRoom()
    room.join(A)
    room.remote("other", 1)
    room.place_again([0, 1, 2], None)
    assert room.placed() == [("other", A, ID[0:1])]
    assert room.parked() == 2


def test_refused_offers_of_who_has_left_are_let_go() -> None:
    room = ParkingRoom()
    a = room.join(A)
    b = room.join(B)
    member = room.remote("refusing", 1)
    room.hub.close(a)
    assert room.place_again([0], member) == []
    room.hub.close(b)
    assert room.place_again([0], member) == []
    assert room.parked() == 0


def test_an_old_swarms_member_that_refuses_leaves_the_new_swarm_alone() -> None:
    room = ParkingRoom()
    a = room.join(A)
    member = room.remote("refusing", 5)
    room.hub.close(a)
    room.join(A)
    room.place_again([0], member)
    assert room.counts() == (0, 1)
    assert (member.complete, member.incomplete) == (0, 5), "it is nobody's any more"
    assert room.parked() == 1


def test_refused_offers_wait_beside_those_that_wait_already() -> None:
    room = ParkingRoom()
    a = room.join(A)
    member = room.remote("refusing", 1)
    room.send(a, announce(A, offers=offers(5)))
    assert (room.placed(), room.parked()) == ([("refusing", A, ID[0:1])], 4)
    room.place_again([0], member)
    assert room.parked() == 5


def test_refused_offers_wait_no_longer_than_they_are_good_for() -> None:
    room = ParkingRoom()
    a = room.join(A)
    member = room.remote("refusing", 1)
    room.send(a, announce(A, offers=offers(2)))
    room.now += 9
    room.place_again([0], member, age=9)
    assert room.parked() == 2
    room.now += LIFETIME - 9
    assert offered(newcomer(room, B)) == []
    assert room.parked() == 0


def test_a_refused_offer_that_waits_alone_has_its_own_age() -> None:
    room = ParkingRoom()
    room.join(A)
    room.place_again([0, 1], None, age=9)
    room.now += LIFETIME - 10
    assert offered(newcomer(room, B)) == [(A, ID[0])]
    assert room.waited == [LIFETIME - 1]
    room.now += 1
    assert offered(newcomer(room, C)) == []


def test_a_refused_offer_does_not_wait_with_those_that_were_too_old_when_it_was_made() -> None:
    room = ParkingRoom()
    a = room.join(A, offers=offers(2))
    member = room.remote("refusing", 1)
    room.now += LIFETIME
    room.send(a, announce(A, offers=offers(1, start=5)))
    room.now += 1
    room.place_again([5], member, age=1)
    assert offered(newcomer(room, B)) == [(A, ID[5])]


def test_who_was_given_offers_meanwhile_is_remembered_when_refused_offers_join_those_that_wait() -> None:
    room = ParkingRoom()
    a = room.join(A)
    member = room.remote("refusing", 1)
    room.send(a, announce(A, offers=offers(3)))
    room.foreign.deliver_offers(HASH, C, some_offers(1), room.now)
    room.place_again([0], member)
    room.foreign.set_remote(member, 0, 3)
    assert room.place_parked(member, 2) == [("refusing", A, ID[1:2])]


def test_who_is_alone_announces_more_often_while_offers_are_kept() -> None:
    room = ParkingRoom(announce_interval=120, lonely_interval=30)

    def interval(connection: FakeConnection, who: str) -> int:
        connection.take()
        (reply,) = [message for message in room.send(connection, announce(who)) if "interval" in message]
        return int(reply["interval"])

    a = room.join(A)
    assert interval(a, A) == 30
    b = room.join(B)
    assert interval(a, A) == interval(b, B) == 120
    room.hub.close(b)
    assert interval(a, A) == 30
    member = room.remote("link", 1)
    assert interval(a, A) == 30, "that may be the same peer, which announces to two trackers"
    room.foreign.set_remote(member, 0, 9)
    room.foreign.deliver_answer(codec.make_answer(HASH, B, A, ID[0], "sdp"))
    assert interval(a, A) == 120, "somebody is there, if elsewhere"
    room.hub.parking = None
    assert interval(room.join(C, OTHER), C) == 120


def test_who_announces_often_anyway_is_told_no_longer_interval() -> None:
    room = ParkingRoom(announce_interval=20, lonely_interval=30)
    (reply,) = newcomer(room, A).take()
    assert reply["interval"] == 20


def foreign(room: Room, count: int, maker: str = "f" * 20) -> tuple[list[Json], list[str]]:
    """Offers from elsewhere: what was sent, and which were left over."""
    out, rest = room.foreign.deliver_offers(HASH, maker, some_offers(count), room.now)
    return [json.loads(data) for _, data in out], ids_of(rest)


def test_a_peer_is_given_only_so_many_foreign_offers_a_minute() -> None:
    room = ParkingRoom(max_foreign_offers=3)
    room.join(A)
    taken = [len(foreign(room, 1)[0]) for _ in range(5)]
    assert taken == [1, 1, 1, 0, 0]
    room.now += 30
    assert foreign(room, 2) == ([], ID[0:2]), "what is over the limit is left over"
    room.now += 31
    assert len(foreign(room, 1)[0]) == 1


def test_of_one_place_a_peer_is_given_half_of_that() -> None:
    for limit, wanted in ((1, [1, 0, 0]), (4, [2, 2, 0])):
        room = ParkingRoom(max_foreign_offers=limit)
        room.join(A)
        given = [
            sum(len(room.foreign.deliver_offers(HASH, C, some_offers(1), room.now, owner)[0]) for _ in range(5))
            for owner in ("one", "two", "three")
        ]
        assert given == wanted


def test_the_limit_is_each_peers_own_and_not_one_of_local_offers() -> None:
    room = ParkingRoom(max_foreign_offers=2)
    room.join(A)
    for _ in range(3):
        foreign(room, 1)
    b = room.join(B, OTHER)
    assert len(room.foreign.deliver_offers(OTHER, C, some_offers(1), room.now)[0]) == 1
    for _ in range(5):
        room.send(b, announce(B, HASH, offers=offers(1)))
    assert room.hub.tally.offers_relayed == 2 + 1 + 5
