"""A clock that is set by hours, and a second tracker with the same key."""

import asyncio

import pytest
from structlog.testing import capture_logs

from extensions.dht.records.keys import DAY, day_of
from extensions.dht.refresh import REFRESH
from extensions.dht.tracked import READ_BACK
from extensions.entries import LIFETIME, sign_entry
from tests.client import eventually
from tests.unit.dht.directory import OWN, Setting, running, signed
from tests.unit.dht.entries import HASH, OTHER_HASH, identity

HOURS = 3600.0
ELSEWHERE = "wss://elsewhere.example.org"


def set_clock(setting: Setting, seconds: float) -> None:
    setting.time += seconds
    setting.directory.on_clock_set()


@pytest.mark.parametrize("seconds", [-30 * DAY, -5 * HOURS, 5 * HOURS, 30 * DAY])
@pytest.mark.parametrize("peers", [1, 5])
async def test_records_are_written_anew_when_the_clock_is_set(setting: Setting, seconds: float, peers: int) -> None:
    setting.directory.swarm(HASH, peers, linked=False)
    setting.directory.publish(OTHER_HASH)
    await setting.idle()
    assert setting.directory.published == 2
    set_clock(setting, seconds)
    assert setting.directory.published == 0
    await setting.idle()
    for info_hash in (HASH, OTHER_HASH):
        assert setting.dht.has(info_hash, day_of(setting.time)) == {OWN}
    assert setting.directory.published == 2


@pytest.mark.parametrize("seconds", [-5 * HOURS, 5 * HOURS])
async def test_other_trackers_are_found_as_soon_as_the_clock_is_right(setting: Setting, seconds: float) -> None:
    right = setting.time
    entry = signed(1, right)
    setting.time += seconds
    setting.directory.swarm(OTHER_HASH, 5, linked=False)
    setting.directory.swarm(HASH, 5, linked=False)
    await setting.idle()
    # It would be in the record of this day, but another tracker has written it after our visit.
    await setting.dht.write(entry, day=day_of(right))
    assert setting.directory.sightings.known(HASH) == []
    set_clock(setting, -seconds)
    await setting.idle()
    assert [one.entry for one in setting.directory.sightings.known(HASH)] == [entry]


async def test_a_visit_under_way_when_the_clock_is_set_is_repeated(setting: Setting) -> None:
    may_end = asyncio.Event()
    setting.dht.on_get = may_end.wait
    setting.directory.swarm(HASH, 5, linked=False)
    await eventually(lambda: setting.dht.gets > 0)
    set_clock(setting, 10 * DAY)
    may_end.set()
    await setting.idle()
    assert setting.dht.has(HASH, day_of(setting.time)) == {OWN}


async def test_swarms_that_are_not_open_any_more_are_left_alone(setting: Setting) -> None:
    setting.directory.swarm(HASH, 5, linked=False)
    await setting.idle()
    setting.directory.swarm_closed(HASH)
    gets = setting.dht.gets
    set_clock(setting, 5 * HOURS)
    await setting.idle()
    assert setting.dht.gets == gets


async def copy_writes(setting: Setting, age: float = 0.0) -> None:
    """Let a tracker with the same key write its entry."""
    await setting.dht.write(sign_entry(identity(100), HASH, ELSEWHERE, setting.time - age), day=day_of(setting.time))


async def test_a_tracker_with_the_same_key_is_an_error_that_is_logged_once(setting: Setting) -> None:
    with capture_logs() as log:
        setting.directory.swarm(HASH, 5, linked=False)
        await setting.idle()
        for _ in range(3):
            setting.advance(10)
            await copy_writes(setting)
            setting.advance(REFRESH[1])
            await setting.idle()
    (line,) = log
    assert (line["event"], line["url"], line["log_level"]) == ("identity_copied", ELSEWHERE, "error")


async def test_the_tracker_that_starts_later_soon_notices_it_too(setting: Setting) -> None:
    with capture_logs() as log:
        await copy_writes(setting, age=100)
        setting.directory.swarm(HASH, 5, linked=False)
        await setting.idle()
        assert log == []
        setting.advance(5)
        await copy_writes(setting)
        setting.advance(READ_BACK[0])
        await setting.idle()
    assert [line["event"] for line in log] == ["identity_copied"]


@pytest.mark.parametrize("set_by", [0.0, 5 * HOURS])
async def test_a_tracker_whose_url_has_changed_is_no_copy(set_by: float) -> None:
    setting = Setting()
    async with running(setting):
        await copy_writes(setting, age=LIFETIME / 2)
        # The clock may have been wrong at the start.
        setting.time -= set_by
        setting.directory.swarm(OTHER_HASH, 5, linked=False)
        with capture_logs() as log:
            await setting.idle()
            set_clock(setting, set_by)
            setting.directory.swarm(HASH, 5, linked=False)
            await setting.idle()
            for _ in range(5):
                setting.advance(REFRESH[1])
                await setting.idle()
    assert log == []
