"""Visits of records that an attacker has emptied, surrounded or made unwritable: where they look, at which cost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, cast

import pytest

from extensions.dht.counters import Written
from extensions.dht.krpc.client import Found, Stored
from extensions.dht.records.bep5 import REMEMBER
from extensions.dht.records.keys import DAY, SALTS, day_of, record_key
from extensions.dht.records.slots import LOCKED
from extensions.dht.records.trouble import Trouble
from extensions.dht.refresh import REFRESH, SHORTEST
from extensions.dht.tracked import ANNOUNCE, LONELY, MAX_VAIN, RETRY, THOROUGH_EVERY, VAIN_EVERY
from extensions.trackers import RENDEZVOUS
from tests.unit.dht.directory import OWN, Setting, running, signed
from tests.unit.dht.entries import HASH

R0, R1, R2 = SALTS
HOUR: Final = 3600.0

LOOKUP: Final = 20
STORE: Final = 8
"""Queries of a lookup and of a store in a network of millions of nodes, a fifth of them dead."""


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    async with running(Setting()) as setting:
        yield setting


async def opened(setting: Setting, peers: int = 5) -> list[bytes]:
    """Open a swarm. Return the salts of the lookups of its first visit."""
    setting.directory.swarm(HASH, peers, linked=False)
    return await after(setting, 0)


async def after(setting: Setting, seconds: float) -> list[bytes]:
    """Return the salts of the lookups that follow after some time, all at once."""
    setting.dht.asked.clear()
    setting.advance(seconds)
    await setting.idle()
    return [salt for _, salt in setting.dht.asked]


def troubles(setting: Setting) -> set[Trouble]:
    return set(setting.directory.tracked[HASH].troubles)


def bep5(setting: Setting) -> tuple[int, int]:
    return setting.bep5_fallback.finds, setting.bep5_fallback.announces


def has_own(setting: Setting, salt: bytes) -> bool:
    key = record_key(HASH, day_of(setting.time)).public_key().public_bytes_raw()
    item = setting.dht.items.get((key, salt))
    return item is not None and bytes.fromhex(OWN) in item.value


# Our own entry


async def test_when_all_is_well_one_slot_is_read_and_written(setting: Setting) -> None:
    assert await opened(setting) == [R0]
    for _ in range(5):
        assert await after(setting, REFRESH[0]) == [R0]
    assert (setting.dht.puts, bep5(setting), troubles(setting)) == (6, (0, 0), set())


async def test_if_our_entry_is_withheld_the_next_slot_and_bep5_are_used_too(setting: Setting) -> None:
    setting.dht.hidden = {R0}
    await opened(setting)
    assert (bep5(setting), troubles(setting)) == ((0, 0), set())
    assert await after(setting, REFRESH[0]) == [R0, R1]
    assert (has_own(setting, R1), bep5(setting)) == (True, (1, 1))
    assert troubles(setting) == {Trouble.EMPTIED}
    # It lasts as long as the attack.
    setting.dht.hidden = set()
    await after(setting, ANNOUNCE[0])
    assert await after(setting, REFRESH[0]) == [R0]
    assert troubles(setting) == set()


async def test_a_lonely_swarm_notices_it_within_two_minutes(setting: Setting) -> None:
    setting.dht.hidden = {R0}
    await opened(setting, peers=1)
    await setting.pass_by(LONELY[0])
    assert troubles(setting) == set(), "an entry that was just written may still be on its way"
    await setting.pass_by(LONELY[1] + 30)
    assert (troubles(setting), has_own(setting, R1)) == ({Trouble.EMPTIED}, True)


async def test_after_a_first_alarm_a_sooner_look_shows_how_fast_copies_vanish(setting: Setting) -> None:
    await opened(setting)
    setting.dht.items.clear()
    assert await after(setting, REFRESH[0]) == [R0, R1]
    setting.dht.copies = 1
    assert await after(setting, ANNOUNCE[0]) == [R0]
    assert setting.directory.tracked[HASH].own.longest == SHORTEST


async def test_an_entry_whose_copies_vanish_is_written_more_often(setting: Setting) -> None:
    await opened(setting)
    setting.dht.copies = 1
    await after(setting, REFRESH[0])
    puts = setting.dht.puts
    await after(setting, REFRESH[0] / 2)
    assert setting.dht.puts == puts + 1
    setting.dht.copies = 8
    await setting.pass_by(3 * HOUR)
    puts = setting.dht.puts
    await setting.pass_by(5 * REFRESH[0])
    assert setting.dht.puts <= puts + 6


async def test_a_write_that_most_nodes_did_not_take_is_not_expected(setting: Setting) -> None:
    setting.dht.hidden = {R0}
    setting.dht.is_there = False
    await opened(setting)
    await after(setting, REFRESH[0])
    assert troubles(setting) == set()


async def test_an_entry_that_was_removed_is_not_expected() -> None:
    async with running(Setting(policy="listed")) as setting:
        # The swarm stays open, but only the extension wants it published.
        setting.directory.swarm(HASH, 5, linked=False)
        setting.directory.publish(HASH)
        await setting.idle()
        setting.directory.withdraw(HASH)
        await setting.pass_by(10 * 60)
        assert not has_own(setting, R0)
        setting.directory.publish(HASH)
        await setting.idle()
        assert has_own(setting, R0)
        assert (troubles(setting), bep5(setting), has_own(setting, R1)) == (set(), (0, 0), False)


async def test_an_entry_that_few_nodes_took_is_not_expected(setting: Setting) -> None:
    put = setting.dht.put

    async def put_at_three(*arguments: Any) -> Stored:
        await put(*arguments)
        return Stored(taken=3, failed=5)

    cast(Any, setting.dht).put = put_at_three
    setting.dht.hidden = {R0}
    await opened(setting)
    assert await after(setting, REFRESH[0]) == [R0]
    assert troubles(setting) == set()


async def test_after_the_clock_was_set_nothing_is_expected(setting: Setting) -> None:
    await opened(setting)
    setting.dht.items.clear()
    setting.time += 2000
    setting.directory.on_clock_set()
    assert await after(setting, 0) == [R0]
    assert troubles(setting) == set()


@pytest.mark.parametrize("hidden", [False, True])
async def test_after_midnight_our_entry_is_expected_in_the_old_record_only(hidden: bool) -> None:
    async with running(Setting()) as setting:
        setting.time = (day_of(setting.time) + 1) * DAY - 600.0
        await opened(setting)
        if hidden:
            setting.dht.hidden = {R0}
        asked = await after(setting, REFRESH[0])
        assert sorted(asked) == ([R0, R0, R1] if hidden else [R0, R0])
        assert troubles(setting) == ({Trouble.EMPTIED} if hidden else set())


async def test_no_alarm_in_days_without_an_attack(setting: Setting) -> None:
    await opened(setting)
    await setting.pass_by(30 * HOUR)
    assert (bep5(setting), setting.dht.puts, R1 in {salt for _, salt in setting.dht.asked}) == ((0, 0), 37, False)


# The entries of others


async def missing_other(setting: Setting) -> None:
    """Tell a reader of an entry that is nowhere in the DHT, and go on telling."""
    setting.directory.swarm(HASH, 5, linked=True)
    await setting.idle()
    setting.directory.learn(HASH, signed(1, setting.time, age=300))


async def test_if_the_entries_of_others_are_missing_the_reader_goes_on() -> None:
    async with running(Setting(policy="none")) as setting:
        await missing_other(setting)
        assert await after(setting, REFRESH[0]) == [R0, R1]
        assert (bep5(setting), troubles(setting)) == ((1, 0), {Trouble.EMPTIED})


async def test_an_entry_in_the_next_slot_is_found_again_while_the_first_one_is_withheld() -> None:
    async with running(Setting(policy="none")) as setting:
        await missing_other(setting)
        for _ in range(6):
            await setting.dht.write(signed(1, setting.time + REFRESH[0] / 2), salt=R1)
            assert await after(setting, REFRESH[0]) == [R0, R1]


async def test_searches_in_vain_become_rare() -> None:
    async with running(Setting(policy="none")) as setting:
        await missing_other(setting)
        searches = []
        for _ in range(MAX_VAIN + 2 * VAIN_EVERY):
            await after(setting, REFRESH[0] - 300)
            setting.directory.learn(HASH, signed(1, setting.time))
            searches.append(R1 in await after(setting, 300))
        assert searches[: MAX_VAIN + 1] == [True] * MAX_VAIN + [False]
        assert sum(searches[MAX_VAIN:]) == 2


async def test_a_tracker_that_publishes_searches_once(setting: Setting) -> None:
    await missing_other(setting)
    setting.dht.items.clear()
    setting.directory.tracked[HASH].own.forget()
    assert await after(setting, REFRESH[0]) == [R0, R1]
    # Now the record has our own entry.
    setting.directory.learn(HASH, signed(1, setting.time, age=300))
    assert R1 not in await after(setting, ANNOUNCE[0])
    assert R1 not in await after(setting, REFRESH[0])


async def test_an_entry_that_is_missing_in_the_record_of_yesterday_is_not_expected_in_that_of_today() -> None:
    async with running(Setting(policy="none")) as setting:
        today = day_of(setting.time) + 1
        setting.time = today * DAY - 1200.0
        await missing_other(setting)
        # The record of today is read after that of yesterday.
        setting.dht.on_get = lambda: asyncio.sleep(0.01) if len(setting.dht.asked) == 1 else None
        await after(setting, REFRESH[0])
        keys = {record_key(HASH, day).public_key().public_bytes_raw(): today - day for day in (today, today - 1)}
        assert sorted((keys[key], salt) for key, salt in setting.dht.asked) == [(0, R0), (1, R0), (1, R1)]


# Nodes that are too near, and conflicts


async def test_where_nodes_are_too_near_the_next_slot_is_used_too(setting: Setting) -> None:
    setting.dht.dense = {R0}
    assert await opened(setting) == [R0, R1]
    assert (has_own(setting, R0), has_own(setting, R1), bep5(setting)) == (True, True, (0, 0))
    assert troubles(setting) == {Trouble.BLINDED}
    # Where the entry is seen, others see it.
    assert await after(setting, REFRESH[0]) == [R0]
    assert troubles(setting) == set()


async def test_where_nodes_are_too_near_everywhere_bep5_is_used_too(setting: Setting) -> None:
    setting.dht.dense = {R0, R1}
    assert await opened(setting) == [R0, R1]
    assert (has_own(setting, R0), has_own(setting, R1), bep5(setting)) == (True, True, (1, 1))


async def test_a_write_that_most_nodes_take_is_stored_and_read_back(setting: Setting) -> None:
    setting.dht.refusals = 3
    assert await opened(setting) == [R0]
    assert setting.directory.counters.publications == {Written.STORED: 1}
    assert await after(setting, 30) == [R0]
    assert setting.dht.puts == 1


async def test_half_of_the_nodes_are_not_enough(setting: Setting) -> None:
    setting.dht.refusals = 4
    await opened(setting)
    assert setting.directory.counters.publications[Written.CONFLICT] >= 1


async def test_conflicts_without_end_make_publications_rare(setting: Setting) -> None:
    setting.dht.refusals = 8
    await opened(setting)
    assert (setting.dht.puts, troubles(setting)) == (5, {Trouble.CONTESTED})
    assert setting.directory.tracked[HASH].failures == 1
    await after(setting, RETRY[0])
    assert (setting.dht.puts, setting.directory.tracked[HASH].failures) == (7, 2)
    await after(setting, RETRY[0])
    assert setting.dht.puts == 7, "the wait is doubled"
    assert bep5(setting) == (0, 0)


async def test_a_conflict_that_was_read_again_needs_no_further_look(setting: Setting) -> None:
    setting.dht.conflicts, setting.dht.refusals = 1, 3
    assert await opened(setting) == [R0, R0]
    assert setting.directory.counters.publications == {Written.CONFLICT: 1, Written.STORED: 1}
    assert await after(setting, 90) == []


# The limits of searches and announcements


async def test_bep5_is_used_at_most_every_ten_minutes_but_at_the_rendezvous(setting: Setting) -> None:
    setting.dht.hidden = setting.dht.dense = {R0, R1}
    setting.directory.swarm(HASH, 1, linked=False)
    await setting.pass_by(LONELY[0] + LONELY[1] + 60)
    assert (setting.dht.gets >= 6, bep5(setting)) == (True, (1, 1))
    await setting.pass_by(LONELY[2] + REMEMBER)
    assert bep5(setting)[0] == 2
    setting.dht.hidden, setting.dht.dense = set(), set()
    setting.directory.publish(RENDEZVOUS)
    await setting.pass_by(LONELY[0] + LONELY[1] + 60)
    assert bep5(setting)[0] == 5


async def test_a_caller_that_asks_for_everything_gets_a_search_at_any_time(setting: Setting) -> None:
    setting.dht.dense = {R0, R1}
    await opened(setting)
    setting.advance(60)
    await setting.trackers(thorough=True)
    assert bep5(setting)[0] == 2


async def test_an_entry_that_is_withheld_again_and_again_is_written_every_hour_only(setting: Setting) -> None:
    setting.dht.hidden = {*SALTS}
    await opened(setting, peers=1)
    await setting.pass_by(2 * HOUR)
    puts = setting.dht.puts
    await setting.pass_by(3 * HOUR)
    # To two slots each time, although the record is read every half an hour.
    assert puts + 4 <= setting.dht.puts <= puts + 8


# Lonely swarms


async def test_some_looks_of_a_lonely_swarm_search_everywhere(setting: Setting) -> None:
    waits = [*LONELY, *LONELY[-1:] * 2 * THOROUGH_EVERY][: 2 * THOROUGH_EVERY - 1]
    asked = [await opened(setting, peers=1), *[await after(setting, wait) for wait in waits]]
    everywhere = [number for number, salts in enumerate(asked, 1) if salts == [*SALTS]]
    assert everywhere == [THOROUGH_EVERY, 2 * THOROUGH_EVERY]
    assert bep5(setting) == (2, 0)


async def test_a_swarm_that_is_not_lonely_does_not(setting: Setting) -> None:
    await opened(setting)
    for _ in range(2 * THOROUGH_EVERY):
        assert await after(setting, REFRESH[0]) == [R0]


# Costs


async def hide(setting: Setting) -> None:
    setting.dht.hidden = {*SALTS}


async def surround(setting: Setting) -> None:
    setting.dht.dense = {*SALTS}


async def hide_and_surround(setting: Setting) -> None:
    setting.dht.hidden = setting.dht.dense = {*SALTS}


async def refuse(setting: Setting) -> None:
    setting.dht.refusals = 8


async def surround_and_keep_one_copy(setting: Setting) -> None:
    setting.dht.dense, setting.dht.copies = {*SALTS}, 1


async def lock_first(setting: Setting) -> None:
    key = record_key(HASH, day_of(setting.time))
    await setting.dht.put(Found([cast(Any, None)]), key, R0, LOCKED, b"rubbish")


async def keep_one_copy(setting: Setting) -> None:
    setting.dht.copies = 1


async def do_nothing(_setting: Setting) -> None: ...


async def cost(attack: Callable[[Setting], Awaitable[None]], peers: int) -> float:
    """Return the queries an hour, over a day."""
    setting, hours, queries = Setting(uniform=lambda a, b: 0.0 if b < 1 else (a + b) / 2), 24, 0
    async with running(setting):
        await attack(setting)
        setting.dht.gets = setting.dht.puts = 0
        setting.directory.swarm(HASH, peers, linked=False)
        finds = announces = 0
        for _ in range(hours * 30):
            await setting.pass_by(120, step=120)
            new_finds, new_announces = bep5(setting)[0] - finds, bep5(setting)[1] - announces
            # An announcement uses the lookup of a search just before it.
            queries += LOOKUP * max(new_finds, new_announces) + STORE * new_announces
            finds, announces = bep5(setting)
        return (queries + LOOKUP * setting.dht.gets + STORE * setting.dht.puts) / hours


@pytest.mark.parametrize("peers", [1, 5])
@pytest.mark.parametrize(
    "attack", [hide, surround, hide_and_surround, refuse, keep_one_copy, surround_and_keep_one_copy, lock_first]
)
async def test_no_attack_costs_more_than_a_hundred_queries_an_hour(
    attack: Callable[[Setting], Awaitable[None]], peers: int
) -> None:
    assert await cost(attack, peers) - await cost(do_nothing, peers) <= 100
