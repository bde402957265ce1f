"""Visits tell of troubles, of the copies of our entry, and, to an observer, of all that they have read."""

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from extensions.dht.alarms import MAX_LINES, PERIOD
from extensions.dht.krpc.client import Found
from extensions.dht.krpc.messages import item_target
from extensions.dht.records.keys import SALTS, day_of, record_key
from extensions.dht.records.reports import VisitReport
from extensions.dht.records.shards import SHALLOW
from extensions.dht.records.slots import LOCKED
from extensions.dht.records.trouble import Trouble
from extensions.dht.refresh import REFRESH, SHORTEST
from extensions.entries import LIFETIME
from tests.unit.dht.directory import Setting, running, signed
from tests.unit.dht.entries import HASH

R0, R1 = SALTS[:2]


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    async with running(Setting()) as setting:
        yield setting


async def lock(setting: Setting, info_hash: bytes = HASH) -> None:
    """Lock the first slot of a record."""
    found = Found([cast(Any, None)])
    await setting.dht.put(found, record_key(info_hash, day_of(setting.time)), R0, LOCKED, b"rubbish")


# Troubles


async def test_each_visit_that_finds_a_trouble_is_counted_and_the_first_and_the_last_are_logged(
    setting: Setting,
) -> None:
    both = {Trouble.LOCKED, Trouble.SPOILT}
    with capture_logs() as lines:
        await lock(setting)
        setting.directory.swarm(HASH, 5, linked=False)
        await setting.idle()
        setting.advance(REFRESH[1])
        await setting.idle()
        assert setting.directory.tracked[HASH].troubles == both
        visits = setting.directory.counters.troubles[Trouble.LOCKED]
        assert visits >= 2
        # Without an answer, nothing is known about it.
        setting.dht.is_there = False
        setting.advance(REFRESH[1])
        await setting.idle()
        assert setting.directory.tracked[HASH].troubles == both
        assert setting.directory.counters.troubles == dict.fromkeys(both, visits)
        setting.dht.is_there = True
        setting.dht.items.clear()
        setting.advance(2 * LIFETIME)
        await setting.idle()
        assert setting.directory.tracked[HASH].troubles == set()
    assert [line["event"] for line in lines] == ["dht_record_troubled", "dht_record_recovered"]


async def test_a_visit_that_leaves_out_the_slots_says_nothing_of_them(setting: Setting) -> None:
    await setting.dht.fill(setting.time, SHALLOW + 1, ahead=600)
    setting.directory.swarm(HASH, 5, linked=False)
    await setting.idle()
    setting.directory.tracked[HASH].troubles = frozenset({Trouble.LOCKED})
    setting.dht.asked.clear()
    with capture_logs() as lines:
        setting.advance(REFRESH[0])
        await setting.idle()
    assert R0 not in {salt for _, salt in setting.dht.asked}
    assert setting.directory.tracked[HASH].troubles == {Trouble.LOCKED}
    assert lines == []


async def test_an_attack_on_all_infohashes_has_a_few_lines(setting: Setting) -> None:
    with capture_logs() as lines:
        for number in range(50):
            info_hash = bytes([number]) * 20
            await lock(setting, info_hash)
            setting.directory.swarm(info_hash, 5, linked=False)
        await setting.idle()
        assert len(lines) == MAX_LINES
        setting.advance(PERIOD)
        setting.directory.alarms.flush()
    assert (len(lines), lines[-1]["event"], lines[-1]["more"]) == (
        MAX_LINES + 1,
        "dht_records_troubled",
        50 - MAX_LINES,
    )


# Copies


async def test_the_copies_of_our_entry_and_the_interval_of_its_refresh_are_known(setting: Setting) -> None:
    counters = setting.directory.counters
    assert (counters.copies, counters.refresh_seconds) == (8, REFRESH[1])
    setting.directory.swarm(HASH, 5, linked=False)
    await setting.idle()
    # A look right after the write tells nothing.
    assert counters.copies == 8
    setting.advance(REFRESH[0])
    await setting.idle()
    assert (counters.copies, counters.refresh_seconds) == (8, REFRESH[1])
    setting.dht.copies = 2
    for _ in range(3):
        setting.advance(REFRESH[0])
        await setting.idle()
    assert 2 < counters.copies < 8
    assert SHORTEST <= counters.refresh_seconds < REFRESH[1]


# Reports


async def test_an_observer_receives_a_report_of_each_visit(setting: Setting) -> None:
    reports: list[VisitReport] = []
    setting.directory.observe(reports.append)
    await lock(setting)
    await setting.dht.write(signed(1, setting.time), salt=R1)
    assert len(await setting.trackers(thorough=True)) == 1
    (report,) = reports
    assert (report.info_hash, report.is_complete, report.needs_bep5) == (HASH, True, True)
    assert [reading.slot.salt for reading in report.readings] == [R0, R1]
    day = day_of(setting.time)
    public_key = record_key(HASH, day).public_key().public_bytes_raw()
    assert [(one.day, one.target) for one in report.readings] == [
        (day, item_target(public_key, salt)) for salt in (R0, R1)
    ]
    first, second = report.readings
    (rubbish,), (value,) = first.values.values(), second.values.values()
    assert (rubbish.seq, rubbish.entries, rubbish.ignored.total(), rubbish.nodes) == (LOCKED, [], 1, 1)
    assert (value.entries, value.nodes) == ([signed(1, setting.time)], 1)
    assert second.nodes_with(signed(1, setting.time).tracker_id) == 1
    assert second.nodes_with("00" * 32) == 0
    assert [(one.found.queries, len(one.found.asked), one.seconds) for one in report.readings] == [(8, 8, 0.0)] * 2
    assert report.bep5 == setting.bep5_fallback.reports


async def test_a_record_in_good_order_needs_no_bep5(setting: Setting) -> None:
    reports: list[VisitReport] = []
    setting.directory.observe(reports.append)
    await setting.trackers(thorough=True)
    assert [(one.needs_bep5, len(one.bep5), len(one.readings)) for one in reports] == [(False, 1, 1)]


async def test_a_report_is_there_before_the_visit_ends(setting: Setting) -> None:
    reports: list[VisitReport] = []
    setting.directory.observe(reports.append)

    def fail() -> None:
        raise OSError

    setting.dht.on_get = fail
    with capture_logs():
        await setting.trackers()
    (report,) = reports
    assert not report.is_complete
    assert [(reading.slot.salt, reading.seconds) for reading in report.readings] == [(R0, None)]


async def test_without_an_observer_there_are_no_reports(setting: Setting) -> None:
    await setting.trackers(thorough=True)
    assert setting.bep5_fallback.reports == [None]
