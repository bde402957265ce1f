"""Which trackers serve which infohash: what is done when, what goes wrong, and what is remembered."""

import asyncio
from typing import Any, cast

import pytest

from extensions.dht import directory as module
from extensions.dht.cache import Known
from extensions.dht.directory import BUSY, IDLE
from extensions.dht.krpc.client import BURST
from extensions.dht.records.entry import LIFETIME
from extensions.dht.records.keys import day_of
from extensions.dht.tracked import REFRESH, RETRY
from extensions.trackers import RENDEZVOUS, Sighting
from tests.client import eventually
from tests.unit.dht.directory import OWN, Setting, running, signed
from tests.unit.dht.entries import HASH, NOW, OTHER_HASH

# What goes wrong


async def test_one_who_fails_to_hear_of_a_tracker_spoils_nothing(setting: Setting) -> None:
    told: list[bytes] = []

    def fail(_hash: bytes, _sighting: Sighting) -> None:
        raise KeyError

    setting.directory.on_sighting += [fail, lambda info_hash, _: told.append(info_hash)]
    entry = signed(1, setting.time)
    await setting.dht.write(entry)
    assert await setting.trackers() == {entry.tracker_id}
    assert told == [HASH]
    await setting.idle()


async def test_a_look_that_fails_is_not_tried_again_at_once(setting: Setting) -> None:
    def fail() -> None:
        raise RuntimeError

    setting.dht.on_get = fail
    setting.directory.swarm(HASH, 5, linked=False)
    await setting.idle()
    assert setting.dht.gets == 1
    # And then less and less often.
    for passed, gets in ((RETRY[0] - 1, 1), (1, 2), (RETRY[0], 2), (RETRY[0], 3), (3 * RETRY[0], 3), (RETRY[0], 4)):
        setting.advance(passed)
        await setting.idle()
        assert setting.dht.gets == gets
    setting.dht.on_get = lambda: None
    setting.advance(REFRESH[1])
    await setting.idle()
    assert setting.dht.has() == {OWN}
    assert setting.directory._topics[HASH].failures == 0


async def test_whoever_listens_to_a_look_that_fails_hears_its_end(setting: Setting) -> None:
    def fail() -> None:
        raise RuntimeError

    setting.dht.on_get = fail
    assert await setting.trackers() == set()
    assert setting.directory._topics == {}


async def test_a_second_path_that_fails_leaves_the_first_alone(setting: Setting) -> None:
    setting.second_path.fault = RuntimeError()
    entry = signed(1, setting.time, RENDEZVOUS)
    await setting.dht.write(entry, info_hash=RENDEZVOUS, day=day_of(setting.time))
    setting.directory.publish(RENDEZVOUS)
    await setting.idle()
    assert setting.dht.has(RENDEZVOUS) == {entry.tracker_id, OWN}
    assert setting.second_path.finds == 1


async def test_ones_own_entry_does_not_wait_for_the_second_path(setting: Setting) -> None:
    never = asyncio.Event()

    async def find(*_: object) -> None:
        await never.wait()

    cast(Any, setting.second_path).find = find
    setting.directory.publish(RENDEZVOUS)
    await eventually(lambda: setting.dht.has(RENDEZVOUS) == {OWN})
    never.set()
    await setting.idle()


async def test_what_is_due_is_looked_at_though_one_look_fails_to_begin(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE", 0.001)
    start_due, faults = setting.directory._start_due, iter([RuntimeError(), RuntimeError()])

    def fail_twice() -> float:
        for fault in faults:
            raise fault
        return start_due()

    setting.directory._start_due = fail_twice  # type: ignore[method-assign]
    setting.directory.publish(HASH)
    await eventually(lambda: setting.dht.has() == {OWN})


# When something is done


async def test_out_of_reach_nothing_is_begun_and_the_agenda_is_left_for_later() -> None:
    setting = Setting()
    setting.reachable = False
    setting.directory.publish(HASH)
    assert (setting.directory._start_due(), setting.directory.overdue) == (IDLE, 1)
    setting.reachable = True
    setting.dht.queue = [None] * int(BURST)
    assert (setting.directory._start_due(), setting.directory.overdue) == (BUSY, 1)
    setting.dht.queue = []
    setting.directory._start_due()
    assert setting.directory.overdue == 0
    await setting.directory.close()


async def test_what_reached_nobody_is_due_as_soon_as_somebody_can_be_reached(setting: Setting) -> None:
    setting.reachable = setting.dht.is_there = False
    setting.directory.publish(HASH)
    assert await setting.trackers() == set()
    await eventually(lambda: setting.directory.overdue == 1)
    assert setting.directory.tally.publications == {"unreachable": 1}
    setting.reachable = setting.dht.is_there = True
    setting.directory.wake()
    await setting.idle()
    assert setting.dht.has() == {OWN}


async def test_no_more_is_begun_than_there_are_turns_for() -> None:
    setting = Setting()
    for number in range(100):
        setting.directory.publish(bytes([number]) * 20)
    assert setting.directory._start_due() == BUSY
    assert setting.directory.overdue == 100 - BURST
    await setting.directory.close()


@pytest.mark.parametrize("back", [30.0, 1e6])
async def test_a_clock_that_is_set_back_stops_nothing(setting: Setting, back: float) -> None:
    setting.directory.swarm(HASH, 5, linked=False)
    await setting.idle()
    gets = setting.dht.gets
    setting.time -= back
    setting.advance(REFRESH[1])
    await setting.idle()
    assert setting.dht.gets > gets
    # It was signed anew, by the clock as it is now.
    own = setting.directory._topics[HASH].known.own_until
    assert abs(own - setting.time - LIFETIME) < REFRESH[1]


async def test_what_was_looked_up_by_a_clock_ahead_is_looked_up_again() -> None:
    known = Known(NOW + 1e6, 0.0, {})
    setting = Setting({HASH: known})
    await setting.trackers()
    assert (setting.dht.gets, known.looked) == (1, setting.time)


async def test_a_look_of_a_moment_ago_is_not_repeated_even_after_a_restart() -> None:
    setting = Setting()
    setting = Setting({HASH: Known(setting.time - 5, 0.0, {})})
    await setting.trackers()
    assert setting.dht.gets == 0


# What is remembered


async def test_what_has_ended_is_forgotten_and_does_not_count_as_found(setting: Setting) -> None:
    entry = signed(1, setting.time)
    await setting.dht.write(entry)
    setting.directory.swarm(HASH, 5, linked=False)
    await setting.idle()
    assert setting.directory.tally.lookups == {"found": 1}
    setting.dht.items.clear()
    setting.advance(REFRESH[1])
    await setting.idle()
    assert setting.directory.tally.lookups == {"found": 2}
    setting.advance(LIFETIME)
    await setting.idle()
    assert setting.directory.tally.lookups == {"found": 2, "none": 1}
    assert setting.directory._topics[HASH].known.seen == {}


async def test_a_lookup_is_timed_from_its_beginning_to_its_end(setting: Setting) -> None:
    def wait() -> None:
        setting.passed += 4

    setting.dht.on_get = wait
    await setting.trackers()
    samples = [sample for family in setting.directory.tally.lookup_seconds.collect() for sample in family.samples]
    times = {
        sample.labels.get("le", sample.name.rpartition("_")[2]): sample.value
        for sample in samples
        if sample.labels["result"] == "none"
    }
    assert (times["count"], times["sum"]) == (1, 4)
    assert (times["3.0"], times["5.0"]) == (0, 1)


async def test_so_much_is_remembered_and_waits_to_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KNOWN", 3)
    setting = Setting()
    for number in range(5):
        await setting.trackers(bytes([number]) * 20)
    last = [bytes([number]) * 20 for number in (2, 3, 4)]
    assert (list(setting.directory.changed), list(setting.directory._known)) == (last, last)


async def test_so_many_are_published(setting: Setting) -> None:
    for number in range(5):
        setting.directory.swarm(bytes([number]) * 20, 5, linked=False)
    await setting.idle()
    assert setting.directory.published == 5
    setting.directory.swarm_closed(bytes(20))
    assert setting.directory.published == 4
    setting.reachable = False
    setting.advance(LIFETIME)
    assert setting.directory.published == 0


async def test_with_the_policy_none_nothing_is_published_whoever_asks_for_it() -> None:
    setting = Setting(policy="none")
    async with running(setting):
        setting.directory.publish(HASH)
        setting.directory.swarm(OTHER_HASH, 5, linked=False)
        await setting.idle()
    assert (setting.dht.gets, setting.dht.puts) == (2, 0)
