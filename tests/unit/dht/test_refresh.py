"""How often our own entry is written: as fast as its copies vanish."""

import gc
import sys
from math import inf, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extensions.dht.records.keys import DAY
from extensions.dht.records.trouble import MAX_OWN_AGE, SETTLED
from extensions.dht.refresh import FRESH, LOOKS, MIN_AGE, REFRESH, SHORTEST, OwnEntry
from extensions.entries import LIFETIME
from tests.unit.dht.entries import NOW

R0, TODAY = b"r0", NOW // DAY


def earliest(first: float, _last: float) -> float:
    return first


def looked(*looks: tuple[float, int], taken: int = 8) -> OwnEntry:
    """Return an entry that so many nodes took, and of which each look showed copies after so many seconds."""
    own = OwnEntry()
    own.note_stored(R0, TODAY, NOW, taken)
    for age, copies in looks:
        own.note_look(R0, TODAY, NOW, NOW + age, copies)
    return own


def test_without_a_look_an_entry_is_written_every_hour() -> None:
    assert OwnEntry().interval(earliest) == REFRESH[0]
    assert OwnEntry().is_fresh(FRESH + 1)
    assert not OwnEntry().is_fresh(FRESH)


@pytest.mark.parametrize(("age", "copies"), [(3600.0, 8), (3600.0, 9), (3600.0, 5), (MIN_AGE, 7)])
def test_in_a_calm_network_it_is_written_as_rarely(age: float, copies: int) -> None:
    assert looked((age, copies)).interval(earliest) == REFRESH[0]


@pytest.mark.parametrize("half_life", [15, 20, 30])
def test_it_is_written_when_about_three_copies_are_left(half_life: float) -> None:
    # After two half-lives, two of eight copies are left.
    own = looked((120 * half_life, 2))
    assert own.interval(earliest) == pytest.approx(60 * half_life * log(8 / 3, 2))
    assert own.is_fresh(LIFETIME - 0.7 * own.interval(earliest))
    assert not own.is_fresh(LIFETIME - 0.9 * own.interval(earliest))


def test_the_copies_that_nodes_have_taken_count() -> None:
    assert looked((3600.0, 4), taken=4).interval(earliest) == REFRESH[0]
    assert looked((3600.0, 1), taken=4).longest == pytest.approx(3600 * log(8 / 3) / log(4))


@pytest.mark.parametrize(("taken", "copies", "of_eight"), [(8, 8, 8), (8, 6, 6), (16, 12, 6), (4, 3, 6), (8, 11, 8)])
def test_copies_are_told_as_of_eight_nodes(taken: int, copies: int, of_eight: float) -> None:
    """In a network of IPv4 and IPv6, sixteen nodes take an entry."""
    assert looked(taken=taken).note_look(R0, TODAY, NOW, NOW + 1200, copies) == of_eight
    assert looked(taken=taken).note_look(R0, TODAY, NOW, NOW + 60, copies) == 0


def test_the_median_of_the_last_looks_counts() -> None:
    assert looked((1200.0, 1), (3600.0, 8), (3600.0, 8)).interval(earliest) == REFRESH[0]
    assert looked(*[(3600.0, 8)] * 9, *[(1200.0, 1)] * (LOOKS // 2 + 1)).interval(earliest) == SHORTEST


@pytest.mark.parametrize(("age", "copies"), [(MIN_AGE - 1, 1), (-3600.0, 1), (LIFETIME + 1, 1), (1200.0, 0)])
def test_looks_that_say_nothing_do_not_count(age: float, copies: int) -> None:
    """One packet that is lost soon after a write is no decay. Without any copy, nodes may withhold them."""
    assert looked((age, copies)).longest == inf


def test_looks_at_other_records_do_not_count() -> None:
    own = looked()
    own.note_look(R0, TODAY + 1, NOW, NOW + 1200, 1)
    own.note_look(b"r1", TODAY, NOW, NOW + 1200, 1)
    assert own.longest == inf


def test_in_trouble_the_number_of_copies_does_not_count() -> None:
    own = looked((1200.0, 1))
    own.is_doubtful = True
    assert own.interval(earliest) == REFRESH[0]


def test_an_entry_that_nodes_withhold_is_not_written_again_at_once() -> None:
    own = looked()
    assert own.withheld_until(R0, TODAY, NOW + 600) == 0
    own.alarms = 2
    assert own.withheld_until(R0, TODAY, NOW + 600) == NOW + LIFETIME
    assert own.withheld_until(R0, TODAY + 1, NOW + 600) == 0
    assert own.withheld_until(R0, TODAY, NOW - 600) == 0
    assert own.withheld_until(R0, TODAY, NOW + LIFETIME - FRESH) == 0


@given(st.lists(st.tuples(st.floats(-1e9, 1e9), st.integers(0, 100)), max_size=20), st.integers(0, 100))
def test_it_is_never_written_more_often_than_the_limit(looks: list[tuple[float, int]], taken: int) -> None:
    assert SHORTEST <= looked(*looks, taken=taken).interval(earliest) <= REFRESH[0]


def test_an_entry_is_expected_where_it_was_stored() -> None:
    own = looked()
    assert own.expected(TODAY, NOW + SETTLED - 1) == frozenset()
    assert own.expected(TODAY, NOW + SETTLED) == {R0}
    assert own.expected(TODAY + 1, NOW + SETTLED) == frozenset()
    assert own.expected(TODAY, NOW + MAX_OWN_AGE + 1) == frozenset()
    assert own.expected(TODAY, NOW - 1e6) == frozenset()
    own.forget()
    assert own.expected(TODAY, NOW + SETTLED) == frozenset()


def test_it_takes_little_memory() -> None:
    """A tracker has one for each of its infohashes, and most of them never change."""
    entry = looked(*[(3600, 7)] * (2 * LOOKS))
    parts = [entry, *gc.get_referents(entry)]
    assert sum(sys.getsizeof(part) for part in parts if not isinstance(part, type)) < 600
