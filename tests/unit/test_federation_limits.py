"""What a link may cost."""

from hypothesis import given
from hypothesis import strategies as st

from extensions.federation.limits import Room
from tracker.limits import Bucket

steps = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 50)), max_size=50)


def test_a_burst_then_so_much_a_second() -> None:
    bucket = Bucket(rate=10, burst=100, now=5)
    assert bucket.has(100, 5)
    assert not bucket.has(1, 5)
    assert bucket.has(10, 6)
    assert not bucket.has(1, 6)


def test_it_never_holds_more_than_a_burst() -> None:
    bucket = Bucket(rate=10, burst=100, now=0)
    assert not bucket.has(101, 1_000_000)
    assert bucket.has(100, 1_000_000)


def test_what_is_not_there_is_not_taken_and_what_is_less_still_is() -> None:
    bucket = Bucket(rate=1, burst=10, now=0)
    assert not bucket.has(11, 0)
    assert bucket.has(10, 0)


def test_taking_more_than_there_is_says_how_long_to_wait() -> None:
    bucket = Bucket(rate=10, burst=100, now=0)
    assert bucket.take(60, 0) == 0
    assert bucket.take(60, 0) == 2
    assert bucket.take(10, 0) == 3
    assert bucket.take(0, 2) == 1
    assert not bucket.has(1, 3)
    assert bucket.has(10, 4)


def test_nothing_can_always_be_taken_from_a_bucket_without_debts() -> None:
    bucket = Bucket(rate=1, burst=1, now=0)
    assert bucket.has(1, 0)
    assert bucket.has(0, 0)


@given(steps)
def test_whatever_is_asked_for_no_more_comes_than_burst_and_rate(asked: list[tuple[float, float]]) -> None:
    now, taken = 0.0, 0.0
    bucket = Bucket(rate=7, burst=60, now=now)
    for amount, pause in asked:
        now += pause
        if bucket.has(amount, now):
            taken += amount
        assert taken <= 60 + 7 * now + 1e-6


@given(steps)
def test_who_waits_as_long_as_told_keeps_to_the_rate(asked: list[tuple[float, float]]) -> None:
    now, taken = 0.0, 0.0
    bucket = Bucket(rate=7, burst=60, now=now)
    for amount, pause in asked:
        now += pause
        wait = bucket.take(amount, now)
        assert wait >= 0
        now += wait
        taken += amount
        assert taken <= 60 + 7 * now + 1e-6


def test_a_room_has_so_many_places() -> None:
    assert Room(3).left == 3
