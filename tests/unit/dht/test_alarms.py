"""The log lines for records in trouble."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from extensions.dht.alarms import HINTS, MAX_LINES, PERIOD, Alarms
from extensions.dht.records.trouble import Trouble
from tests.unit.dht.entries import HASH
from tests.unit.dht.service import Loop, World, in_virtual_time, running


class Setting:
    """Alarms, and the clock that they have."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.alarms = Alarms(lambda: self.now)

    def get_into_trouble(self, number: int, *troubles: Trouble) -> None:
        """Note that so many infohashes got into trouble."""
        for index in range(number):
            self.alarms.note(index.to_bytes(20, "big"), (), troubles or {Trouble.LOCKED})


def test_an_infohash_has_one_line_as_it_gets_into_trouble_and_one_at_the_end() -> None:
    alarms, steps = Setting().alarms, [set(), {Trouble.LOCKED, Trouble.BLINDED}, {Trouble.BLINDED}, set(), set()]
    with capture_logs() as lines:
        for before, after in pairwise(steps):
            alarms.note(HASH, before, after)
        alarms.flush()
    assert [(line["event"], line["log_level"], line["infohash"], line["troubles"]) for line in lines] == [
        ("dht_record_troubled", "warning", HASH.hex(), ["locked", "blinded"]),
        ("dht_record_recovered", "info", HASH.hex(), ["blinded"]),
    ]
    assert lines[0]["hint"] == HINTS[Trouble.BLINDED]


@pytest.mark.parametrize("kind", Trouble)
def test_each_trouble_has_a_hint(kind: Trouble) -> None:
    with capture_logs() as lines:
        Setting().alarms.note(HASH, (), {kind})
    assert [line["hint"] for line in lines] == [HINTS[kind]]


def test_of_many_infohashes_a_few_have_lines_and_one_line_counts_the_others() -> None:
    setting = Setting()
    with capture_logs() as lines:
        setting.get_into_trouble(1000, Trouble.LOCKED, Trouble.EMPTIED)
        setting.alarms.note(HASH, {Trouble.LOCKED}, ())
        assert len(lines) == MAX_LINES
        setting.now += PERIOD - 1
        setting.alarms.flush()
        assert len(lines) == MAX_LINES
        setting.now += 1
        setting.alarms.flush()
        setting.alarms.flush()
        others = 1000 - MAX_LINES
        assert lines[MAX_LINES:] == [
            {
                "event": "dht_records_troubled",
                "log_level": "warning",
                "extension": "dht",
                "more": others,
                "recovered": 1,
                "locked": others,
                "emptied": others,
            }
        ]


def test_a_flood_that_goes_on_has_as_many_lines_in_each_minute() -> None:
    setting = Setting()
    with capture_logs() as lines:
        for number, kind in enumerate((Trouble.LOCKED, Trouble.SPOILT, Trouble.BLINDED), 1):
            setting.get_into_trouble(100, kind)
            assert len(lines) == number * MAX_LINES
            setting.now += PERIOD
    counts = [
        {name: line[name] for name in Trouble if name in line}
        for line in lines
        if line["event"] == "dht_records_troubled"
    ]
    assert counts == [{"locked": 100 - MAX_LINES}, {"spoilt": 100 - (MAX_LINES - 1)}]


def test_after_a_quiet_time_each_infohash_has_a_line_again() -> None:
    setting = Setting()
    with capture_logs() as lines:
        setting.get_into_trouble(MAX_LINES)
        setting.now += PERIOD
        setting.get_into_trouble(MAX_LINES)
    assert {line["event"] for line in lines} == {"dht_record_troubled"}
    assert len(lines) == 2 * MAX_LINES


def test_the_service_tells_of_them_when_the_time_has_come() -> None:
    async def main(loop: Loop) -> None:
        async with running(World(loop)) as world:
            world.meet(8)
            with capture_logs() as lines:
                for number in range(MAX_LINES + 3):
                    world.service.directory.alarms.note(bytes([number]) * 20, (), {Trouble.SPOILT})
                await asyncio.sleep(2 * PERIOD)
            assert [line["more"] for line in lines if line["event"] == "dht_records_troubled"] == [3]

    in_virtual_time(main)


Step = tuple[int, bool, set[Trouble]]


@given(
    st.lists(st.tuples(st.integers(0, 50), st.booleans(), st.sets(st.sampled_from(Trouble), min_size=1)), max_size=100)
)
def test_no_infohash_is_lost_and_no_minute_has_many_lines(steps: list[Step]) -> None:
    setting, counts = Setting(), {True: 0, False: 0}
    times: list[float] = []
    seen: list[Any] = []
    with capture_logs() as lines:
        for seconds, is_begun, kinds in steps:
            setting.now += seconds
            setting.alarms.flush()
            setting.alarms.note(HASH, () if is_begun else kinds, kinds if is_begun else ())
            counts[is_begun] += 1
            times += [setting.now] * (len(lines) - len(times))
        setting.now += PERIOD
        setting.alarms.flush()
        seen = list(lines)
    told = {"dht_record_troubled": 0, "dht_record_recovered": 0}
    for line in seen:
        if line["event"] == "dht_records_troubled":
            told["dht_record_troubled"] += line["more"]
            told["dht_record_recovered"] += line["recovered"]
        else:
            told[line["event"]] += 1
    assert list(told.values()) == [counts[True], counts[False]]
    for time in times:
        # Two periods may meet in a minute.
        assert sum(time <= other < time + PERIOD for other in times) <= 2 * MAX_LINES
