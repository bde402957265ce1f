"""The order of lookups: single rules, and the whole against a simple model."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.dht.krpc.schedule import FAIR, SLACK, SPARE, DueQueue, Job, LookupLimits, Priority

reproducible = settings(derandomize=True)
ASKED, OPENED, REFRESHED, REPEATED = Priority
UNLIMITED = LookupLimits(10**9, 1e9, 1e9)


def name(number: int) -> bytes:
    return bytes([number]) * 20


A, B, C, D = map(name, range(4))


# The order


def enter(queue: DueQueue[bytes], key: bytes, due: float, priority: Priority, has_begun: bool = False) -> None:
    queue.set(key, Job(priority, due), has_begun=has_begun)


def taken(queue: DueQueue[bytes], now: float, may_begin: bool = True) -> list[tuple[bytes, Priority]]:
    """Take all turns that are possible. Each ends at once."""
    result = []
    while turn := queue.take(now, may_begin):
        queue.done()
        result.append((turn.key, turn.job.priority))
    return result


def queue_of(*entries: tuple[bytes, float, Priority], limits: LookupLimits = UNLIMITED) -> DueQueue[bytes]:
    queue: DueQueue[bytes] = DueQueue(limits)
    for entry in entries:
        enter(queue, *entry)
    return queue


def test_an_empty_queue_has_no_turns() -> None:
    queue = queue_of()
    assert (queue.take(1e9), queue.next_due(), queue.wait(1e9), len(queue)) == (None, None, None, 0)
    queue.drop(A)
    assert len(queue) == 0


def test_of_the_entries_that_are_due_the_most_urgent_comes_first() -> None:
    queue = queue_of((A, 10, REFRESHED), (B, 20, ASKED), (C, 30, OPENED), (D, 40, ASKED))
    assert taken(queue, 5) == []
    assert taken(queue, 30) == [(B, ASKED), (C, OPENED), (A, REFRESHED)]
    assert (len(queue), queue.next_due()) == (1, 40)


def test_of_equal_priority_the_oldest_comes_first() -> None:
    queue = queue_of((A, 20, OPENED), (B, 10, OPENED), (C, 20, OPENED))
    assert [key for key, _ in taken(queue, 30)] == [B, A, C]


def test_a_new_entry_replaces_the_old_one() -> None:
    queue = queue_of((A, 10, OPENED), (A, 50, REFRESHED))
    assert (len(queue), queue.next_due(), queue.take(40)) == (1, 50, None)
    enter(queue, A, 45, ASKED)
    assert taken(queue, 45) == [(A, ASKED)]
    assert (queue.take(100), queue.next_due(), len(queue)) == (None, None, 0)


def test_an_entry_that_is_due_already_can_be_postponed() -> None:
    queue = queue_of((A, 10, OPENED), (B, 10, ASKED))
    assert queue.overdue(10) == 2
    enter(queue, A, 30, OPENED)
    assert taken(queue, 20) == [(B, ASKED)]
    assert queue.next_due() == 30
    assert taken(queue, 30) == [(A, OPENED)]


def test_a_dropped_entry_has_no_turn_until_it_is_entered_again() -> None:
    queue = queue_of((A, 10, OPENED), (B, 5, OPENED))
    queue.drop(A)
    assert taken(queue, 10) == [(B, OPENED)]
    assert (queue.take(20), queue.next_due(), len(queue)) == (None, None, 0)
    enter(queue, A, 25, REPEATED)
    assert (taken(queue, 20), taken(queue, 25)) == ([], [(A, REPEATED)])


def test_every_third_turn_goes_to_the_oldest() -> None:
    queue = queue_of((A, 10, REPEATED), (B, 20, REFRESHED), *((name(number), 30, OPENED) for number in range(10, 16)))
    assert [priority for _, priority in taken(queue, 30)] == [1, 1, 3, 1, 1, 2, 1, 1]


def test_requested_lookups_come_before_all_others_and_do_not_count_for_the_third() -> None:
    queue = queue_of((A, 1, REPEATED), *((name(number), 30, OPENED) for number in range(10, 14)))
    for number in range(20, 25):
        enter(queue, name(number), 30, ASKED, has_begun=True)
    assert [priority for _, priority in taken(queue, 30)] == [0] * 5 + [1, 1, 3, 1, 1]


def test_no_entry_waits_for_ever_however_many_urgent_ones_come() -> None:
    queue = queue_of((A, 0, REPEATED))
    for now in range(1, 100):
        enter(queue, name(now), now, OPENED)
        enter(queue, name(now + 100), now, OPENED)
        if A in {turn.key for turn in (queue.take(now), queue.take(now)) if turn}:
            return
    raise AssertionError


def test_lookups_of_a_job_that_has_begun_keep_its_age() -> None:
    queue = queue_of((A, 10, OPENED), (B, 30, OPENED), (C, 20, REFRESHED))
    enter(queue, D, 20, OPENED, has_begun=True)
    assert [key for key, _ in taken(queue, 30)] == [A, D, C, B]


def test_lookups_of_a_job_that_has_begun_are_due_at_once() -> None:
    queue = queue_of()
    enter(queue, A, 1e9, OPENED, has_begun=True)
    assert (queue.lookups, queue.overdue(0), taken(queue, 0), queue.lookups) == (1, 0, [(A, OPENED)], 0)


def test_while_no_job_may_begin_those_that_have_begun_go_on() -> None:
    queue = queue_of((A, 10, ASKED), (B, 20, OPENED))
    enter(queue, C, 10, REPEATED, has_begun=True)
    assert taken(queue, 20, may_begin=False) == [(C, REPEATED)]
    assert (queue.wait(20, may_begin=False), queue.overdue(20)) == (None, 2)
    assert [key for key, _ in taken(queue, 20)] == [A, B]


def test_jobs_that_are_due_and_lookups_that_wait_are_counted() -> None:
    queue = queue_of((A, 10, OPENED), (B, 10, REFRESHED), (C, 20, OPENED))
    enter(queue, D, 0, ASKED, has_begun=True)
    assert (queue.overdue(5), queue.overdue(10), queue.lookups) == (0, 2, 1)
    enter(queue, A, 30, OPENED)
    queue.drop(B)
    queue.drop(D)
    assert (queue.overdue(10), queue.overdue(20), queue.lookups) == (0, 1, 0)
    assert taken(queue, 20) == [(C, OPENED)]
    assert queue.overdue(25) == 0


def test_replaced_entries_take_little_memory() -> None:
    queue = queue_of()
    for number in range(10_000):
        enter(queue, name(number % 10), number % 7 * 1e6, Priority(number % 4), has_begun=number % 3 == 0)
        queue.overdue(3e6)
    assert queue.size <= 2 * len(queue) + SPARE + 1
    assert len(taken(queue, 1e9)) == 10


# The limits


def jobs(count: int, limits: LookupLimits) -> DueQueue[bytes]:
    return queue_of(*((name(number), 0.0, OPENED) for number in range(count)), limits=limits)


def begun(queue: DueQueue[bytes], now: float) -> int:
    """Take all turns that are possible, without an end."""
    count = 0
    while queue.take(now):
        count += 1
    return count


def test_a_limited_number_of_turns_run_at_a_time() -> None:
    queue = jobs(5, LookupLimits(2, 1.0, 100.0))
    assert (begun(queue, 0), queue.running) == (2, 2)
    # Only the end of a turn can change that.
    assert queue.wait(0) is None
    queue.done()
    assert queue.wait(0) == SLACK
    assert begun(queue, 0) == 1


def test_a_limited_number_of_turns_begin_per_second_after_a_burst() -> None:
    queue = jobs(16, LookupLimits(100, 2.0, 3.0))
    assert begun(queue, 100.0) == 3
    assert queue.wait(100.0) == 0.5 + SLACK
    assert begun(queue, 100.25) == 0
    assert queue.wait(100.25) == 0.25 + SLACK
    assert begun(queue, 100.5) == 1
    assert begun(queue, 101.5) == 2
    # A long rest makes no longer burst.
    assert begun(queue, 1000.0) == 3


def test_a_turn_that_is_given_back_counts_against_no_limit() -> None:
    queue = jobs(3, LookupLimits(1, 1e-9, 1.0))
    assert begun(queue, 0) == 1
    queue.give_back(0)
    assert (begun(queue, 0), queue.running) == (1, 1)
    queue.done()
    assert (begun(queue, 0), queue.running) == (0, 0)


def test_the_wait_ends_when_the_next_job_is_due() -> None:
    queue = queue_of((A, 50, OPENED))
    assert (queue.wait(20), queue.wait(20, may_begin=False)) == (30 + SLACK, None)


def test_keys_are_not_compared() -> None:
    queue: DueQueue[object] = DueQueue(UNLIMITED)
    first, second = object(), object()
    for key in (first, second):
        queue.set(key, Job(OPENED, 1.0))
    turns = [queue.take(1), queue.take(1)]
    assert [turn.key for turn in turns if turn] == [first, second]


@dataclass
class Entry:
    """The model's knowledge of one entry."""

    due: float
    priority: Priority
    has_begun: bool
    number: int


steps = st.tuples(
    st.sampled_from(["set", "set", "set", "begun", "drop", "take", "take", "take", "done", "give back"]),
    st.integers(0, 7).map(name),
    st.integers(-5, 20),
    st.sampled_from(Priority),
    st.sampled_from([0, 0, 0.1, 1, 5]),
    st.booleans(),
)


@pytest.mark.parametrize("limits", [UNLIMITED, LookupLimits(2, 2.0, 3.0)], ids=["unlimited", "limited"])
@given(happened=st.lists(steps, min_size=20, max_size=80))
@reproducible
def test_the_queue_behaves_as_its_model(
    limits: LookupLimits, happened: list[tuple[str, bytes, int, Priority, float, bool]]
) -> None:
    queue: DueQueue[bytes] = DueQueue(limits)
    model: dict[bytes, Entry] = {}
    now, counted, running, tokens = 100.0, 0, 0, limits.burst
    for number, (event, key, wait, priority, passed, may_begin) in enumerate(happened):
        now += passed
        tokens = min(limits.burst, tokens + passed * limits.rate)
        if event == "set":
            enter(queue, key, now + wait, priority)
            model[key] = Entry(now + wait, priority, False, number)
        elif event == "begun":
            enter(queue, key, now + wait, priority, has_begun=True)
            model[key] = Entry(now + wait, priority, True, number)
        elif event == "drop":
            queue.drop(key)
            model.pop(key, None)
        elif event == "done" and running:
            queue.done()
            running -= 1
        elif event == "give back" and running:
            queue.give_back(now)
            running, tokens = running - 1, tokens + 1
        due = [one for one, entry in model.items() if entry.has_begun or (entry.due <= now and may_begin)]
        is_free = running < limits.parallel
        if event == "take":
            turn = queue.take(now, may_begin)
            assert bool(turn) == (bool(due) and is_free and tokens > 1 - 1e-9)
            if turn:
                by_age = False
                if min(model[one].priority for one in due) != ASKED:
                    counted += 1
                    by_age = counted % FAIR == 0

                def rank(one: bytes, by_age: bool = by_age) -> tuple[float, ...]:
                    entry = model[one]
                    return (0 if by_age else entry.priority, entry.due, entry.number)

                assert turn.key == min(due, key=rank)
                entry = model.pop(turn.key)
                assert (turn.job.priority, turn.job.since, turn.has_begun) == (
                    entry.priority,
                    entry.due,
                    entry.has_begun,
                )
                running, tokens = running + 1, tokens - 1
        assert (queue.running, len(queue)) == (running, len(model))
        assert queue.lookups == sum(entry.has_begun for entry in model.values())
        assert queue.overdue(now) == sum(not entry.has_begun and entry.due <= now for entry in model.values())
        assert queue.next_due() == min((e.due for e in model.values() if not e.has_begun and e.due > now), default=None)


@given(
    parallel=st.integers(1, 5),
    rate=st.floats(0.5, 20),
    burst=st.floats(1, 10),
    start=st.floats(0, 1e6),
    steps=st.lists(
        st.tuples(st.sampled_from([0.0, 0.0, 0.1, 1.0]) | st.floats(0, 2), st.integers(0, 4), st.booleans()),
        max_size=60,
    ),
)
@settings(reproducible, max_examples=150)
def test_no_turn_comes_earlier_or_later_than_the_wait_says(
    parallel: int, rate: float, burst: float, start: float, steps: list[tuple[float, int, bool]]
) -> None:
    queue: DueQueue[int] = DueQueue(LookupLimits(parallel, rate, burst))
    times: list[float] = []
    now, entered = start, 0
    for gap, more, ends in steps:
        now += gap
        for _ in range(more):
            entered += 1
            queue.set(entered, Job(OPENED, now + entered % 2))
        if ends and queue.running:
            queue.done()
        while queue.take(now):
            times.append(now)
        assert queue.running <= parallel
        wait = queue.wait(now)
        assert (wait is None) == (not len(queue) or queue.running == parallel)
        if wait is not None:
            assert wait >= SLACK
            assert queue.take(now + max(0.0, wait * 0.99 - 2 * SLACK)) is None
            now += wait
            if queue.take(now):
                times.append(now)
            else:
                # It was the wait until a job is due, which then has to wait for the rate.
                assert queue.overdue(now)
                assert 1 / rate >= (queue.wait(now) or 0) - 2 * SLACK > 0
    for first, since in enumerate(times):
        for count, when in enumerate(times[first:], 1):
            assert count <= burst + (when - since) * rate + 1e-3
