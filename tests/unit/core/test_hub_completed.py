"""A seeder that joins with `completed` makes its offers a moment later: until then it is given none that waited."""

import pytest

from tests.client import HASH, announce, answer, offers
from tests.unit.core.test_hub_parking import ID, ParkingRoom, newcomer, offered
from tests.unit.fakes import FakeConnection
from tests.unit.federation.links import A, B, C, some_offers


def takes_foreign(room: ParkingRoom) -> bool:
    """Whether the one peer is given an offer from elsewhere."""
    given, refused = room.foreign.deliver_offers(HASH, C, some_offers(1), room.now)
    assert len(given) + len(refused) == 1
    return bool(given)


def seeder(room: ParkingRoom) -> FakeConnection:
    """B, as webtorrent's seeders join."""
    return newcomer(room, B, left=0, event="completed")


def test_it_is_given_nothing_and_its_own_offers_go_to_who_waits() -> None:
    room = ParkingRoom()
    a = room.join(A, offers=offers(3))
    b = seeder(room)
    assert offered(b) == []
    assert room.parked() == 3
    room.send(b, announce(B, left=0, event="started", offers=offers(3, start=5)))
    assert offered(a) == [(B, ID[5])]
    assert offered(b) == []


def test_offers_from_elsewhere_are_refused_for_it_until_it_announces_again() -> None:
    room = ParkingRoom()
    b = seeder(room)
    assert not takes_foreign(room)
    room.send(b, announce(B, left=0, event="started", offers=offers(1)))
    assert takes_foreign(room)


def test_it_is_not_waited_for_long() -> None:
    room = ParkingRoom()
    seeder(room)
    room.now += 9
    assert not takes_foreign(room)
    room.now += 1
    assert takes_foreign(room)


def test_it_is_not_waited_for_longer_because_it_answers() -> None:
    room = ParkingRoom()
    b = seeder(room)
    a = room.join(A)
    for _ in range(2):
        room.now += 5
        room.send(b, answer(B, A, ID[0]))
    assert len(a.take()) == 2
    given, refused = room.foreign.deliver_offers(HASH, C, some_offers(2), room.now)
    assert {id(connection) for connection, _ in given} == {id(a), id(b)}
    assert refused == []


@pytest.mark.parametrize(
    "fields",
    [{"left": 0}, {"event": "started"}, {"event": "completed", "offers": offers(1, start=9)}],
    ids=["no event", "started", "with offers"],
)
def test_others_are_not_waited_for(fields: dict[str, object]) -> None:
    room = ParkingRoom()
    newcomer(room, B, **fields)
    assert takes_foreign(room)


def test_who_was_there_and_completes_goes_on_as_before() -> None:
    room = ParkingRoom()
    b = room.join(B)
    room.send(b, announce(B, left=0, event="completed"))
    assert takes_foreign(room)
