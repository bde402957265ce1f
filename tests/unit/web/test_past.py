"""The counters of workers that have ended."""

from pathlib import Path

import pytest

from tracker.web.merging import Family, Merger
from tracker.web.past import PastCounters


def counters(value: float) -> list[Family]:
    return [Family("c", "", "counter", "", [("c_total", {}, value)])]


def total(past: list[list[Family]]) -> float:
    merger = Merger()
    for families in past:
        merger.add(families)
    return sum(value for family in merger.families() for _, _, value in family.samples)


@pytest.fixture
def past(tmp_path: Path) -> PastCounters:
    return PastCounters(tmp_path)


def test_workers_that_do_not_answer_have_their_latest_counters(past: PastCounters) -> None:
    assert total(past.exchange({0: counters(1), 1: counters(2), 2: counters(4)})[1]) == 0
    assert total(past.exchange({0: counters(8), 2: counters(4)})[1]) == 2
    assert total(past.exchange({1: counters(3)})[1]) == 8 + 4


def test_workers_that_have_ended_are_summed(past: PastCounters) -> None:
    past.exchange({0: counters(1), 1: counters(2), 2: counters(4)})
    past.save(1, counters(3))
    past.sum_up(1)
    past.sum_up(1)
    assert total(past.exchange({0: counters(1), 2: counters(4)})[1]) == 3
    past.sum_up(0)
    assert total(past.exchange({2: counters(4)})[1]) == 4
    # Its last answer comes too late, and its file is written once more.
    latest, late = past.exchange({1: counters(3), 2: counters(4)})
    assert latest.keys() == {2}
    assert total(late) == 4
    assert total(past.exchange({2: counters(4)})[1]) == 4
    past.sum_up(1)
    assert total(past.exchange({2: counters(4)})[1]) == 4


def test_a_worker_without_a_file_adds_nothing(past: PastCounters) -> None:
    past.sum_up(7)
    assert past.exchange({}) == ({}, [[]])


def test_files_that_cannot_be_read_or_written_are_no_error(past: PastCounters, tmp_path: Path) -> None:
    past.save(1, counters(1))
    (tmp_path / "counters" / "1").write_bytes(b"nonsense")
    assert total(past.exchange({})[1]) == 0
    past.sum_up(1)
    assert total(PastCounters(tmp_path / "missing").exchange({0: counters(1)})[1]) == 0


def test_a_newer_file_replaces_an_older_answer(past: PastCounters) -> None:
    past.exchange({0: counters(5), 1: counters(1)})
    latest, _ = past.exchange({0: counters(3), 1: counters(2)})
    assert {number: total([families]) for number, families in latest.items()} == {0: 5, 1: 2}
    assert total(past.exchange({})[1]) == 5 + 2
