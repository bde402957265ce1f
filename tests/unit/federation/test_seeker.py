"""Whom a tracker dials for which swarm, and when."""

import random
from collections import Counter
from collections.abc import Sequence
from math import inf

import pytest

from extensions.federation.reasons import Ended, EndReason
from extensions.federation.seeker import (
    ALL,
    DEGREE,
    LONELY,
    MAX_FAILURES,
    MAX_FRESH,
    MAX_STALE,
    PAUSE,
    SETTLING,
    Seeker,
)
from extensions.trackers import RENDEZVOUS_TEXT, TrackerEntry
from tests.client import HASH

OTHER = "i" * 20
ADVANCE = 10
FULL = Ended(EndReason.CLOSED_THERE, "too_many_links")
GONE = Ended(EndReason.UNREACHABLE)
LINKED = Ended(EndReason.LOST, lasted=100.0)


def entry(number: int) -> TrackerEntry:
    """Return the entry of a tracker."""
    return TrackerEntry(f"{number:064x}", 1, f"wss://{number}.example", bytes(64))


class World:
    """The swarms, links and dials that a seeker sees, and its clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.open = {HASH}
        self.found: dict[str, list[TrackerEntry]] = {}
        self.degrees: Counter[str] = Counter()
        self.met = False
        self.links: set[str] = set()
        self.ready: dict[str, float] = {}
        self.has_room = True
        self.dialed: list[int] = []
        self.urgent: list[bool] = []
        self.seeker = Seeker(self, self, self.links, ADVANCE, random.Random(1).sample)

    def is_open(self, info_hash: str) -> bool:
        return info_hash in self.open

    def known(self, info_hash: str) -> Sequence[TrackerEntry]:
        return self.found.get(info_hash, [])

    def degree(self, info_hash: str) -> int:
        return len(self.links) if info_hash == RENDEZVOUS_TEXT else self.degrees[info_hash]

    def is_lonely(self, info_hash: str) -> bool:
        return not self.degree(info_hash) and not self.met

    def ready_at(self, entry: TrackerEntry) -> float:
        return self.ready.get(entry.tracker_id, 0.0)

    def want(self, entry: TrackerEntry, cause: str, urgent: bool) -> bool:
        if self.has_room:
            self.dialed.append(int(entry.tracker_id, 16))
            self.urgent.append(urgent)
        return self.has_room

    def find(self, *numbers: int, info_hash: str = HASH) -> None:
        """The DHT names trackers, a moment after others."""
        self.now += PAUSE
        for number in numbers:
            self.found.setdefault(info_hash, []).append(entry(number))
            self.seeker.on_entry(info_hash, entry(number), self.now)

    def take(self) -> list[int]:
        """Return the trackers that are dialed now, since the last time."""
        self.seeker.look(self.now, 1000)
        dialed, self.dialed = sorted(self.dialed), []
        return dialed

    def wait(self, seconds: float) -> list[int]:
        """Return the trackers that are dialed within some time."""
        end = self.now + seconds
        dialed: list[int] = []
        while self.seeker.next_due <= end:
            self.now = max(self.now, self.seeker.next_due)
            dialed += self.take()
        self.now = end
        return dialed

    def link(self, number: int, common: bool = True) -> None:
        """A dialed link opens."""
        self.links.add(entry(number).tracker_id)
        self.degrees[HASH] += common

    def fail(self, number: int, ended: Ended, ready: float = 0.0, causes: Sequence[str] = (HASH,)) -> None:
        """A dial ends."""
        self.ready[entry(number).tracker_id] = ready
        self.seeker.on_result(entry(number), causes, ended, ready, self.now)


@pytest.fixture
def world() -> World:
    return World()


def test_each_tracker_of_a_small_swarm_is_dialed_once(world: World) -> None:
    world.find(*range(ALL))
    assert world.take() == list(range(ALL))
    world.link(0)
    assert world.wait(10_000) == []
    world.find(0)
    assert world.take() == []
    world.find(77)
    assert world.take() == [77], "also when it is found later"


def test_trackers_of_swarms_that_are_not_open_are_not_dialed(world: World) -> None:
    world.find(1, info_hash=OTHER)
    assert world.take() == []
    world.open.add(OTHER)
    world.seeker.on_entry(OTHER, None, world.now)
    assert world.take() == [1]
    world.seeker.swarm_closed(OTHER)
    assert world.seeker.searches == 0
    assert world.wait(1000) == []


def test_a_tracker_that_is_linked_already_is_not_dialed(world: World) -> None:
    world.link(1, common=False)
    world.find(1)
    assert world.take() == []


def test_all_known_trackers_of_a_lonely_swarm_are_tried_again_and_again(world: World) -> None:
    world.find(1, 2)
    world.link(1, common=False)
    assert world.take() == [2]
    for seconds in (*LONELY, LONELY[-1], LONELY[-1]):
        assert world.wait(seconds - 0.5) == []
        assert world.wait(0.5) == [2], "it is not linked"
    world.met = True
    assert world.wait(10_000) == []


def test_a_swarm_that_becomes_lonely_is_looked_at_soon(world: World) -> None:
    world.find(1)
    assert world.take() == [1]
    world.link(1)
    assert world.wait(1000) == []
    world.links.clear()
    world.degrees.clear()
    world.seeker.on_change(HASH, world.now)
    assert world.wait(2 * LONELY[0]) == [1]
    assert world.wait(LONELY[1]) == [1]


def test_a_refused_tracker_is_dialed_again_after_its_backoff_until_it_was_linked_once(world: World) -> None:
    world.met = True
    world.find(1)
    assert world.take() == [1]
    for seconds in (5.0, 10.0, 300.0):
        world.fail(1, FULL, world.now + seconds)
        assert world.wait(seconds - 0.5) == []
        assert world.wait(0.5) == [1]
    world.link(1)
    world.links.clear()
    world.fail(1, LINKED)
    assert world.wait(10_000) == []


def test_a_backoff_is_respected_also_if_the_swarm_is_lonely(world: World) -> None:
    world.find(1)
    world.ready[entry(1).tracker_id] = world.now + 100.0
    assert world.wait(99.0) == []
    assert world.wait(1.0) == [1]
    world.ready[entry(1).tracker_id] = inf
    assert world.wait(10_000) == [], "it has moved"


def test_a_large_swarm_needs_only_some_neighbours(world: World) -> None:
    world.met = True
    world.find(*range(100, 200))
    first = world.take()
    assert len(first) == DEGREE
    for number in first[:5]:
        world.link(number)
    later = world.wait(SETTLING)
    assert len(later) == DEGREE - 5
    for number in later:
        world.link(number)
    assert world.wait(10_000) == []
    world.links.discard(entry(first[0]).tracker_id)
    world.degrees[HASH] -= 1
    world.seeker.on_change(HASH, world.now)
    assert len(world.wait(LONELY[0])) == 1, "one has gone"


def test_another_one_is_dialed_in_place_of_one_that_fails(world: World) -> None:
    world.met = True
    world.find(*range(100, 200))
    first = world.take()
    for number in first[:3]:
        world.fail(number, GONE, world.now + 1000)
    again = world.take()
    assert len(again) == 3
    assert not set(again) & set(first)


def test_linked_trackers_that_do_not_have_the_swarm_do_not_stand_in_for_others(world: World) -> None:
    """Anyone can publish entries: in the end, all known trackers were tried."""
    world.met = True
    world.find(*range(100, 200))
    dialed: set[int] = set()
    for _ in range(100):
        new = world.wait(SETTLING)
        for number in new:
            world.link(number, common=False)
        dialed |= set(new)
    assert dialed == set(range(100, 200))


def test_trackers_of_the_rendezvous_are_linked_up_to_a_number(world: World) -> None:
    world.links |= {f"{n:064x}" for n in range(3)}
    world.find(*range(100, 150), info_hash=RENDEZVOUS_TEXT)
    dialed = world.take()
    assert len(dialed) == ADVANCE - 3
    assert not any(world.urgent)
    for number in dialed:
        world.links.add(entry(number).tracker_id)
    assert world.wait(10_000) == []
    for number in dialed[:2]:
        world.links.discard(entry(number).tracker_id)
    world.seeker.on_change(RENDEZVOUS_TEXT, world.now)
    assert len(world.wait(LONELY[0])) == 2


def test_without_a_place_it_waits(world: World) -> None:
    world.has_room = False
    world.find(1)
    assert world.wait(14.0) == []
    world.has_room = True
    assert world.wait(1.0) == [1]


def test_a_swarm_of_trackers_that_do_not_exist_is_less_urgent(world: World) -> None:
    world.find(*range(MAX_FAILURES))
    world.take()
    assert all(world.urgent)
    for number in range(MAX_FAILURES):
        for _ in range(3):
            world.fail(number, GONE, world.now + 1)
    world.urgent.clear()
    world.find(100)
    assert world.take() == [100]
    assert world.urgent == [False]
    world.fail(100, LINKED)
    world.urgent.clear()
    world.find(101)
    world.take()
    assert world.urgent == [True]


def test_one_that_was_just_found_is_dialed_though_the_table_is_full_of_others(world: World) -> None:
    """Entries of hostile trackers may end later than those of honest ones, so that the table forgets these."""
    world.link(1)
    world.seeker.on_entry(HASH, entry(2), world.now)
    assert world.take() == [2]
    for number in range(100, 100 + 2 * MAX_FRESH):
        world.seeker.on_entry(HASH, entry(number), world.now)
    assert len(world.wait(1000)) <= MAX_FRESH


def test_memory_is_bounded(world: World) -> None:
    world.find(*range(1000))
    for _ in range(20):
        world.wait(60)
    world.found[HASH] = [entry(1)]
    world.seeker.on_entry(HASH, None, world.now)
    world.wait(200)
    for number in range(10 * MAX_STALE):
        world.now += 0.001
        world.seeker.on_entry(HASH, entry(number), world.now)
        world.take()
    assert world.seeker.searches == 1
    assert world.seeker.waiting <= MAX_STALE + 10
