"""The signs by which a slot is doubtful."""

from dataclasses import replace

import pytest

from extensions.dht.records.keys import SALTS, day_of
from extensions.dht.records.slots import LOCKED, Slot
from extensions.dht.records.trouble import MAX_AGE, NOTHING, SPREAD, Expected, Trouble, has_expected
from extensions.trackers import Sighting
from tests.unit.dht.entries import FULL, HASH, NOW, entry_of, slot_of, unsigned

R0, R1, R2 = SALTS
OWN = entry_of(9)
OURS = Expected(OWN.tracker_id, frozenset({R0, R1}))
THEIRS = Expected(OWN.tracker_id, has_others=lambda: True)


def answered(index: int, *entries: object) -> Slot:
    slot = slot_of(index, list(entries))  # type: ignore[arg-type]
    slot.answers = 8
    return slot


def test_without_an_answer_nothing_is_known() -> None:
    assert OURS.troubles(Slot(R0, is_dense=True)) == set()


@pytest.mark.parametrize("index", [0, 1])
def test_our_own_entry_must_be_where_it_is_expected(index: int) -> None:
    assert OURS.troubles(answered(index)) == {Trouble.EMPTIED}
    assert OURS.troubles(answered(index, entry_of(1))) == {Trouble.EMPTIED}
    assert OURS.troubles(answered(index, entry_of(1), OWN)) == set()
    assert NOTHING.troubles(answered(index)) == set()


def test_our_own_entry_may_be_missing_where_others_take_its_place() -> None:
    assert OURS.troubles(answered(0, *FULL)) == set()
    assert OURS.troubles(answered(2)) == set()


def test_the_first_slot_must_have_an_entry_if_there_are_other_trackers() -> None:
    assert THEIRS.troubles(answered(0)) == {Trouble.EMPTIED}
    assert THEIRS.troubles(answered(0, OWN)) == set()
    assert THEIRS.troubles(answered(1)) == set()


@pytest.mark.parametrize("expected", [OURS, THEIRS])
def test_a_locked_slot_cannot_have_an_entry(expected: Expected) -> None:
    """It is not emptied as well: the operator would read that entries are written again."""
    slot = answered(0)
    slot.seq = LOCKED
    assert expected.troubles(slot) == set()
    slot.is_dense = True
    assert expected.troubles(slot) == {Trouble.BLINDED}


def test_nodes_that_are_too_near_are_a_trouble() -> None:
    slot = answered(0)
    slot.is_dense = True
    assert NOTHING.troubles(slot) == {Trouble.BLINDED}


def test_near_nodes_are_no_trouble_if_others_have_an_entry() -> None:
    slot = answered(0, OWN)
    slot.is_dense = True
    assert OURS.troubles(slot) == set()


# The entries of others

NOON = NOW + 43200


def is_expected(age: float, where: str = "r0", passed: float = 43200, day: int = day_of(NOW)) -> bool:
    """Return whether an entry that was signed `age` seconds ago must be in the record of a day."""
    return has_expected([Sighting(entry_of(1, age - passed), where)], HASH, day, NOW + passed)


@pytest.mark.parametrize("where", ["r0", "r1", "r2", "link", "bep5", "cache"])
def test_an_entry_of_the_last_hour_is_expected_wherever_it_was_found(where: str) -> None:
    assert is_expected(600, where)


@pytest.mark.parametrize("where", ["s", "s0110"])
def test_an_entry_in_a_shard_is_not_expected_in_a_slot(where: str) -> None:
    assert not is_expected(600, where)


@pytest.mark.parametrize(
    ("age", "expected"),
    [(SPREAD - 1, False), (SPREAD, True), (MAX_AGE, True), (MAX_AGE + 1, False), (-600, False), (7200, False)],
)
def test_an_entry_that_was_just_signed_or_is_about_to_be_renewed_is_not_expected(age: float, expected: bool) -> None:
    assert is_expected(age) is expected


def test_after_midnight_an_entry_is_expected_in_the_record_of_the_day_on_which_it_was_signed() -> None:
    yesterday = day_of(NOW) - 1
    assert not is_expected(1200, passed=600)
    assert is_expected(1200, passed=600, day=yesterday)
    assert is_expected(300, passed=600)
    assert not is_expected(300, passed=600, day=yesterday)


def test_a_descriptor_and_a_forged_entry_are_not_expected() -> None:
    """A descriptor is signed for the rendezvous, and does not name the infohash."""
    entry = entry_of(1, 600 - 43200)
    assert not has_expected([Sighting(entry, "bep5")], bytes(20), day_of(NOW), NOON)
    forged = unsigned(1, entry.expires)
    assert not has_expected([Sighting(forged, "link")], HASH, day_of(NOW), NOON)
    assert not has_expected([Sighting(replace(entry, url="wss://other.example"), "link")], HASH, day_of(NOW), NOON)
    assert has_expected([Sighting(forged, "link"), Sighting(entry, "link")], HASH, day_of(NOW), NOON)
