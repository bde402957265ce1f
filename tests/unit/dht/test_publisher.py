"""Where a tracker writes its entry, and what it does when others write at the same time."""

import asyncio
from collections import Counter

import pytest

from extensions.dht.publisher import ATTEMPTS
from extensions.dht.records.keys import MAX_DEPTH, SALTS, WINDOW
from extensions.dht.records.shards import SHALLOW, TRIES
from extensions.dht.records.slots import LOCKED
from extensions.dht.refresh import FRESH, REFRESH
from extensions.dht.tracked import ANNOUNCE, READ_BACK, RETRY
from extensions.entries import LIFETIME
from tests.unit.dht.crowd import MIDNIGHT, Crowd, CrowdRecord, CrowdTracker, Value, virtual

R0, R1, R2 = SALTS


def places(crowd: Crowd, tracker: CrowdTracker) -> set[bytes]:
    """Return the slots and shards of today's record that have an entry of a tracker."""
    return {
        salt
        for day, salt in crowd.values
        if day == crowd.today and tracker.tracker_id in {entry.tracker_id for entry in crowd.entries_in(salt)}
    }


async def published(crowd: Crowd, tracker: CrowdTracker) -> list[bytes]:
    """Let a tracker visit the record. Return the slots and shards that it wrote to, also in vain."""
    before = crowd.writes.copy()
    await tracker.visit()
    return [salt for (_, salt), count in sorted((crowd.writes - before).items()) for _ in range(count)]


def steady() -> Crowd:
    """Return a record whose every lookup takes 0.75 s, and every store 0.25 s."""
    crowd = Crowd()
    crowd.random.uniform = lambda a, b: (a + b) / 2  # type: ignore[method-assign]
    return crowd


def crowded(crowd: Crowd | None = None) -> Crowd:
    """Return a record whose slots are full."""
    crowd = crowd or Crowd()
    for salt in SALTS:
        crowd.fill(salt)
    return crowd


# Small records


@virtual
async def test_the_first_slot_with_room_is_written() -> None:
    crowd = Crowd()
    one, other = crowd.add(2)
    assert await published(crowd, one) == [R0]
    crowd.fill(R0)
    assert await published(crowd, other) == [R1]
    assert places(crowd, other) == {R1}


@virtual
async def test_a_fresh_entry_is_left_as_it_is() -> None:
    crowd = Crowd()
    tracker, other = crowd.add(2)
    await tracker.visit()
    await other.visit()
    assert await published(crowd, tracker) == []
    await asyncio.sleep(LIFETIME - FRESH)
    assert await published(crowd, tracker) == [R0]


@virtual
async def test_where_others_write_too_a_look_follows_but_not_in_a_crowd() -> None:
    crowd = Crowd()
    alone, second = crowd.add(2)
    assert (await alone.visit()).look_again is None
    assert (await second.visit()).look_again == READ_BACK
    crowd = Crowd()
    crowd.fill(R0, count=5)
    crowd.fill(R1)
    crowd.values[crowd.today, R0] = Value(7, crowd.value(R0).entries)
    crowd.fill(R2)
    (tracker,) = crowd.add(1)
    assert await published(crowd, tracker) == [R0]
    # The record was not read any further, because the first slot had room.
    assert (await tracker.visit()).look_again is None


@virtual
async def test_a_slot_with_room_behind_expired_entries_is_taken_in_a_crowd_too() -> None:
    crowd = Crowd()
    crowd.fill(R0, age=LIFETIME - 5)
    crowd.fill(R1)
    crowd.fill(R2)
    await asyncio.sleep(10)
    (tracker,) = crowd.add(1)
    record_result = await tracker.visit()
    assert places(crowd, tracker) == {R0}
    assert record_result.look_again is None


@virtual
async def test_after_a_conflict_only_that_slot_is_read_again() -> None:
    crowd = steady()
    trackers = crowd.add(2)
    await asyncio.gather(*(tracker.visit() for tracker in trackers))
    assert crowd.conflicts == {(0, R0): 1}
    assert crowd.reads == {(0, R0): 3}
    assert {entry.tracker_id for entry in crowd.entries_in(R0)} == {tracker.tracker_id for tracker in trackers}


@virtual
async def test_a_slot_that_others_have_filled_meanwhile_leads_to_the_next() -> None:
    crowd = steady()
    (tracker,) = crowd.add(1)
    visit = asyncio.ensure_future(tracker.visit())
    # It has read the slot, and is about to write.
    await asyncio.sleep(0.9)
    crowd.fill(R0)
    crowd.fill(R1)
    crowd.fill(WINDOW)
    await visit
    assert crowd.conflicts == {(0, R0): 1}
    assert places(crowd, tracker) == {tracker.shard(0)}
    assert tracker.memory.depth == 0


@virtual
async def test_conflicts_without_end_are_given_up() -> None:
    crowd = Crowd()
    (tracker,) = crowd.add(1)

    async def disturb() -> None:
        while True:
            crowd.values[crowd.today, R0] = Value(crowd.value(R0).seq + 1)
            await asyncio.sleep(0.05)

    disturbing = asyncio.ensure_future(disturb())
    result = await tracker.visit()
    disturbing.cancel()
    assert (result.until, result.look_again, result.has_failed) == (0.0, RETRY, True)
    assert crowd.conflicts == {(0, R0): ATTEMPTS}
    assert crowd.reads == {(0, R0): ATTEMPTS}


# Shards


@virtual
async def test_if_no_slot_has_room_a_shard_and_the_window_are_written() -> None:
    crowd = crowded()
    (tracker,) = crowd.add(1)
    assert await published(crowd, tracker) == [WINDOW, tracker.shard(0)]
    assert places(crowd, tracker) == {tracker.shard(0), WINDOW}
    assert (tracker.memory.own_depth, tracker.memory.own_day) == (0, crowd.today)
    assert crowd.value(WINDOW).depth == 0


@virtual
async def test_the_window_tells_newcomers_where_to_begin() -> None:
    crowd = crowded()
    (tracker,) = crowd.add(1)
    for depth in range(8):
        crowd.fill(tracker.shard(depth))
    crowd.values[crowd.today, WINDOW] = Value(9, crowd.value(WINDOW).entries, 8)
    await tracker.visit()
    assert tracker.shard(8) in places(crowd, tracker)
    own_reads = [salt for (_, salt), count in crowd.reads.items() if salt in (tracker.shard(7), tracker.shard(8))]
    assert len(own_reads) == 2
    assert crowd.value(WINDOW).depth == 8


@virtual
async def test_a_wrong_depth_costs_some_lookups() -> None:
    for depth in (0, 4, MAX_DEPTH):
        crowd = crowded()
        (tracker,) = crowd.add(1)
        for full in range(8):
            crowd.fill(tracker.shard(full))
        crowd.values[crowd.today, WINDOW] = Value(9, crowd.value(WINDOW).entries, depth)
        await tracker.visit()
        (place,) = places(crowd, tracker) - {WINDOW}
        assert len(place) - 1 >= 8
        # At the next visits it climbs to where others look for it.
        for _ in range(3):
            await asyncio.sleep(REFRESH[0])
            for salt in (*SALTS, *(tracker.shard(full) for full in range(8))):
                crowd.fill(salt)
            await tracker.visit()
        assert tracker.shard(8) in places(crowd, tracker)


@virtual
async def test_only_a_tracker_below_full_shards_is_among_many() -> None:
    crowd = crowded()
    (tracker,) = crowd.add(1)
    for depth in range(SHALLOW + 1):
        crowd.lock(tracker.shard(depth))
    await tracker.visit()
    assert tracker.memory.own_depth is not None
    assert tracker.memory.own_depth > SHALLOW
    assert not tracker.memory.is_among_many
    await asyncio.sleep(REFRESH[0])
    for depth in range(SHALLOW + 1):
        crowd.values[crowd.today, tracker.shard(depth)] = Value(1)
        crowd.fill(tracker.shard(depth))
    await tracker.visit()
    assert tracker.memory.is_among_many


@virtual
async def test_a_shard_above_that_has_room_again_is_taken() -> None:
    crowd = crowded()
    (tracker,) = crowd.add(1)
    for depth in range(4):
        crowd.fill(tracker.shard(depth))
    await tracker.visit()
    assert tracker.memory.own_depth == 4
    await asyncio.sleep(REFRESH[0])
    for salt in (*SALTS, tracker.shard(0)):
        crowd.fill(salt)
    for depth in (1, 2, 3):
        crowd.values[crowd.today, tracker.shard(depth)] = Value(9)
    await tracker.visit()
    assert tracker.memory.own_depth == 1
    # The old entry ends by itself.
    assert places(crowd, tracker) == {WINDOW, tracker.shard(1), tracker.shard(4)}


@virtual
async def test_on_a_new_day_it_takes_the_same_place() -> None:
    crowd = Crowd(start=MIDNIGHT - 1800)
    for salt in SALTS:
        crowd.fill(salt)
    (tracker,) = crowd.add(1)
    tracker.memory.note_own(5, crowd.today)
    tracker.memory.depth = MAX_DEPTH
    await asyncio.sleep(REFRESH[0])
    # It skips the slots, since the tree is so deep.
    assert await published(crowd, tracker) == [tracker.shard(5)]
    assert crowd.reads[0, tracker.shard(4)] == 0
    # An hour later it moves up, if others have not filled the shards above.
    await asyncio.sleep(REFRESH[1])
    tracker.memory.depth = MAX_DEPTH
    await tracker.visit()
    assert tracker.memory.own_depth == 0


@virtual
async def test_a_fresh_entry_in_a_shard_is_left_as_it_is() -> None:
    crowd = crowded()
    (tracker,) = crowd.add(1)
    await tracker.visit()
    assert await published(crowd, tracker) == []
    # Nor after a restart, when it does not know its shard any more.
    tracker.memory.own_depth = tracker.memory.depth = None
    assert await published(crowd, tracker) == []
    assert tracker.memory.own_depth == 0


@virtual
async def test_a_tracker_returns_from_a_shard_to_a_slot() -> None:
    crowd = crowded()
    (tracker,) = crowd.add(1)
    await tracker.visit()
    await asyncio.sleep(REFRESH[1])
    crowd.values[crowd.today, R0] = Value(9)
    assert await published(crowd, tracker) == [R0]
    assert tracker.memory.own_depth is None


@virtual
async def test_two_conflicts_lead_deeper() -> None:
    crowd = crowded()
    (tracker,) = crowd.add(1)
    disturbed = Counter[bytes]()

    async def disturb() -> None:
        while True:
            salt = tracker.shard(0)
            crowd.values[crowd.today, salt] = Value(crowd.value(salt).seq + 1)
            disturbed[salt] += 1
            await asyncio.sleep(0.05)

    disturbing = asyncio.ensure_future(disturb())
    await tracker.visit()
    disturbing.cancel()
    assert crowd.conflicts[0, tracker.shard(0)] == 2
    assert tracker.memory.own_depth == 1
    # Where so many write, it leaves the window to others.
    assert places(crowd, tracker) == {tracker.shard(1)}


@virtual
async def test_if_its_shards_are_locked_the_window_is_left() -> None:
    crowd = crowded(steady())
    (tracker,) = crowd.add(1)
    for depth in range(MAX_DEPTH + 1):
        crowd.lock(tracker.shard(depth))
    result = await tracker.visit()
    assert places(crowd, tracker) == {WINDOW}
    assert (result.look_again, result.has_failed) == (READ_BACK, True)
    assert tracker.publisher.written == {"locked": 1}
    own_path = {tracker.shard(depth) for depth in range(MAX_DEPTH + 1)}
    assert sum(count for (_, salt), count in crowd.reads.items() if salt in own_path) >= TRIES
    # Another tracker writes there while it searches.
    crowd.fill(WINDOW, age=-6)
    result = await tracker.visit()
    assert (result.until, result.look_again, result.has_failed) == (0.0, READ_BACK, True)
    for salt in SALTS:
        crowd.lock(salt)
    result = await tracker.visit()
    assert (result.until, result.look_again, result.has_failed) == (0.0, ANNOUNCE, False)


@virtual
async def test_a_tracker_that_loses_its_shards_returns_to_the_slots() -> None:
    crowd = crowded()
    (tracker,) = crowd.add(1)
    tracker.memory.note_own(MAX_DEPTH, crowd.today)
    for depth in range(MAX_DEPTH + 1):
        crowd.lock(tracker.shard(depth))
    result = await tracker.visit()
    assert (result.look_again, crowd.reads[0, R0]) == (READ_BACK, 0)
    await tracker.visit()
    assert places(crowd, tracker) == {WINDOW}


@virtual
async def test_if_all_slots_are_locked_the_shards_are_left() -> None:
    crowd = Crowd()
    for salt in SALTS:
        crowd.lock(salt)
    (tracker,) = crowd.add(1)
    assert (await tracker.visit()).until
    assert places(crowd, tracker) == {tracker.shard(0)}
    assert all(crowd.value(salt).seq == LOCKED for salt in SALTS)


# Removal


@pytest.mark.parametrize("where", ["slot", "shard"])
@virtual
async def test_an_entry_is_removed_from_all_its_places(where: str) -> None:
    crowd = crowded() if where == "shard" else Crowd()
    (tracker,) = crowd.add(1)
    await tracker.visit()
    kept = {salt: len(crowd.entries_in(salt)) for salt in SALTS}
    assert places(crowd, tracker)
    for is_gone in (False, True):
        record = CrowdRecord(crowd, crowd.today, lambda *_: None)
        await record.read_slots()
        assert await tracker.publisher.erase([record], tracker.memory) is is_gone
    assert places(crowd, tracker) == set()
    # Those of others are still there.
    assert sum(len(crowd.entries_in(salt)) for salt in SALTS) == sum(kept.values()) - 1
    assert crowd.value(WINDOW).depth == (0 if where == "shard" else None)


@virtual
async def test_a_removal_goes_on_after_a_conflict() -> None:
    crowd = Crowd()
    (tracker,) = crowd.add(1)
    await tracker.visit()
    record = CrowdRecord(crowd, crowd.today, lambda *_: None)
    await record.read_slots()
    crowd.values[crowd.today, R0] = Value(9, crowd.value(R0).entries)
    assert not await tracker.publisher.erase([record], tracker.memory)
    assert places(crowd, tracker) == set()
    assert crowd.conflicts == {(0, R0): 1}


@virtual
async def test_an_entry_is_removed_although_the_nodes_have_more_entries_than_fit_a_slot() -> None:
    """Vandals, and nodes that were not reached, leave different values. A reader has the entries of all of them."""
    crowd = Crowd()
    (tracker,) = crowd.add(1)
    await tracker.visit()
    record = CrowdRecord(crowd, crowd.today, lambda *_: None)
    await record.read_slots()
    record.slots[0].entries += [entry for salt in SALTS for entry in crowded().entries_in(salt)]
    assert not await tracker.publisher.erase([record], tracker.memory)
    assert places(crowd, tracker) == set()
    assert len(crowd.entries_in(R0)) > 3
