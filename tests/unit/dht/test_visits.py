"""Visits of large records and of the rendezvous: which slots they read, and when they use BEP 5."""

import asyncio
from math import inf
from typing import Any, cast

import pytest

from extensions.dht.krpc.client import Found
from extensions.dht.krpc.schedule import LookupLimits, Priority
from extensions.dht.records.keys import SALTS, WINDOW, day_of, record_key, shard_path, shard_salt
from extensions.dht.records.shards import SHALLOW
from extensions.dht.records.slots import LOCKED
from extensions.dht.refresh import REFRESH
from extensions.dht.tracked import ANNOUNCE, READ_BACK, RETRY
from extensions.trackers import RENDEZVOUS
from tests.client import eventually
from tests.unit.dht.directory import OWN, Setting, running, signed
from tests.unit.dht.entries import HASH


def slots_asked(setting: Setting) -> list[bytes]:
    """Return the salts of the lookups since the last call."""
    asked = [salt for _, salt in setting.dht.asked]
    setting.dht.asked.clear()
    return asked


def own_shard(depth: int, info_hash: bytes = HASH) -> bytes:
    return shard_salt(shard_path(info_hash, OWN)[:depth])


def has_own(setting: Setting, salt: bytes, info_hash: bytes = HASH) -> bool:
    key = record_key(info_hash, day_of(setting.time)).public_key().public_bytes_raw()
    item = setting.dht.items.get((key, salt))
    return item is not None and bytes.fromhex(OWN) in item.value


# Large records


async def test_in_a_large_record_our_entry_gets_a_shard(setting: Setting) -> None:
    await setting.dht.fill(setting.time, SHALLOW)
    setting.directory.swarm(HASH, 5, linked=False)
    await setting.idle()
    assert slots_asked(setting)[:3] == [*SALTS]
    assert has_own(setting, own_shard(SHALLOW))
    assert has_own(setting, WINDOW)
    assert setting.directory.published == 1
    assert setting.directory.tracked[HASH].shards.own_depth == SHALLOW


async def test_entries_in_shards_are_found(setting: Setting) -> None:
    await setting.dht.fill(setting.time, 2)
    others = await setting.trackers()
    assert len(others) > 18


async def test_a_refresh_in_a_very_large_record_leaves_out_the_slots(setting: Setting) -> None:
    await setting.dht.fill(setting.time, SHALLOW + 1, ahead=600)
    setting.directory.swarm(HASH, 5, linked=False)
    await setting.idle()
    assert {*SALTS} <= {*slots_asked(setting)}
    setting.advance(REFRESH[0])
    await setting.idle()
    asked = slots_asked(setting)
    assert not {*SALTS} & {*asked}
    assert own_shard(SHALLOW + 1) in asked
    assert len(asked) <= 5
    # A caller that waits for the result gets all of it.
    setting.advance(60)
    await setting.trackers()
    assert slots_asked(setting)[:3] == [*SALTS]
    await setting.idle()


async def test_the_removal_of_an_entry_reads_the_slots_too(setting: Setting) -> None:
    await setting.dht.fill(setting.time, SHALLOW + 1, ahead=600)
    setting.directory.publish(HASH)
    await setting.idle()
    slots_asked(setting)
    setting.directory.withdraw(HASH)
    await setting.idle()
    assert {*SALTS, own_shard(SHALLOW + 1)} <= {*slots_asked(setting)}
    assert not has_own(setting, own_shard(SHALLOW + 1))
    assert not has_own(setting, WINDOW)


# The rendezvous


async def test_a_small_rendezvous_is_also_read_and_announced_by_bep5(setting: Setting) -> None:
    setting.directory.publish(RENDEZVOUS)
    await setting.idle()
    assert (setting.bep5_fallback.finds, setting.bep5_fallback.announces) == (1, 1)
    assert setting.dht.has(RENDEZVOUS) == {OWN}


async def published_at_the_rendezvous(setting: Setting) -> None:
    """Publish our entry beside another one, wait until it is read back, and begin to count the announcements."""
    await setting.dht.write(signed(1, setting.time, RENDEZVOUS), info_hash=RENDEZVOUS)
    setting.directory.publish(RENDEZVOUS)
    await setting.idle()
    setting.advance(READ_BACK[0])
    await setting.idle()
    setting.bep5_fallback.announces = 1


async def test_an_announcement_that_is_due_again_reads_no_record(setting: Setting) -> None:
    await published_at_the_rendezvous(setting)
    gets = setting.dht.gets
    setting.advance(ANNOUNCE[0])
    await setting.idle()
    assert (setting.dht.gets, setting.bep5_fallback.announces) == (gets, 2)
    # The next one waits for the visit that comes some minutes later, when our entry needs a refresh.
    setting.advance(ANNOUNCE[0])
    await setting.idle()
    assert (setting.dht.gets, setting.bep5_fallback.announces) == (gets, 2)
    setting.advance(REFRESH[0] - READ_BACK[0] - 2 * ANNOUNCE[0])
    await setting.idle()
    assert setting.dht.gets > gets
    assert setting.bep5_fallback.announces == 3


async def test_an_announcement_that_fails_is_repeated_when_it_is_due_again(setting: Setting) -> None:
    await published_at_the_rendezvous(setting)
    setting.bep5_fallback.fault = RuntimeError()
    for announces, passed in ((2, ANNOUNCE[0]), (2, RETRY[1]), (3, REFRESH[0] - ANNOUNCE[0])):
        setting.advance(passed)
        await setting.idle()
        assert setting.bep5_fallback.announces == announces


async def test_a_caller_that_comes_during_an_announcement_gets_a_lookup(setting: Setting) -> None:
    setting.directory.publish(RENDEZVOUS)
    await setting.idle()
    entry = signed(1, setting.time + ANNOUNCE[0], RENDEZVOUS)
    await setting.dht.write(entry, info_hash=RENDEZVOUS)
    callers: list[asyncio.Task[set[str]]] = []

    async def announce(*_arguments: object) -> None:
        callers.append(asyncio.ensure_future(setting.trackers(RENDEZVOUS)))
        for _ in range(3):
            await asyncio.sleep(0)

    cast(Any, setting.bep5_fallback).announce = announce
    setting.advance(ANNOUNCE[0])
    await eventually(lambda: bool(callers))
    assert await callers[0] == {entry.tracker_id}
    await setting.idle()


@pytest.mark.parametrize("depth", [SHALLOW, SHALLOW + 1])
async def test_in_a_large_rendezvous_only_some_announce_by_bep5(setting: Setting, depth: int) -> None:
    await setting.dht.fill(setting.time, depth, RENDEZVOUS, ahead=600)
    setting.directory.publish(RENDEZVOUS)
    await setting.idle()
    assert has_own(setting, own_shard(depth, RENDEZVOUS), RENDEZVOUS)
    is_deep = depth > SHALLOW
    assert (setting.bep5_fallback.finds, setting.bep5_fallback.announces) == ((0, 0) if is_deep else (1, 1))
    assert (setting.directory.tracked[RENDEZVOUS].announce_due == inf) is is_deep


async def test_a_large_rendezvous_in_trouble_is_read_by_bep5(setting: Setting) -> None:
    await setting.dht.fill(setting.time, SHALLOW + 1, RENDEZVOUS, ahead=600)
    key = record_key(RENDEZVOUS, day_of(setting.time))
    item = setting.dht.items[key.public_key().public_bytes_raw(), SALTS[1]]
    await setting.dht.put(Found([cast(Any, None)]), key, SALTS[1], LOCKED, item.value)
    setting.directory.publish(RENDEZVOUS)
    await setting.idle()
    # Our entry is deep in the tree, so that others announce.
    assert (setting.bep5_fallback.finds, setting.bep5_fallback.announces) == (1, 0)


async def test_a_record_in_trouble_is_read_and_announced_by_bep5_until_it_is_well(setting: Setting) -> None:
    key = record_key(HASH, day_of(setting.time))
    await setting.dht.put(Found([cast(Any, None)]), key, SALTS[0], LOCKED, b"rubbish")
    setting.directory.swarm(HASH, 5, linked=False)
    await setting.idle()
    assert (setting.bep5_fallback.finds, setting.bep5_fallback.announces) == (1, 1)
    setting.advance(ANNOUNCE[0])
    await setting.idle()
    assert (setting.bep5_fallback.finds, setting.bep5_fallback.announces) == (1, 2)
    setting.dht.items.clear()
    setting.advance(REFRESH[1])
    await setting.idle()
    assert setting.directory.tracked[HASH].announce_due == inf


# The order after a start


async def test_swarms_whose_peers_are_linked_are_looked_up_last() -> None:
    setting = Setting(limits=LookupLimits(1, 1e9, 1e9))
    setting.reachable = False
    hashes = [bytes([number]) * 20 for number in range(8)]
    async with running(setting):
        for number, info_hash in enumerate(hashes):
            setting.directory.swarm(info_hash, 1, linked=number == 0)
        # Links tell of peers while the first lookups wait.
        for info_hash in hashes[1:5]:
            setting.directory.swarm(info_hash, 1, linked=True)
        setting.directory.swarm(hashes[4], 1, linked=False)
        priorities = [setting.directory.tracked[info_hash].next_visit.priority for info_hash in hashes]
        assert priorities == [Priority.LINKED] * 4 + [Priority.OPENED] * 4
        setting.reachable = True
        setting.scheduler.wake()
        await setting.idle()
    order = list(dict.fromkeys(key for key, _ in setting.dht.asked))
    keys = {record_key(one, day_of(setting.time)).public_key().public_bytes_raw(): one for one in hashes}
    looked_up = [keys[key] for key in order]
    # Of four turns one goes to the swarm that was entered last, and one by age; the others by priority.
    assert {looked_up[turn] for turn in (0, 3, 4)} <= {*hashes[4:]}
    assert set(looked_up) == set(hashes)


async def test_a_swarm_that_has_been_looked_up_is_not_looked_up_anew_when_links_change(setting: Setting) -> None:
    setting.directory.swarm(HASH, 5, linked=False)
    await setting.idle()
    gets = setting.dht.gets
    for linked in (True, False, True):
        setting.directory.swarm(HASH, 5, linked=linked)
        await setting.idle()
    assert setting.dht.gets == gets
