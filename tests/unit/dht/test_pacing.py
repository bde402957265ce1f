"""How fast: never more than what was agreed, and no slower than that."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.dht.krpc.messages import Address
from extensions.dht.krpc.pacing import FAIR, FIRST, NODE_RATE, WINDOW, NodePace, Queue

HERE, THERE = ("192.0.2.1", 6881), ("192.0.2.2", 6881)

reproducible = settings(derandomize=True)
gaps = st.sampled_from([0.0, 0.0, 0.0, 0.1, 0.25, 0.5, 1.0, 3.0]) | st.floats(0, 2)


# Packets to a node


def test_a_free_node_is_written_to_at_once() -> None:
    pace = NodePace()
    assert [pace.grant(HERE, 5.0) for _ in range(NODE_RATE)] == [5.0] * NODE_RATE
    assert pace.grant(THERE, 5.0) == 5.0
    assert pace.grant(HERE, 5.0 + WINDOW) == 5.0 + WINDOW


def test_those_who_wait_come_one_by_one() -> None:
    pace = NodePace(rate=2)
    waits = [pace.grant(HERE, 5.0) - 5.0 for _ in range(7)]
    assert waits == pytest.approx([0, 0, WINDOW, WINDOW, 2 * WINDOW, 2 * WINDOW, 3 * WINDOW])
    # Nobody overtakes them.
    assert pace.grant(HERE, 5.5) == pytest.approx(5.0 + 3 * WINDOW)


def test_ports_of_a_host_are_nodes_of_their_own() -> None:
    pace = NodePace(rate=1)
    assert pace.grant(("192.0.2.1", 1), 5.0) == pace.grant(("192.0.2.1", 2), 5.0) == 5.0


@given(st.integers(1, 6), st.floats(0, 1e6), st.lists(st.tuples(gaps, st.sampled_from([HERE, THERE]), st.booleans())))
@settings(reproducible, max_examples=200)
def test_never_more_than_the_rate_in_any_second(
    rate: int, now: float, steps: list[tuple[float, Address, bool]]
) -> None:
    pace = NodePace(rate)
    granted: dict[Address, list[float]] = {HERE: [], THERE: []}
    for gap, address, forgets in steps:
        now += gap
        if forgets:
            pace.forget(now)
        when = pace.grant(address, now)
        times = granted[address]
        assert when >= now
        assert len(times) < rate or when >= times[-rate] + WINDOW
        # No later than it must be.
        assert when == now or when == times[-rate] + WINDOW
        assert not times or when >= times[-1]
        times.append(when)


def test_what_no_longer_matters_is_forgotten() -> None:
    pace = NodePace(rate=1)
    pace.grant(HERE, 5.0)
    pace.grant(THERE, 5.0)
    pace.grant(THERE, 5.0)
    pace.forget(5.9)
    assert len(pace) == 2
    pace.forget(6.1)
    assert len(pace) == 1
    assert pace.grant(THERE, 6.1) == 5.0 + 2 * WINDOW
    pace.forget(8.1)
    assert len(pace) == 0


# Jobs

SOON = 1e-6
"""So much longer than computed it waits, because of what is lost in rounding."""


def started(queue: Queue[str], now: float) -> str:
    """All that may start now."""
    jobs = ""
    while job := queue.take(now):
        jobs += job
    return jobs


def queue_of(jobs: str, parallel: int = 100, rate: float = 1.0, burst: float = 100.0) -> Queue[str]:
    queue: Queue[str] = Queue(parallel, rate, burst)
    for job in jobs:
        queue.put(0, job)
    return queue


def test_the_most_urgent_first_and_then_in_the_order_of_their_coming() -> None:
    queue = queue_of("")
    for urgency, job in [(2, "d"), (1, "b"), (2, "e"), (0, "a"), (1, "c"), (2, "f")]:
        queue.put(urgency, job)
    assert len(queue) == 6
    assert started(queue, 0) == "abcdef"
    assert len(queue) == 0


def test_every_third_is_the_oldest_but_not_while_somebody_waits() -> None:
    queue = queue_of("")
    for urgency, job in [(3, "z"), (2, "y"), *((1, job) for job in "abcdef"), *((0, job) for job in "123456")]:
        queue.put(urgency, job)
    assert started(queue, 0) == "123456" + "abz" + "cdy" + "ef"


def test_one_that_is_removed_uses_no_turn() -> None:
    queue = queue_of("abc", parallel=2, rate=1.0, burst=2.0)
    queue.remove("a")
    queue.remove("x")
    assert (len(queue), started(queue, 0)) == (2, "bc")


def test_a_turn_that_is_given_back_is_for_another() -> None:
    queue = queue_of("ab", parallel=1, rate=1.0, burst=1.0)
    assert queue.take(0) == "a"
    queue.give_back()
    assert queue.take(0) == "b"
    assert queue.running == 1


def test_a_late_and_urgent_one_goes_before_those_who_wait() -> None:
    queue = queue_of("abc", parallel=1)
    assert started(queue, 0) == "a"
    queue.put(-1, "z")
    queue.done()
    assert started(queue, 0) == "z"


def test_jobs_are_not_compared() -> None:
    queue: Queue[object] = Queue(1, 1.0, 1.0)
    first = object()
    queue.put(0, first)
    queue.put(0, object())
    assert queue.take(0) is first


def test_so_many_at_a_time() -> None:
    queue = queue_of("abcde", parallel=2)
    assert started(queue, 0) == "ab"
    assert queue.running == 2
    # It is the others that it waits for.
    assert queue.wait(0) is None
    queue.done()
    assert queue.wait(0) == SOON
    assert started(queue, 0) == "c"


def test_so_many_per_second_after_a_burst() -> None:
    queue = queue_of("abcdefghijklmnop", rate=2.0, burst=3.0)
    assert started(queue, 100.0) == "abc"
    assert queue.wait(100.0) == 0.5 + SOON
    assert started(queue, 100.25) == ""
    assert queue.wait(100.25) == 0.25 + SOON
    assert started(queue, 100.5) == "d"
    assert started(queue, 101.5) == "ef"
    # A long rest makes no longer burst.
    assert started(queue, 1000.0) == "ghi"


def test_an_empty_queue_waits_for_nothing() -> None:
    queue = queue_of("a", burst=1.0)
    assert queue.take(0) == "a"
    assert queue.wait(0) is None
    assert queue.take(5) is None
    assert queue.running == 1


@pytest.mark.parametrize("back", [0.1, 50.0])
def test_a_clock_that_goes_back_gives_and_takes_nothing(back: float) -> None:
    queue = queue_of("abcdefgh", rate=1.0, burst=2.0)
    assert started(queue, 100.0) == "ab"
    assert started(queue, 100.0 - back) == ""
    assert started(queue, 101.25 - back) == "c"


@given(
    parallel=st.integers(1, 5),
    rate=st.floats(0.5, 20),
    burst=st.floats(1, 10),
    start=st.floats(0, 1e6),
    steps=st.lists(st.tuples(gaps, st.integers(0, 4), st.integers(0, 2), st.booleans()), max_size=60),
)
@settings(reproducible, max_examples=150)
def test_nothing_starts_too_early_nor_too_late(
    parallel: int, rate: float, burst: float, start: float, steps: list[tuple[float, int, int, bool]]
) -> None:
    queue: Queue[tuple[int, int]] = Queue(parallel, rate, burst)
    waiting: list[tuple[int, int]] = []
    times: list[float] = []
    now, running, number, others = start, 0, 0, 0

    def next_job() -> tuple[int, int]:
        nonlocal others
        if min(waiting)[0] == FIRST:
            return min(waiting)
        others += 1
        return min(waiting, key=lambda job: job[1]) if others % FAIR == 0 else min(waiting)

    for gap, more, urgency, ends in steps:
        now += gap
        for _ in range(more):
            number += 1
            waiting.append((urgency, number))
            queue.put(urgency, (urgency, number))
        if ends and running:
            queue.done()
            running -= 1
        while (job := queue.take(now)) is not None:
            assert job == next_job()
            waiting.remove(job)
            times.append(now)
            running += 1
        assert (queue.running, len(queue)) == (running, len(waiting))
        assert running <= parallel
        wait = queue.wait(now)
        assert (wait is None) == (not waiting or running == parallel)
        if wait is not None:
            # A time that is told is kept: no job before it, and one then.
            assert wait >= SOON
            assert queue.take(now + max(0.0, wait * 0.99 - 2 * SOON)) is None
            now += wait
            job = next_job()
            assert queue.take(now) == job
            waiting.remove(job)
            times.append(now)
            running += 1
    for first, since in enumerate(times):
        for count, when in enumerate(times[first:], 1):
            assert count <= burst + (when - since) * rate + 1e-3
