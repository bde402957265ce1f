"""The directory: changes while a visit is under way, and callers that wait for its result."""

import asyncio

import pytest

from extensions.dht.records.keys import day_of
from extensions.dht.tracked import RETRY
from extensions.trackers import Sighting
from tests.client import eventually
from tests.unit.dht.directory import OWN, Setting, running, signed
from tests.unit.dht.entries import HASH, NOW, OTHER_HASH, entry_of

# Changes during a visit


@pytest.mark.parametrize("stage", ["read", "written"])
async def test_an_entry_withdrawn_during_its_publication_is_removed_again(setting: Setting, stage: str) -> None:
    withdrawn: list[bool] = []

    def withdraw() -> None:
        if not withdrawn:
            withdrawn.append(True)
            setting.directory.withdraw(HASH)

    if stage == "read":
        setting.dht.on_get = withdraw
    else:
        setting.dht.on_put = withdraw
    setting.directory.publish(HASH)
    await setting.idle()
    assert withdrawn
    # Its visit looks once more whether the entry is really gone.
    setting.advance(RETRY[1])
    await setting.idle()
    assert (setting.dht.has(), setting.directory.tracked, setting.directory.published) == (set(), {}, 0)


@pytest.mark.parametrize("opens", [True, False])
async def test_a_publication_requested_during_a_lookup_happens_in_that_visit(setting: Setting, opens: bool) -> None:
    """For instance, a swarm opens while a caller looks up its trackers."""
    await setting.dht.write(signed(1, setting.time))

    def want(_hash: bytes, _sighting: Sighting) -> None:
        if opens:
            setting.directory.swarm(HASH, 5, linked=False)
        else:
            setting.directory.publish(HASH)

    setting.directory.sightings.listeners.append(want)
    await setting.trackers()
    await eventually(lambda: OWN in setting.dht.has())
    # No other visit was necessary.
    await setting.idle()
    assert setting.dht.gets == 1


async def test_an_entry_published_during_its_removal_is_written_again(setting: Setting) -> None:
    setting.directory.publish(HASH)
    await setting.idle()
    again: list[bool] = []

    def publish() -> None:
        if not again:
            again.append(True)
            setting.directory.publish(HASH)

    setting.dht.on_put = publish
    setting.directory.withdraw(HASH)
    await setting.idle()
    assert again
    assert (setting.dht.has(), setting.directory.published) == ({OWN}, 1)


async def test_a_removal_is_repeated_until_it_succeeds(setting: Setting) -> None:
    setting.directory.publish(HASH)
    await setting.idle()
    setting.dht.is_there = False
    setting.directory.withdraw(HASH)
    await setting.idle()
    assert (setting.dht.has(), setting.directory.published) == ({OWN}, 1)
    setting.dht.is_there = True
    setting.dht.conflicts = 2
    setting.advance(RETRY[1])
    await setting.idle()
    assert (setting.dht.has(), setting.directory.published) == (set(), 1)
    setting.advance(2 * RETRY[1])
    await setting.idle()
    assert (setting.dht.has(), setting.directory.published, setting.directory.tracked) == (set(), 0, {})


async def test_a_removal_is_given_up_in_the_end(setting: Setting) -> None:
    setting.directory.publish(HASH)
    await setting.idle()
    setting.dht.is_there = False
    setting.directory.withdraw(HASH)
    for _ in range(10):
        await setting.idle()
        setting.advance(RETRY[1] * 32)
    await setting.idle()
    assert setting.directory.tracked == {}


async def test_an_entry_is_removed_from_yesterdays_record_too() -> None:
    setting = Setting()
    setting.time = NOW + 60.0
    yesterday = day_of(NOW) - 1
    for day in (yesterday, yesterday + 1):
        await setting.dht.write(signed(100, setting.time), signed(1, setting.time), day=day)
    async with running(setting):
        setting.directory.publish(HASH)
        await setting.idle()
        setting.directory.withdraw(HASH)
        await setting.idle()
    for day in (yesterday, yesterday + 1):
        assert setting.dht.has(day=day) == {entry_of(1).tracker_id}


# Callers


async def test_a_thorough_lookup_that_joins_a_plain_one_uses_the_bep5_fallback_too(setting: Setting) -> None:
    setting.bep5_fallback.entries = [signed(2, setting.time, b"")]
    plain = asyncio.ensure_future(setting.trackers())
    await asyncio.sleep(0)
    thorough = asyncio.ensure_future(setting.trackers(thorough=True))
    await plain
    assert await thorough == {entry_of(2).tracker_id}


async def test_a_thorough_lookup_during_a_publication_begins_another_visit(setting: Setting) -> None:
    setting.bep5_fallback.entries = [signed(2, setting.time, b"")]
    put = asyncio.Event()
    setting.dht.on_put = put.wait
    setting.directory.publish(HASH)
    await eventually(lambda: setting.dht.puts == 1)
    thorough = asyncio.ensure_future(setting.trackers(thorough=True))
    await asyncio.sleep(0)
    put.set()
    assert await thorough == {entry_of(2).tracker_id}
    await setting.idle()


async def test_closing_ends_all_lookups(setting: Setting) -> None:
    setting.dht.on_get = asyncio.Event().wait
    old = asyncio.ensure_future(setting.trackers())
    await eventually(lambda: setting.dht.gets == 1)
    # This one's visit has not even begun.
    setting.dht.on_get = lambda: None
    young = asyncio.ensure_future(setting.trackers(OTHER_HASH))
    await asyncio.sleep(0)
    await setting.directory.close()
    for lookup in (old, young):
        assert await asyncio.wait_for(lookup, 5) == set()
    gets = setting.dht.gets
    assert await asyncio.wait_for(setting.trackers(b"3" * 20), 5) == set()
    assert setting.dht.gets == gets
