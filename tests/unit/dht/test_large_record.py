"""Hundreds of trackers in one record: each has an entry, readers find a fair sample, and no slot gets more load.

`python -m benchmarks.records` does the same with up to 10 000.
"""

import random
from collections.abc import Callable
from itertools import pairwise
from statistics import mean

import pytest

from extensions.dht.records.keys import SALTS, WINDOW
from extensions.dht.records.placing import REST
from extensions.dht.records.shards import SAMPLES, TRIES
from extensions.entries import LIFETIME
from tests.unit.dht.crowd import MIDNIGHT, Crowd, virtual

HOUR = 3600.0


def within(seconds: float) -> Callable[[], float]:
    numbers = random.Random(7)
    return lambda: numbers.uniform(0, seconds)


async def living_for_hours(crowd: Crowd, hours: int) -> None:
    """Let a crowd live, and check each quarter of an hour that nobody has lost its entry."""
    begin = crowd.passed
    for quarter in range(1, 4 * hours + 1):
        await crowd.live(begin + quarter * HOUR / 4)
        published = {tracker.tracker_id for tracker in crowd.trackers if tracker.until}
        assert published <= crowd.living()
    assert all(tracker.gap == 0 for tracker in crowd.trackers)


@pytest.mark.parametrize("number", [1, 12, 13, 30, 200])
@virtual
async def test_every_tracker_has_an_entry_that_stays(number: int) -> None:
    crowd = Crowd()
    crowd.add(number, within(HOUR / 2))
    await living_for_hours(crowd, 4)
    assert crowd.living() == {tracker.tracker_id for tracker in crowd.trackers}
    # The shards fill from the top: none is deeper than necessary by more than two.
    assert sum(6 * 2**depth for depth in list(crowd.depths())[:-2]) <= max(0, number - 6)
    await crowd.stop()


@virtual
async def test_trackers_that_join_in_the_same_second_all_get_a_place() -> None:
    crowd = Crowd()
    crowd.add(200, within(1.0))
    await crowd.live(600)
    assert crowd.living() == {tracker.tracker_id for tracker in crowd.trackers}
    # No conflict makes a tracker read more than one slot again.
    conflicts = sum(crowd.conflicts.values())
    assert sum(crowd.reads.values()) <= sum(crowd.writes.values()) + conflicts + 200 * (3 + TRIES + 2 * SAMPLES)
    await crowd.stop()


@virtual
async def test_samples_hold_every_tracker_about_equally_often() -> None:
    crowd = Crowd()
    crowd.add(200, within(HOUR / 2))
    crowd.counts_from = 3 * HOUR
    await crowd.live(8 * HOUR)
    in_shards = [tracker for tracker in crowd.trackers if tracker.memory.own_depth is not None]
    counts = [crowd.sampled[tracker.tracker_id] for tracker in in_shards]
    assert len(in_shards) > 180
    # Some 1000 samples of ten trackers each.
    assert mean(counts) > 30
    deepest = max(tracker.memory.own_depth or 0 for tracker in in_shards)
    for depth in range(1, deepest - 1):
        at_depth = [crowd.sampled[one.tracker_id] for one in in_shards if one.memory.own_depth == depth]
        assert 0.6 < mean(at_depth) / mean(counts) < 1.6
    assert sum(count == 0 for count in counts) <= 3
    await crowd.stop()


@virtual
async def test_the_load_of_a_slot_does_not_grow_with_the_number_of_trackers() -> None:
    reads, shard_reads, lookups = [], [], []
    for number in (60, 120, 240):
        crowd = Crowd()
        crowd.add(number, within(HOUR))
        await crowd.live(5 * HOUR)
        # While they join, each reads the slots once, or a second time after a conflict.
        assert crowd.most(crowd.reads, 0) < 1.2 * number + 20
        reads.append(crowd.most(crowd.reads, 4))
        shard_reads.append(crowd.most(crowd.reads, 4, shards=True))
        lookups.append(mean(crowd.lookups_between(4 * HOUR, 5 * HOUR)))
        await crowd.stop()
    assert max(reads) < 130
    assert max(shard_reads) < 80
    assert max(lookups) < 8
    # The more trackers, the more of them leave out the slots.
    assert lookups == sorted(lookups, reverse=True)


@virtual
async def test_the_window_is_written_once_in_three_seconds_at_most_and_names_the_latest() -> None:
    crowd = Crowd()
    crowd.add(400, within(400.0))
    stored: list[float] = []
    seq = 0
    while crowd.passed < 400:
        await crowd.live(crowd.passed + 0.5)
        if crowd.value(WINDOW).seq > seq:
            seq = crowd.value(WINDOW).seq
            stored.append(crowd.passed)
    late = [when for when in stored if when > 100]
    # The entry in it is signed before it is stored.
    assert all(later - earlier > REST - 2 for earlier, later in pairwise(late))
    assert len(late) > 30
    assert min(entry.expires for entry in crowd.entries_in(WINDOW)) > crowd.clock() + LIFETIME - 60
    # Who wrote there has an entry elsewhere, too.
    assert {entry.tracker_id for entry in crowd.entries_in(WINDOW)} <= crowd.living()
    await crowd.stop()


@virtual
async def test_at_midnight_all_move_to_the_new_record_within_an_hour() -> None:
    crowd = Crowd(start=MIDNIGHT - 4 * HOUR)
    crowd.add(150, within(HOUR))
    await crowd.live(4 * HOUR - 1)
    before, today = crowd.depths(), crowd.today
    await living_for_hours(crowd, 2)
    assert crowd.today == today + 1
    assert crowd.living(crowd.today) == {tracker.tracker_id for tracker in crowd.trackers}
    # They take the same places again: in that hour, nobody has to search.
    assert crowd.most(crowd.reads, 4) < 130
    assert mean(crowd.lookups_between(4 * HOUR, 5 * HOUR)) < 9
    assert max(crowd.depths()) <= max(before) + 1
    await crowd.stop()


@pytest.mark.parametrize("left", [5, 40])
@virtual
async def test_when_most_trackers_have_gone_the_others_move_up(left: int) -> None:
    crowd = Crowd()
    crowd.add(200, within(HOUR))
    await crowd.live(2 * HOUR)
    await crowd.stop(crowd.trackers[left:])
    await living_for_hours(crowd, 5)
    assert crowd.living() == {tracker.tracker_id for tracker in crowd.trackers}
    newcomer = crowd.add(1)[0]
    await newcomer.visit()
    if left == 5:
        # It sees all of them in the first slots, as in any small record.
        assert newcomer.found.keys() == {tracker.tracker_id for tracker in crowd.trackers[:left]}
        assert set(newcomer.found.values()) <= {"r0", "r1"}
    else:
        assert len(newcomer.found) > 20
    await crowd.stop()


# Attacks


def lock_shards(crowd: Crowd, depths: range) -> None:
    for tracker in crowd.trackers:
        for depth in depths:
            crowd.lock(tracker.shard(depth))


@virtual
async def test_locked_shards_cost_a_bounded_number_of_lookups_and_lead_deeper() -> None:
    crowd = Crowd()
    crowd.add(100, within(HOUR))
    await crowd.live(2 * HOUR)
    lock_shards(crowd, range(4))
    await crowd.live(5 * HOUR)
    assert max(crowd.lookups_between(2 * HOUR, 5 * HOUR)) <= 3 + TRIES + 1 + SAMPLES + 1
    assert crowd.living() == {tracker.tracker_id for tracker in crowd.trackers}
    newcomer = crowd.add(1)[0]
    await newcomer.visit()
    assert len(newcomer.found) > 18
    await crowd.stop()


@virtual
async def test_if_all_shards_are_locked_the_slots_are_left() -> None:
    crowd = Crowd()
    crowd.add(40, within(HOUR / 2))
    lock_shards(crowd, range(21))
    await crowd.live(3 * HOUR)
    # Twelve have a place, and the others share the window.
    assert len(crowd.living()) == 12
    others = [tracker for tracker in crowd.trackers if tracker.tracker_id not in crowd.living()]
    assert {entry.tracker_id for entry in crowd.entries_in(WINDOW)} <= {tracker.tracker_id for tracker in others}
    # A tracker that finds the window resting has nothing at all for a while.
    assert sum(tracker.failures > 0 for tracker in others) > 20
    # They try again, but ever more rarely.
    assert len(crowd.lookups_between(2 * HOUR, 3 * HOUR)) < 40 * 8
    assert max(crowd.lookups_between(0, 3 * HOUR)) <= 3 + TRIES + 1 + SAMPLES + 1
    assert crowd.most(crowd.writes, 2) < HOUR / REST
    await crowd.stop()


@virtual
async def test_a_wrong_depth_in_the_window_leads_nobody_astray() -> None:
    for depth in (0, 20):
        crowd = Crowd()
        crowd.add(100, within(HOUR))
        await crowd.live(2 * HOUR)
        value = crowd.value(WINDOW)
        crowd.values[crowd.today, WINDOW] = type(value)(value.seq + 1, value.entries, depth)
        newcomer = crowd.add(1)[0]
        published = await newcomer.visit()
        assert published.until
        assert crowd.lookups[-1][1] <= 3 + TRIES + SAMPLES + 1
        assert len(newcomer.found) >= 18
        # With the next visit its entry is where others look for it.
        await newcomer.visit()
        await crowd.stop()


@virtual
async def test_slots_full_of_made_up_trackers_keep_nobody_out() -> None:
    crowd = Crowd()
    for salt in SALTS:
        crowd.fill(salt)
    tracker, other = crowd.add(2)
    assert (await tracker.visit()).until
    assert crowd.value(WINDOW).entries[-1].tracker_id != tracker.tracker_id
    assert tracker.tracker_id in crowd.living()
    await other.visit()
    assert other.found[tracker.tracker_id] in ("r2", "s")
