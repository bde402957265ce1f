"""The order of lookups: single rules, and the whole against a simple model."""

from dataclasses import dataclass
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.dht.krpc.schedule import (
    FEW,
    FIRST,
    MANY,
    MAX_RAISE,
    ROUND,
    SLACK,
    SPARE,
    DueQueue,
    Job,
    LookupLimits,
    Priority,
)

reproducible = settings(derandomize=True)
ASKED, OPENED, REFRESHED, UNPUBLISHED, LINKED, REPEATED = Priority
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
    queue = queue_of((A, 10, LINKED), (B, 20, ASKED), (C, 30, OPENED), (D, 40, ASKED))
    assert taken(queue, 5) == []
    assert taken(queue, 30) == [(B, ASKED), (C, OPENED), (A, LINKED)]
    assert (len(queue), queue.next_due()) == (1, 40)


@pytest.mark.parametrize("priority", [ASKED, REFRESHED, REPEATED])
def test_of_equal_priority_the_oldest_comes_first(priority: Priority) -> None:
    queue = queue_of((A, 20, priority), (B, 10, priority), (C, 20, priority))
    assert [key for key, _ in taken(queue, 30)] == [B, A, C]


@pytest.mark.parametrize("priority", sorted(FIRST))
def test_of_the_swarms_that_have_opened_the_newest_comes_first(priority: Priority) -> None:
    queue = queue_of(*((name(number), 10, priority) for number in range(6)), (name(6), 9, priority))
    # The third turn goes by age.
    assert [key for key, _ in taken(queue, 10)] == [name(number) for number in (5, 4, 6, 3, 2, 1, 0)]


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


def test_of_four_turns_one_is_for_refreshes_and_one_goes_by_age() -> None:
    opened = [(name(number), 30, OPENED) for number in range(10, 18)]
    queue = queue_of((A, 10, REPEATED), (B, 20, REFRESHED), (C, 21, REFRESHED), (D, 15, LINKED), *opened)
    expected = [REFRESHED, OPENED, REPEATED, OPENED, REFRESHED, OPENED, LINKED, *[OPENED] * 5]
    assert [priority for _, priority in taken(queue, 30)] == expected


def test_requested_lookups_come_before_all_others_and_are_not_counted() -> None:
    queue = queue_of((A, 1, REPEATED), *((name(number), 30, OPENED) for number in range(10, 14)))
    for number in range(20, 25):
        enter(queue, name(number), 30, ASKED, has_begun=True)
    assert [priority for _, priority in taken(queue, 30)] == [ASKED] * 5 + [OPENED, OPENED, REPEATED, OPENED, OPENED]


@pytest.mark.parametrize("priority", [OPENED, REFRESHED, UNPUBLISHED, LINKED, REPEATED])
def test_no_entry_waits_for_ever_however_many_urgent_ones_come(priority: Priority) -> None:
    queue = queue_of((A, 0, priority))
    for now in range(1, 100):
        for number in range(2):
            enter(queue, name(now + 100 * number), now, OPENED)
        if A in {turn.key for turn in (queue.take(now), queue.take(now)) if turn}:
            return
    raise AssertionError


@pytest.mark.parametrize("others", [OPENED, REFRESHED, UNPUBLISHED, LINKED, REPEATED])
@pytest.mark.parametrize("priority", sorted(FIRST))
@pytest.mark.parametrize("has_begun", [False, True])
def test_the_swarm_that_opened_last_waits_for_three_turns_at_most(
    priority: Priority, others: Priority, has_begun: bool
) -> None:
    queue: DueQueue[object] = DueQueue(UNLIMITED)
    for number in range(MANY - 1 if has_begun else 1000):
        queue.set(number, Job(others, number % 7), has_begun=has_begun)
    for number in range(8):
        now = 10.0 + number
        queue.set("new", Job(priority, now))
        turns = [queue.take(now) for _ in range(4)]
        assert "new" in {turn.key for turn in turns if turn}


def test_while_many_lookups_wait_they_come_before_new_jobs() -> None:
    queue: DueQueue[object] = DueQueue(UNLIMITED)
    for number in range(MANY + 8):
        queue.set(number, Job(OPENED, 20.0), has_begun=True)
    queue.set("new", Job(OPENED, 30.0))
    turns = [queue.take(30.0) for _ in range(12)]
    assert [turn.has_begun for turn in turns if turn] == [*[True] * 9, False, True, True]


def test_swarms_to_publish_come_before_others_and_those_before_linked_ones() -> None:
    priorities = [REPEATED, LINKED, UNPUBLISHED, REFRESHED, OPENED]
    queue = queue_of(*((name(number), 10, priority) for number, priority in enumerate(priorities)))
    # The turns go to refreshes, the newest, the oldest, and by priority.
    assert [priority for _, priority in taken(queue, 10)] == [REFRESHED, OPENED, REPEATED, UNPUBLISHED, LINKED]
    queue = queue_of(*((name(number + 10 * priority), 10, priority) for priority in priorities for number in range(10)))
    order = [priority for number, (_, priority) in enumerate(taken(queue, 10)) if number % ROUND == 3]
    assert order == sorted(order)
    assert set(order) > {OPENED, UNPUBLISHED}


def test_refreshes_get_a_quarter_of_the_turns_whatever_else_is_due() -> None:
    queue: DueQueue[object] = DueQueue(UNLIMITED)
    for number in range(3000):
        queue.set(number, Job((OPENED, UNPUBLISHED, LINKED, REPEATED)[number % 4], 0.0))
        queue.set(-number, Job(REFRESHED, 1000.0 + number))
    turns = [queue.take(1e4) for _ in range(1000)]
    refreshed = [turn.key for turn in turns if turn and turn.job.priority == REFRESHED]
    # One after the other, none is left out.
    assert refreshed == [-number for number in range(250)]


@pytest.mark.parametrize("priority", [UNPUBLISHED, LINKED, REPEATED])
def test_a_job_that_waits_until_its_refresh_is_due_becomes_one(priority: Priority) -> None:
    since = 4.0 if priority in FIRST else 6.0
    # The oldest one has the turn that goes by age.
    queue = queue_of((D, 0, REPEATED), *((name(number), 5, priority) for number in range(10, 20)))
    queue.set(A, Job(priority, since, 50.0))
    queue.set(B, Job(priority, since, 60.0))
    turn = queue.take(49)
    assert turn
    assert turn.job.priority == priority
    assert (queue.overdue(50), queue.next_due()) == (12, None)
    turn = queue.take(55)
    while turn and turn.job.priority != REFRESHED:
        turn = queue.take(55)
    assert turn
    assert (turn.key, turn.job.priority, turn.job.since, turn.has_begun) == (A, REFRESHED, 50, False)
    assert [key for key, one in taken(queue, 60) if one == REFRESHED] == [B]
    # It is not taken a second time under its old priority.
    assert (len(queue), queue.take(100)) == (0, None)


def test_a_job_whose_refresh_is_due_first_is_entered_as_one() -> None:
    queue = queue_of()
    queue.set(A, Job(REPEATED, 100.0, 50.0))
    assert (queue.take(60), queue.next_due()) == (None, 100)
    assert taken(queue, 100) == [(A, REFRESHED)]


@pytest.mark.parametrize("priority", Priority)
def test_lookups_of_jobs_that_have_begun_come_first_of_their_priority(priority: Priority) -> None:
    queue = queue_of((A, 30, priority), (B, 30, priority))
    for number in range(10, 18):
        enter(queue, name(number), 25 - number, priority, has_begun=True)
    begun = [name(number) for number in range(17, 9, -1)]
    # The second turn of a round goes to a swarm that has opened.
    expected = [begun[0], B, *begun[1:4], A, *begun[4:]] if priority in FIRST else [*begun, A, B]
    assert [key for key, _ in taken(queue, 30)] == expected


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
        enter(queue, name(number % 10), number % 7 * 1e6, Priority(number % 6), has_begun=number % 3 == 0)
        queue.overdue(3e6)
    assert queue.size <= 4 * len(queue) + SPARE + 3
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


@pytest.mark.parametrize(("infohashes", "factor"), [(0, 1), (1, 1), (FEW, 1), (2 * FEW, 2), (10**6, MAX_RAISE)])
def test_many_infohashes_raise_the_limits(infohashes: int, factor: float) -> None:
    limits = LookupLimits().raised_for(infohashes)
    assert (limits.parallel, limits.rate, limits.burst) == (int(8 * factor), 6 * factor, 30)


def test_new_limits_take_effect_at_once() -> None:
    queue = jobs(100, LookupLimits(1, 1.0, 10.0))
    assert begun(queue, 0) == 1
    queue.limit(LookupLimits(100, 20.0, 10.0), 0)
    assert begun(queue, 0) == 9
    assert begun(queue, 1) == 10
    queue.limit(LookupLimits(100, 2.0, 10.0), 2)
    assert begun(queue, 2) == 10
    assert begun(queue, 4) == 4


def test_four_times_as_many_turns_as_are_needed_for_refreshes_are_possible() -> None:
    for infohashes in (1, 100, FEW, 10_000, 12_000):
        assert LookupLimits().raised_for(infohashes).rate / ROUND >= 1.2 * infohashes / 3600


def test_the_wait_ends_when_the_next_job_is_due() -> None:
    queue = queue_of((A, 50, OPENED))
    assert (queue.wait(20), queue.wait(20, may_begin=False)) == (30 + SLACK, None)


def test_keys_are_not_compared() -> None:
    queue: DueQueue[object] = DueQueue(UNLIMITED)
    first, second = object(), object()
    for key in (first, second):
        queue.set(key, Job(REFRESHED, 1.0))
    turns = [queue.take(1), queue.take(1)]
    assert [turn.key for turn in turns if turn] == [first, second]


@dataclass
class Entry:
    """The model's knowledge of one entry."""

    due: float
    priority: Priority
    has_begun: bool
    number: int
    refresh_due: float = inf

    def advance(self, now: float) -> None:
        """Give it the higher priority, if that is due."""
        if not self.has_begun and self.due <= now and self.priority > REFRESHED and self.refresh_due <= now:
            self.priority, self.due = REFRESHED, self.refresh_due


def chosen(due: list[Entry], counted: int) -> tuple[Entry, int]:
    """Return the entry that has the next turn of those that are due, and the turns counted."""

    def rank(entry: Entry) -> tuple[float, ...]:
        sign = -1 if entry.priority in FIRST and not entry.has_begun else 1
        return (entry.priority, not entry.has_begun, sign * entry.due, sign * entry.number)

    first = min(due, key=rank)
    if first.priority == ASKED:
        return first, counted
    counted += 1
    refreshes = [entry for entry in due if entry.priority == REFRESHED]
    if counted % ROUND == 1 and refreshes:
        return min(refreshes, key=rank), counted
    firsts = [entry for entry in due if entry.priority in FIRST and not entry.has_begun]
    if counted % ROUND == 2 and firsts:
        return max(firsts, key=lambda entry: (entry.due, entry.number)), counted
    if counted % ROUND == 3:
        return min(due, key=lambda entry: (entry.due, entry.number)), counted
    return first, counted


steps = st.tuples(
    st.sampled_from(["set", "set", "set", "begun", "drop", "take", "take", "take", "done", "give back"]),
    st.integers(0, 7).map(name),
    st.integers(-5, 20),
    st.sampled_from(Priority),
    st.sampled_from([0, 0, 0.1, 1, 5]),
    st.booleans(),
    st.just(inf) | st.integers(-5, 30),
)


@pytest.mark.parametrize("limits", [UNLIMITED, LookupLimits(2, 2.0, 3.0)], ids=["unlimited", "limited"])
@given(happened=st.lists(steps, min_size=20, max_size=80))
@reproducible
def test_the_queue_behaves_as_its_model(
    limits: LookupLimits, happened: list[tuple[str, bytes, int, Priority, float, bool, float]]
) -> None:
    queue: DueQueue[bytes] = DueQueue(limits)
    model: dict[bytes, Entry] = {}
    now, counted, running, tokens = 100.0, 0, 0, limits.burst
    for number, (event, key, wait, priority, passed, may_begin, refresh) in enumerate(happened):
        now += passed
        tokens = min(limits.burst, tokens + passed * limits.rate)
        if event == "set":
            queue.set(key, Job(priority, now + wait, now + refresh))
            model[key] = Entry(now + wait, priority, False, number, now + refresh)
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
        for entry in model.values():
            entry.advance(now)
        due = {one: entry for one, entry in model.items() if entry.has_begun or (entry.due <= now and may_begin)}
        is_free = running < limits.parallel
        if event == "take":
            turn = queue.take(now, may_begin)
            assert bool(turn) == (bool(due) and is_free and tokens > 1 - 1e-9)
            if turn:
                entry, counted = chosen(list(due.values()), counted)
                assert model.pop(turn.key) is entry
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
