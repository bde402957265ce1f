"""Offers that wait: how long, how many, and whose."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fakes import FakeConnection, peer_id
from tests.unit.federation.links import ids_of, some_offers
from tracker.core.counters import Counters
from tracker.core.parked import LIFETIME, MAX_BYTES, ParkedOffers
from tracker.core.swarm import Peer, Swarm
from tracker.reasons import DropReason


class Lot:
    """A parking, some peers in two swarms, and how long those had waited that were placed."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.waited: list[float] = []
        self.counters = Counters()
        self.parking = ParkedOffers(self.counters, max_bytes)
        self.parking.enable(self.waited.append)
        self.swarms = [Swarm("h" * 20), Swarm("i" * 20)]
        self.peers = [swarm.join(peer_id(n), FakeConnection(), False, 0) for swarm in self.swarms for n in range(3)]

    def waiting(self, swarm: int, now: float) -> dict[str, list[str]]:
        """Offers by peer."""
        return {parked.peer.peer_id: ids_of(parked.offers) for parked in self.parking.of(self.swarms[swarm], now)}


def test_offers_wait_in_their_swarm() -> None:
    lot = Lot()
    lot.parking.park(lot.peers[0], some_offers(2), 10)
    lot.parking.park(lot.peers[3], some_offers(1, start=7), 10)
    assert lot.waiting(0, 11) == {peer_id(0): [f"{0:020}", f"{1:020}"]}
    assert lot.waiting(1, 11) == {peer_id(0): [f"{7:020}"]}
    assert lot.parking.count(11) == 3


def test_new_offers_take_the_place_of_older_ones() -> None:
    lot = Lot()
    lot.parking.park(lot.peers[0], some_offers(5), 10)
    lot.parking.note_met(lot.peers[0], "link")
    lot.parking.park(lot.peers[0], some_offers(1, start=7), 20)
    (parked,) = lot.parking.of(lot.swarms[0], 20)
    assert (ids_of(parked.offers), parked.made, parked.met) == ([f"{7:020}"], 20, {})
    assert (lot.parking.count(20), lot.counters.dropped[DropReason.UNPLACED_OFFER]) == (1, 0)


def test_an_offer_waits_45_seconds() -> None:
    assert LIFETIME == 45
    lot = Lot()
    lot.parking.park(lot.peers[0], some_offers(2), 100)
    assert lot.waiting(0, 144.9)
    assert not lot.waiting(0, 145)


def test_old_offers_are_dropped_when_others_come() -> None:
    lot = Lot()
    lot.parking.park(lot.peers[0], some_offers(2), 100)
    lot.parking.park(lot.peers[1], some_offers(3), 144)
    assert lot.counters.dropped[DropReason.UNPLACED_OFFER] == 0
    lot.parking.park(lot.peers[2], some_offers(1), 145)
    assert (lot.parking.count(145), lot.counters.dropped[DropReason.UNPLACED_OFFER]) == (4, 2)


def test_old_offers_are_not_counted_as_waiting() -> None:
    lot = Lot()
    lot.parking.park(lot.peers[0], some_offers(2), 100)
    assert lot.parking.count(144.9) == 2
    assert not lot.parking.of(lot.swarms[0], 145)
    assert (lot.parking.count(145), lot.counters.dropped[DropReason.UNPLACED_OFFER], lot.parking.size) == (0, 2, 0)


def test_taking_some_leaves_the_rest_and_says_how_long_they_waited() -> None:
    lot = Lot()
    lot.parking.park(lot.peers[0], some_offers(3), 10)
    (parked,) = lot.parking.of(lot.swarms[0], 12)
    assert ids_of(lot.parking.take(parked, 2, 12)) == [f"{0:020}", f"{1:020}"]
    assert lot.waiting(0, 12) == {peer_id(0): [f"{2:020}"]}
    assert ids_of(lot.parking.take(parked, 5, 15)) == [f"{2:020}"]
    assert (lot.waiting(0, 15), lot.waited) == ({}, [2, 5])


@pytest.mark.parametrize("count", [0, -1])
def test_taking_none_changes_nothing(count: int) -> None:
    lot = Lot()
    lot.parking.park(lot.peers[0], some_offers(3), 10)
    (parked,) = lot.parking.of(lot.swarms[0], 12)
    assert lot.parking.take(parked, count, 12) == []
    assert (lot.parking.count(12), lot.waited) == (3, [])


def test_who_has_left_has_nothing_waiting() -> None:
    lot = Lot()
    lot.parking.park(lot.peers[0], some_offers(3), 10)
    lot.parking.forget(lot.peers[0])
    lot.parking.forget(lot.peers[0])
    lot.parking.note_met(lot.peers[0], "link")
    assert (lot.waiting(0, 10), lot.parking.count(10), lot.counters.dropped[DropReason.UNPLACED_OFFER]) == ({}, 0, 0)


def test_meetings_are_counted_for_each_peer_by_where_the_other_is() -> None:
    lot = Lot()
    for peer in lot.peers[:2]:
        lot.parking.park(peer, some_offers(1), 10)
    for owner in ("link", "other", "link"):
        lot.parking.note_met(lot.peers[1], owner)
    assert [parked.met for parked in lot.parking.of(lot.swarms[0], 10)] == [{}, {"link": 2, "other": 1}]


def test_the_oldest_make_room() -> None:
    lot = Lot(max_bytes=10_000)
    for n in range(3):
        lot.parking.park(lot.peers[n], some_offers(1, "v" * 4000, n), 10)
    assert list(lot.waiting(0, 10)) == [peer_id(1), peer_id(2)]
    assert lot.counters.dropped[DropReason.UNPLACED_OFFER] == 1
    lot.parking.park(lot.peers[1], some_offers(1, "v" * 5100), 10)
    assert list(lot.waiting(0, 10)) == [peer_id(2), peer_id(1)], "a peer's new offers are the newest"
    lot.parking.park(lot.peers[0], some_offers(1, "v" * 20_000), 10)
    assert lot.waiting(0, 10) == {}, "not even itself, if it is too large"


def test_offers_without_an_sdp_need_room_too() -> None:
    lot = Lot(max_bytes=10_000)
    swarm = lot.swarms[0]
    for n in range(100):
        lot.parking.park(swarm.join(peer_id(100 + n), FakeConnection(), False, 0), some_offers(20, ""), 10)
    assert 0 < lot.parking.count(10) <= 10_000 / 20, "the offer_ids alone would take as much"


def test_more_offers_wait_beside_those_that_do_already() -> None:
    lot = Lot()
    lot.parking.park(lot.peers[0], some_offers(2), 10)
    lot.parking.note_met(lot.peers[0], "link")
    lot.parking.add(lot.peers[0], some_offers(1, start=7), 15, 20)
    (parked,) = lot.parking.of(lot.swarms[0], 20)
    assert (ids_of(parked.offers), parked.made, parked.met) == ([f"{0:020}", f"{1:020}", f"{7:020}"], 10, {"link": 1})
    lot.parking.add(lot.peers[0], some_offers(1, start=8), 5, 20)
    assert (parked.made, lot.parking.count(20)) == (5, 4), "the oldest of them counts"
    assert not lot.waiting(0, 50)


def test_more_offers_of_who_has_none_waiting_wait_from_when_they_were_made() -> None:
    lot = Lot()
    lot.parking.add(lot.peers[0], some_offers(1), 10, 15)
    assert lot.waiting(0, 54)
    assert not lot.waiting(0, 55)


def test_more_offers_do_not_become_as_old_as_those_that_are_too_old_already() -> None:
    lot = Lot()
    lot.parking.park(lot.peers[0], some_offers(2), 10)
    lot.parking.add(lot.peers[0], some_offers(1, start=7), 54, 55)
    assert lot.waiting(0, 56) == {peer_id(0): [f"{7:020}"]}


def test_older_offers_that_came_later_are_not_counted_when_they_are_too_old() -> None:
    lot = Lot()
    lot.parking.park(lot.peers[0], some_offers(1), 10)
    lot.parking.add(lot.peers[1], some_offers(1), 1, 10)
    assert (lot.waiting(0, 50), lot.parking.count(50)) == ({peer_id(0): [f"{0:020}"]}, 1)


def test_more_offers_make_the_oldest_go_too() -> None:
    lot = Lot(max_bytes=10_000)
    for n in range(2):
        lot.parking.park(lot.peers[n], some_offers(1, "v" * 4000, n), 10)
    lot.parking.add(lot.peers[1], some_offers(1, "v" * 4000, 7), 10, 10)
    assert lot.parking.size <= 10_000
    assert list(lot.waiting(0, 10)) == [peer_id(1)]


steps = st.lists(
    st.tuples(st.sampled_from("pppaattfm"), st.integers(0, 5), st.integers(0, 4), st.floats(0, 30)), max_size=40
)


@given(steps, st.integers(0, 1000))
def test_at_any_time_it_agrees_with_a_plain_list(todo: list[tuple[str, int, int, float]], seed: int) -> None:
    lot, now, source = Lot(), 0.0, random.Random(seed)
    model: dict[Peer, tuple[list[str], float]] = {}
    next_id = 0
    for what, number, count, pause in todo:
        now += pause
        peer = lot.peers[number]
        if what == "p":
            sdp = "v" * source.randrange(20)
            offers = some_offers(count + 1, sdp, next_id)
            next_id += count + 1
            lot.parking.park(peer, offers, now)
            model[peer] = ids_of(offers), now
        elif what == "a":
            offers, since = some_offers(count + 1, "v", next_id), now - source.randrange(50)
            next_id += count + 1
            lot.parking.add(peer, offers, since, now)
            kept, first = model.get(peer, ([], since))
            fresh = kept and first + LIFETIME > now
            model[peer] = (kept + ids_of(offers), min(first, since)) if fresh else (ids_of(offers), since)
        elif what == "f":
            lot.parking.forget(peer)
            model.pop(peer, None)
        elif what == "m":
            lot.parking.note_met(peer, "link")
        else:
            for parked in lot.parking.of(peer.swarm, now):
                taken = lot.parking.take(parked, count, now)
                kept, since = model[parked.peer]
                assert ids_of(taken) == kept[:count]
                model[parked.peer] = kept[count:], since
        good = {peer: ids for peer, (ids, since) in model.items() if ids and since + LIFETIME > now}
        for index, swarm in enumerate(lot.swarms):
            assert lot.waiting(index, now) == {peer.peer_id: ids for peer, ids in good.items() if peer.swarm is swarm}
        assert lot.parking.count(now) == sum(map(len, good.values()))
    for peer in lot.peers:
        lot.parking.forget(peer)
    lot.parking.check_invariants()
    assert lot.parking.count(now) == lot.parking.size == 0


def test_each_extension_that_parks_offers_hears_of_those_that_are_placed() -> None:
    lot = Lot()
    also: list[float] = []
    lot.parking.park(lot.peers[0], some_offers(2), 10)
    lot.parking.enable(also.append)
    (parked,) = lot.parking.of(lot.swarms[0], 12)
    assert len(lot.parking.take(parked, 1, 12)) == 1
    assert (lot.waited, also) == ([2], [2])
    assert lot.parking.count(12) == 1, "the second extension has not replaced the offers of the first"
