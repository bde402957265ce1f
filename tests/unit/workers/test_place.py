"""When a worker that has ended is started again."""

from itertools import pairwise

from tracker.workers.place import MAX_DELAY, YOUNG, Restarts


def test_the_delay_doubles_with_each_failure() -> None:
    restarts = Restarts()
    delays = [restarts.delay(0.5, was_ready=False) for _ in range(10)]
    assert delays[0] > 0
    assert all(later in (2 * earlier, MAX_DELAY) for earlier, later in pairwise(delays))
    assert delays[-1] == MAX_DELAY
    assert restarts.failures == 10


def test_a_worker_that_has_served_for_long_is_started_at_once() -> None:
    restarts = Restarts()
    first = restarts.delay(1.0, was_ready=True)
    assert restarts.delay(YOUNG, was_ready=True) == 0
    assert restarts.failures == 0
    assert restarts.delay(1.0, was_ready=True) == first


def test_a_start_that_takes_long_and_fails_is_a_failure() -> None:
    assert Restarts().delay(10 * YOUNG, was_ready=False) > 0
