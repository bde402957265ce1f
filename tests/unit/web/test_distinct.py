"""The number of distinct items that several processes have."""

import random

import pytest

from tracker.web.distinct import EMPTY, LIMIT, Distinct, distinct


def sketch(items: range) -> bytes:
    found = Distinct()
    for item in items:
        found.add(f"item {item}")
    return found.pack()


def test_few_items_are_counted_exactly() -> None:
    assert distinct([]) == 0
    assert distinct([EMPTY]) == 0
    assert distinct([sketch(range(100)), sketch(range(50, 150)), sketch(range(100))]) == 150


@pytest.mark.parametrize("count", [LIMIT + 1, 10_000, 50_000])
def test_many_items_are_estimated(count: int) -> None:
    half = count // 2
    total = distinct([sketch(range(count)), sketch(range(half, count + half)), sketch(range(10))])
    # Five standard errors.
    assert abs(total - (count + half)) < 5 * 0.022 * (count + half)
    assert len(sketch(range(count))) <= 1 + 4 * LIMIT


def test_the_order_does_not_matter() -> None:
    sketches = [sketch(range(9000)), sketch(range(100)), sketch(range(5000, 12000))]
    total = distinct(sketches)
    random.Random(1).shuffle(sketches)
    assert distinct(sketches) == total


@pytest.mark.parametrize("data", [b"", b"\0\0", b"\xff", bytes(1 + 4 * LIMIT + 4)])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a sketch"):
        Distinct.unpack(data)
    assert distinct([data, sketch(range(3))]) == 3
