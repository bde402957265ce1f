"""A seeder that joins with `completed` makes its offers a moment later: until then it is given none that waited."""

import pytest

from tests.client import HASH, announce, answer, offers
from tests.unit.core.test_hub_parking import ID, ParkingHarness, newcomer, offered
from tests.unit.fakes import FakeConnection
from tests.unit.federation.links import A, B, C, some_offers


def takes_remote(harness: ParkingHarness) -> bool:
    """Return whether the one peer is given a remote offer."""
    return harness.remote.deliver_offers(HASH, C, some_offers(1), harness.now) == []


def seeder(harness: ParkingHarness) -> FakeConnection:
    """B, as webtorrent's seeders join."""
    return newcomer(harness, B, left=0, event="completed")


def test_it_is_given_nothing_and_its_own_offers_go_to_who_waits() -> None:
    harness = ParkingHarness()
    a = harness.join(A, offers=offers(3))
    b = seeder(harness)
    assert offered(b) == []
    assert harness.parked() == 3
    harness.send(b, announce(B, left=0, event="started", offers=offers(3, start=5)))
    assert offered(a) == [(B, ID[5])]
    assert offered(b) == []


def test_offers_from_elsewhere_are_refused_for_it_until_it_announces_again() -> None:
    harness = ParkingHarness()
    b = seeder(harness)
    assert not takes_remote(harness)
    harness.send(b, announce(B, left=0, event="started", offers=offers(1)))
    assert takes_remote(harness)


def test_it_is_not_waited_for_long() -> None:
    harness = ParkingHarness()
    seeder(harness)
    harness.now += 9
    assert not takes_remote(harness)
    harness.now += 1
    assert takes_remote(harness)


def test_it_is_not_waited_for_longer_because_it_answers() -> None:
    harness = ParkingHarness()
    b = seeder(harness)
    a = harness.join(A)
    for _ in range(2):
        harness.now += 5
        harness.send(b, answer(B, A, ID[0]))
    assert len(a.take()) == 2
    b.take()
    refused = harness.remote.deliver_offers(HASH, C, some_offers(2), harness.now)
    assert [len(peer.take()) for peer in (a, b)] == [1, 1]
    assert refused == []


@pytest.mark.parametrize(
    "fields",
    [{"left": 0}, {"event": "started"}, {"event": "completed", "offers": offers(1, start=9)}],
    ids=["no event", "started", "with offers"],
)
def test_others_are_not_waited_for(fields: dict[str, object]) -> None:
    harness = ParkingHarness()
    newcomer(harness, B, **fields)
    assert takes_remote(harness)


def test_who_was_there_and_completes_goes_on_as_before() -> None:
    harness = ParkingHarness()
    b = harness.join(B)
    harness.send(b, announce(B, left=0, event="completed"))
    assert takes_remote(harness)
