"""The directory: the times of its visits, its failures, and its memory."""

import asyncio
from typing import Any, cast

import pytest

from extensions.dht.cache import Known
from extensions.dht.krpc.schedule import LookupLimits
from extensions.dht.records.keys import day_of, record_key
from extensions.dht.refresh import REFRESH
from extensions.dht.tracked import RETRY
from extensions.entries import LIFETIME
from extensions.trackers import RENDEZVOUS, Sighting
from tests.client import eventually
from tests.unit.dht.directory import OWN, Setting, running, signed
from tests.unit.dht.entries import HASH, NOW, OTHER_HASH


async def turns() -> None:
    """Let the event loop run for some iterations."""
    for _ in range(20):
        await asyncio.sleep(0)


# Failures


async def test_a_listener_that_raises_does_not_disturb_the_others(setting: Setting) -> None:
    told: list[bytes] = []

    def fail(_hash: bytes, _sighting: Sighting) -> None:
        raise KeyError

    setting.directory.sightings.listeners += [fail, lambda info_hash, _: told.append(info_hash)]
    entry = signed(1, setting.time)
    await setting.dht.write(entry)
    assert await setting.trackers() == {entry.tracker_id}
    assert told == [HASH]
    await setting.idle()


async def test_a_visit_that_fails_is_repeated_less_and_less_often(setting: Setting) -> None:
    def fail() -> None:
        raise RuntimeError

    setting.dht.on_get = fail
    setting.directory.swarm(HASH, 5, linked=False)
    await setting.idle()
    assert setting.dht.gets == 1
    for passed, gets in ((RETRY[0] - 1, 1), (1, 2), (RETRY[0], 2), (RETRY[0], 3), (3 * RETRY[0], 3), (RETRY[0], 4)):
        setting.advance(passed)
        await setting.idle()
        assert setting.dht.gets == gets
    setting.dht.on_get = lambda: None
    setting.advance(REFRESH[1])
    await setting.idle()
    assert setting.dht.has() == {OWN}
    assert setting.directory.tracked[HASH].failures == 0


async def test_a_lookup_ends_when_its_visit_fails(setting: Setting) -> None:
    def fail() -> None:
        raise RuntimeError

    setting.dht.on_get = fail
    assert await setting.trackers() == set()
    assert setting.directory.tracked == {}


async def test_a_bep5_fallback_that_fails_leaves_the_records_alone(setting: Setting) -> None:
    setting.bep5_fallback.fault = RuntimeError()
    entry = signed(1, setting.time, RENDEZVOUS)
    await setting.dht.write(entry, info_hash=RENDEZVOUS, day=day_of(setting.time))
    setting.directory.publish(RENDEZVOUS)
    await setting.idle()
    assert setting.dht.has(RENDEZVOUS) == {entry.tracker_id, OWN}
    assert setting.bep5_fallback.finds == 1


async def test_our_own_entry_does_not_wait_for_the_bep5_fallback(setting: Setting) -> None:
    never = asyncio.Event()

    async def find(*_: object) -> None:
        await never.wait()

    cast(Any, setting.bep5_fallback).find = find
    setting.directory.publish(RENDEZVOUS)
    await eventually(lambda: setting.dht.has(RENDEZVOUS) == {OWN})
    never.set()
    await setting.idle()


# When visits begin


async def test_without_a_known_node_no_visit_begins(setting: Setting) -> None:
    setting.reachable = False
    setting.directory.publish(HASH)
    await turns()
    assert (setting.directory.visits, setting.directory.overdue) == (0, 1)
    setting.reachable = True
    setting.scheduler.wake()
    await setting.idle()
    assert setting.dht.has() == {OWN}


async def test_a_visit_that_reached_no_node_is_due_as_soon_as_one_can_be_reached(setting: Setting) -> None:
    setting.reachable = setting.dht.is_there = False
    setting.directory.publish(HASH)
    assert await setting.trackers() == set()
    await eventually(lambda: setting.directory.overdue == 1)
    assert setting.directory.counters.publications == {"unreachable": 1}
    setting.reachable = setting.dht.is_there = True
    setting.scheduler.wake()
    await setting.idle()
    assert setting.dht.has() == {OWN}


async def test_a_visit_begins_only_when_its_first_lookup_has_a_turn() -> None:
    setting = Setting(limits=LookupLimits(3, 1e9, 1e9))
    setting.dht.on_get = asyncio.Event().wait
    async with running(setting):
        for number in range(100):
            setting.directory.publish(bytes([number]) * 20)
        await eventually(lambda: setting.dht.gets == 3)
        await turns()
        assert (setting.dht.gets, setting.directory.visits, setting.directory.overdue) == (3, 3, 97)
        assert setting.scheduler.lookups_waiting == 0


async def test_a_lookup_that_a_caller_waits_for_overtakes_all_visits_that_are_due() -> None:
    setting = Setting(limits=LookupLimits(1, 1e9, 1e9))
    may_end = asyncio.Event()
    setting.dht.on_get = may_end.wait
    async with running(setting):
        for number in range(5):
            setting.directory.publish(bytes([number]) * 20)
        await eventually(lambda: setting.dht.gets == 1)
        asked = asyncio.ensure_future(setting.trackers(OTHER_HASH))
        await turns()
        setting.dht.on_get = lambda: None
        may_end.set()
        await asked
        await setting.idle()
    # It had the first turn after the lookup under way.
    record = record_key(OTHER_HASH, day_of(setting.time)).public_key().public_bytes_raw()
    assert [public_key for public_key, _ in setting.dht.asked].index(record) == 1


async def test_a_visit_that_fails_before_its_first_lookup_gives_its_turn_back() -> None:
    class Broken(Known):
        def forget_ended(self, info_hash: bytes, now: float) -> None:
            raise RuntimeError

    known: dict[bytes, Known] = {HASH: Broken()}
    setting = Setting(known, limits=LookupLimits(1, 1e-9, 1))
    async with running(setting):
        setting.directory.publish(HASH)
        await setting.idle()
        assert setting.dht.gets == 0
        # It is the only turn that there is.
        setting.directory.publish(OTHER_HASH)
        await eventually(lambda: setting.dht.gets == 1)


@pytest.mark.parametrize("back", [30.0, 1e6])
async def test_a_clock_that_is_set_back_stops_nothing(setting: Setting, back: float) -> None:
    setting.directory.swarm(HASH, 5, linked=False)
    await setting.idle()
    gets = setting.dht.gets
    setting.time -= back
    setting.advance(REFRESH[1])
    await setting.idle()
    assert setting.dht.gets > gets
    # It was signed anew, with the time of the clock as it is now.
    own = setting.directory.tracked[HASH].known.own_until
    assert abs(own - setting.time - LIFETIME) < REFRESH[1]


async def test_a_lookup_that_lies_in_the_future_is_repeated() -> None:
    known = Known(NOW + 1e6, 0.0, {})
    setting = Setting({HASH: known})
    await setting.trackers()
    assert (setting.dht.gets, known.looked) == (1, setting.time)


async def test_a_recent_lookup_is_not_repeated_even_after_a_restart() -> None:
    setting = Setting()
    setting = Setting({HASH: Known(setting.time - 5, 0.0, {})})
    await setting.trackers()
    assert setting.dht.gets == 0


# Memory


async def test_an_expired_entry_is_forgotten_and_does_not_count_as_found(setting: Setting) -> None:
    entry = signed(1, setting.time)
    await setting.dht.write(entry)
    setting.directory.swarm(HASH, 5, linked=False)
    await setting.idle()
    assert setting.directory.counters.lookups == {"found": 1}
    setting.dht.items.clear()
    setting.advance(REFRESH[1])
    await setting.idle()
    assert setting.directory.counters.lookups == {"found": 2}
    setting.advance(LIFETIME)
    await setting.idle()
    assert setting.directory.counters.lookups == {"found": 2, "none": 1}
    assert setting.directory.tracked[HASH].known.seen == {}


async def test_a_lookup_is_timed_from_its_beginning_to_its_end(setting: Setting) -> None:
    def wait() -> None:
        setting.passed += 4

    setting.dht.on_get = wait
    await setting.trackers()
    samples = [sample for family in setting.directory.counters.lookup_seconds.collect() for sample in family.samples]
    times = {
        sample.labels.get("le", sample.name.rpartition("_")[2]): sample.value
        for sample in samples
        if sample.labels["result"] == "none"
    }
    assert (times["count"], times["sum"]) == (1, 4)
    assert (times["3.0"], times["5.0"]) == (0, 1)


async def test_a_bounded_number_of_infohashes_is_remembered_and_waits_for_the_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("extensions.dht.knowledge.MAX_KNOWN", 3)
    known: dict[bytes, Known] = {}
    setting = Setting(known)
    for number in range(5):
        await setting.trackers(bytes([number]) * 20)
    last = [bytes([number]) * 20 for number in (2, 3, 4)]
    assert (list(setting.directory.knowledge.changed), list(known)) == (last, last)


async def test_valid_entries_of_open_swarms_count_as_published(setting: Setting) -> None:
    for number in range(5):
        setting.directory.swarm(bytes([number]) * 20, 5, linked=False)
    await setting.idle()
    assert setting.directory.published == 5
    setting.directory.swarm_closed(bytes(20))
    assert setting.directory.published == 4
    setting.reachable = False
    setting.advance(LIFETIME)
    assert setting.directory.published == 0


async def test_with_the_policy_none_nothing_is_published_even_on_request() -> None:
    setting = Setting(policy="none")
    async with running(setting):
        setting.directory.publish(HASH)
        setting.directory.swarm(OTHER_HASH, 5, linked=False)
        await setting.idle()
    assert (setting.dht.gets, setting.dht.puts) == (2, 0)
