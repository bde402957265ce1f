"""Tags and filters: which swarms a tracker may have."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from extensions.federation import filters, wire
from extensions.federation.filters import (
    MAX_BYTES,
    MAX_FILL,
    MAX_PARTS,
    OwnSwarms,
    TheirFilter,
    add_tag,
    has_tag,
    part_of,
    room_in,
    tag_of,
)
from tests.client import HASH
from tests.unit.federation.links import own_swarms

tags = st.integers(0, 2**64 - 1)
numbers_of_parts = st.sampled_from([1, 2, 4, 8, 16, 32, 64])


def fill(bits: bytes | bytearray) -> float:
    """Return the share of bits that are set."""
    return int.from_bytes(bits, "big").bit_count() / (8 * len(bits))


def received(swarms: OwnSwarms) -> TheirFilter:
    """Return the filter that a neighbour has after the tracker with these swarms has sent its own."""
    their = TheirFilter()
    for number, part in enumerate(swarms.parts):
        their.put(number, len(swarms.parts), bytes(part.bits))
    return their


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter is divided as soon as there are a few swarms in each part."""
    monkeypatch.setattr(filters, "TAGS_PER_PART", 8)
    monkeypatch.setattr(filters, "MIN_TAGS", 4)
    monkeypatch.setattr(filters, "STALE", 2)


@given(st.sets(tags, max_size=100), st.integers(1, 500))
def test_no_tag_that_was_added_is_missed(added: set[int], length: int) -> None:
    bits = bytearray(length)
    for tag in added:
        add_tag(bits, tag)
    assert all(has_tag(bits, tag) for tag in added)


@given(tags, st.integers(1, 100))
def test_a_tag_sets_as_many_bits_as_there_are_hashes(tag: int, length: int) -> None:
    bits = bytearray(length)
    add_tag(bits, tag)
    assert int.from_bytes(bits, "big").bit_count() == filters.HASHES


@given(tags, numbers_of_parts)
def test_the_first_bits_of_a_tag_tell_its_part(tag: int, parts: int) -> None:
    assert part_of(tag, parts) == int(f"0{tag:064b}"[: parts.bit_length()], 2)


def test_infohashes_chosen_to_fill_a_filter_cannot_make_it_invalid() -> None:
    """Clients choose infohashes. Neighbours would end their links with a tracker whose filter is too full."""
    swarms, numbers = OwnSwarms(), iter(range(10**9))
    for _ in range(filters.MIN_TAGS):
        for number in numbers:
            bits = bytearray(swarms.parts[0].bits)
            before = fill(bits)
            add_tag(bits, tag_of(f"{number:020}"))
            if (fill(bits) - before) * 8 * len(bits) > filters.HASHES - 0.5:
                break
        swarms.add(f"{number:020}")
        assert fill(swarms.parts[0].bits) <= MAX_FILL


def test_a_filter_takes_one_tag_of_a_hundred_for_its_own() -> None:
    draw = random.Random(1)
    swarms = OwnSwarms()
    for number in range(10_000):
        swarms.add(f"{number:020}")
        # Also just before a part is made anew, when it is fullest.
        if number in (31, 1000, 4000, 9999):
            their = received(swarms)
            found = sum(their.has(draw.getrandbits(64)) for _ in range(20_000))
            assert found < 0.015 * 20_000


def test_100000_swarms_are_bounded() -> None:
    number = 100_000
    swarms = own_swarms(*(f"{n:020}" for n in range(number)))
    assert len(swarms) == number
    assert number / filters.TAGS_PER_PART <= len(swarms.parts) <= MAX_PARTS
    assert len(swarms.parts).bit_count() == 1
    assert all(len(part.bits) <= MAX_BYTES and fill(part.bits) <= MAX_FILL for part in swarms.parts)
    their = received(swarms)
    assert their.size == sum(len(part.bits) for part in swarms.parts) < 2 * number
    assert all(their.has(tag_of(f"{n:020}")) for n in range(number))
    for n in range(0, number, 2):
        swarms.remove(f"{n:020}")
    assert all(part.is_stale for part in swarms.parts)
    for part in swarms.parts:
        part.rebuild()
    their = received(swarms)
    assert their.size < number
    assert all(their.has(tag_of(f"{n:020}")) for n in range(1, number, 2))
    for n in range(1, number, 2):
        swarms.remove(f"{n:020}")
    assert len(swarms) == 0
    assert not any(swarms.within(0, 1))


@pytest.mark.usefixtures("small_parts")
def test_beyond_all_room_swarms_are_left_out_and_parts_stay_plausible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "MAX_PARTS", 4)
    monkeypatch.setattr(filters, "MAX_BYTES", 32)
    monkeypatch.setattr(filters, "MAX_TAGS", 25)
    swarms = own_swarms(*(f"{n:020}" for n in range(1000)))
    assert len(swarms.parts) == 4
    for part in swarms.parts:
        for _ in range(2):
            assert len(part.bits) == 32
            assert room_in(bytes(part.bits)) >= 0
            assert sum(has_tag(part.bits, tag) for tag in part.tags) >= filters.MAX_TAGS
            part.rebuild()
    assert len(swarms) == len(list(swarms.within(0, 1))) == 1000, "all are found by name"


@pytest.mark.usefixtures("small_parts")
def test_a_divided_filter_is_sent_once() -> None:
    swarms = own_swarms(*(f"{n:020}" for n in range(9)))
    assert len(swarms.parts) == 2
    for part in swarms.parts:
        assert part.is_due
        part.is_due = False
        assert all(has_tag(part.bits, tag) for tag in part.tags)
        assert not part.is_due
        swarms.remove(next(iter(part.tags.values())))
    swarms.add(f"{9:020}")
    assert not any(part.is_due for part in swarms.parts)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("number", [0, 1, 8, 9, 100, 1000])
@pytest.mark.parametrize("theirs", [1, 2, 16, 64])
def test_a_part_of_another_filter_covers_the_swarms_with_its_first_bits(number: int, theirs: int) -> None:
    swarms = own_swarms(*(f"{n:020}" for n in range(number)))
    found = [list(swarms.within(part, theirs)) for part in range(theirs)]
    assert all(part_of(tag, theirs) == part for part in range(theirs) for tag, _ in found[part])
    assert all(tag_of(info_hash) == tag for some in found for tag, info_hash in some)
    assert sorted(info_hash for some in found for _, info_hash in some) == [f"{n:020}" for n in range(number)]


@pytest.mark.usefixtures("small_parts")
def test_swarms_may_open_and_close_while_a_part_is_looked_through() -> None:
    swarms = own_swarms(*(f"{n:020}" for n in range(20)))
    found = []
    for _, info_hash in swarms.within(0, 1):
        found.append(info_hash)
        swarms.remove(info_hash)
        swarms.add(f"x{info_hash[1:]}")
    assert len(set(found)) == len(found) >= 20


def test_of_two_swarms_with_one_tag_the_first_has_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "tag_of", lambda _: 5)
    swarms = own_swarms("first", "second")
    assert ("first" in swarms, "second" in swarms, len(swarms)) == (True, False, 1)
    assert swarms.info_hash_of(5) == "first"
    swarms.remove("second")
    assert swarms.info_hash_of(5) == "first"
    swarms.remove("first")
    assert (swarms.info_hash_of(5), len(swarms)) == (None, 0)
    swarms.add("second")
    assert swarms.info_hash_of(5) == "second"


def test_a_swarm_that_opens_or_closes_twice_counts_once() -> None:
    swarms = own_swarms(HASH, HASH)
    assert (len(swarms), list(swarms.within(0, 1))) == (1, [(tag_of(HASH), HASH)])
    swarms.remove(HASH)
    swarms.remove(HASH)
    assert (len(swarms), HASH in swarms, swarms.info_hash_of(tag_of(HASH))) == (0, False, None)
    assert swarms.tag_of(HASH) == tag_of(HASH)


# The filter of a neighbour


def test_without_a_filter_a_neighbour_has_nothing() -> None:
    their = TheirFilter()
    their.add(5)
    assert (their.has(5), their.size) == (False, 0)
    assert their.growth(0, 2, b"123") == 3
    their.put(0, 2, b"\xff\x0f\x00")
    assert their.has(5)
    assert not their.has(2**63), "that part has not come"
    their.add(2**63)
    assert not their.has(2**63)


def test_the_size_of_a_filter_is_that_of_its_parts() -> None:
    their = TheirFilter()
    their.put(0, 1, bytes(10))
    assert their.size == 10
    assert their.growth(0, 1, bytes(4)) == -6
    their.put(0, 1, bytes(4))
    assert their.growth(1, 2, bytes(3)) == -1
    their.put(1, 2, bytes(3))
    assert their.size == 3, "the whole of the earlier filter is gone"
    their.put(0, 2, bytes(5))
    assert their.size == 8


@given(st.lists(tags, max_size=1000), st.integers(1, 40), numbers_of_parts)
@settings(max_examples=30)
def test_tags_that_are_added_claim_no_more_than_a_filter_may(added: list[int], length: int, parts: int) -> None:
    """Otherwise two messages are enough to claim all swarms."""
    their = TheirFilter()
    for part in range(parts):
        their.put(part, parts, bytes(length))
    for tag in added:
        their.add(tag)
    draw = random.Random(1)
    assert sum(their.has(draw.getrandbits(64)) for _ in range(500)) < 500 / 2


class Neighbours(RuleBasedStateMachine):
    """A tracker whose swarms open and close, and a neighbour that it tells of them."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        for name, value in {"TAGS_PER_PART": 8, "MIN_TAGS": 6, "MAX_PARTS": 16, "STALE": 3}.items():
            self.patch.setattr(filters, name, value)
        self.swarms = OwnSwarms()
        self.open: set[str] = set()
        self.their = received(self.swarms)
        self.others = OwnSwarms()
        """Swarms of the neighbour, which has another number of parts."""

    def teardown(self) -> None:
        self.patch.undo()

    @initialize(number=st.integers(0, 100))
    def neighbour_has_swarms(self, number: int) -> None:
        for n in range(number):
            self.others.add(f"{n:020}")

    @rule(first=st.integers(0, 300), number=st.integers(1, 40), told=st.booleans())
    def swarms_open(self, first: int, number: int, told: bool) -> None:
        for n in range(first, first + number):
            self.open.add(f"{n:020}")
            tag = self.swarms.add(f"{n:020}")
            if told:
                self.their.add(tag)
            else:
                self.swarms.part(tag).is_due = True

    @rule(first=st.integers(0, 300), number=st.integers(1, 40))
    def swarms_close(self, first: int, number: int) -> None:
        for n in range(first, first + number):
            self.open.discard(f"{n:020}")
            self.swarms.remove(f"{n:020}")

    @rule()
    def changed_parts_are_sent(self) -> None:
        for number, part in enumerate(self.swarms.parts):
            if part.is_stale:
                part.rebuild()
            if part.is_due:
                part.is_due = False
                self.their.put(number, len(self.swarms.parts), bytes(part.bits))
        assert all(self.their.has(tag_of(info_hash)) for info_hash in self.open)
        found: list[str] = []
        parts = len(self.swarms.parts)
        for number in range(parts):
            within = self.others.within(number, parts)
            found += (info_hash for tag, info_hash in within if self.their.has(tag))
        assert len(set(found)) == len(found)
        assert {info_hash for _, info_hash in self.others.within(0, 1)} & self.open <= set(found)

    @invariant()
    def own_filter_holds_all_open_swarms(self) -> None:
        assert len(self.swarms) == len(self.open)
        assert all(has_tag(self.swarms.part(tag_of(one)).bits, tag_of(one)) for one in self.open)

    @invariant()
    def every_part_is_a_message(self) -> None:
        for message in messages(self.swarms):
            (decoded,) = wire.decode(message)
            assert isinstance(decoded, wire.Filter)
            assert fill(decoded.bits) <= MAX_FILL


def messages(swarms: OwnSwarms) -> Iterator[bytes]:
    """Yield the messages with the filter."""
    for number, part in enumerate(swarms.parts):
        yield wire.encode(wire.Filter(number, len(swarms.parts), bytes(part.bits)))


Neighbours.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestNeighbours = Neighbours.TestCase
