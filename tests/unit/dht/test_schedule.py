"""What is due when, and which swarms there is room for: against the plainest models of both."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.dht.schedule import FAIR, SIZES, SPARE, Agenda, Shortlist

reproducible = settings(derandomize=True)


def name(number: int) -> bytes:
    return bytes([number]) * 20


A, B, C, D, E = map(name, range(5))


# The agenda


def taken(agenda: Agenda, now: float) -> list[tuple[bytes, int]]:
    """All that is due."""
    result = []
    while one := agenda.take(now):
        result.append(one)
    return result


def agenda_of(*entries: tuple[bytes, float, int]) -> Agenda:
    agenda = Agenda()
    for entry in entries:
        agenda.set(*entry)
    return agenda


def test_nothing_is_due_on_an_empty_agenda() -> None:
    agenda = Agenda()
    assert (agenda.take(1e9), agenda.next_due(), len(agenda)) == (None, None, 0)
    agenda.drop(A)
    assert len(agenda) == 0


def test_of_what_is_due_the_most_urgent_comes_first() -> None:
    agenda = agenda_of((A, 10, 2), (B, 20, 0), (C, 30, 1), (D, 40, 0))
    assert taken(agenda, 5) == []
    assert taken(agenda, 30) == [(B, 0), (C, 1), (A, 2)]
    assert (len(agenda), agenda.next_due()) == (1, 40)


def test_of_the_equally_urgent_what_is_due_first() -> None:
    assert taken(agenda_of((A, 20, 1), (B, 10, 1), (C, 20, 1)), 30) == [(B, 1), (A, 1), (C, 1)]


def test_a_new_entry_replaces_the_old() -> None:
    agenda = agenda_of((A, 10, 1), (A, 50, 2))
    assert (len(agenda), agenda.next_due(), agenda.take(40)) == (1, 50, None)
    agenda.set(A, 45, 0)
    assert agenda.take(45) == (A, 0)
    assert (agenda.take(100), agenda.next_due(), len(agenda)) == (None, None, 0)


def test_an_entry_that_was_due_already_can_be_put_off() -> None:
    agenda = agenda_of((A, 10, 1), (B, 10, 0))
    assert agenda.take(10) == (B, 0)
    agenda.set(A, 30, 1)
    assert (agenda.take(20), agenda.next_due()) == (None, 30)
    assert agenda.take(30) == (A, 1)


def test_what_is_dropped_is_not_taken_until_it_is_entered_again() -> None:
    agenda = agenda_of((A, 10, 1), (B, 5, 1))
    assert agenda.take(10) == (B, 1)
    agenda.drop(A)
    assert (agenda.take(20), agenda.next_due(), len(agenda)) == (None, None, 0)
    agenda.set(A, 25, 3)
    assert (agenda.take(20), agenda.take(25)) == (None, (A, 3))


def test_every_third_is_the_longest_overdue() -> None:
    agenda = agenda_of((A, 10, 3), (B, 20, 2), *((name(number), 30, 1) for number in range(10, 16)))
    assert [urgency for _, urgency in taken(agenda, 30)] == [1, 1, 3, 1, 1, 2, 1, 1]


def test_however_many_urgent_ones_come_nobody_waits_for_ever() -> None:
    agenda = agenda_of((A, 0, 3))
    for now in range(1, 100):
        agenda.set(name(now), now, 1)
        agenda.set(name(now + 100), now, 1)
        taken_now = [agenda.take(now), agenda.take(now)]
        if (A, 3) in taken_now:
            return
    raise AssertionError


def test_so_many_are_due() -> None:
    agenda = agenda_of((A, 10, 1), (B, 10, 2), (C, 20, 1))
    assert (agenda.overdue(5), agenda.overdue(10)) == (0, 2)
    agenda.set(A, 30, 1)
    agenda.drop(B)
    assert (agenda.overdue(10), agenda.overdue(20)) == (0, 1)
    assert agenda.take(20) == (C, 1)
    assert agenda.overdue(25) == 0


def test_what_was_replaced_takes_no_room() -> None:
    agenda = Agenda()
    for number in range(10_000):
        agenda.set(name(number % 10), number % 7 * 1e6, number % 4)
        agenda.overdue(3e6)
    assert len(agenda._later) + sum(map(len, agenda._due.values())) <= 2 * len(agenda) + SPARE + 1
    assert len(taken(agenda, 1e9)) == 10


@dataclass
class Entry:
    """What the model knows of one infohash."""

    due: float
    urgency: int
    number: int
    has_come: bool = False
    """Whether its time had come when something was taken."""


steps = st.tuples(
    st.sampled_from(["set", "set", "drop", "take", "take"]),
    st.integers(0, 5).map(name),
    st.integers(-5, 20),
    st.integers(0, 3),
    st.sampled_from([0, 0, 1, 5]),
)


@given(st.lists(steps, min_size=20, max_size=80))
@reproducible
def test_the_agenda_is_as_its_model(happened: list[tuple[str, bytes, int, int, int]]) -> None:
    agenda = Agenda()
    model: dict[bytes, Entry] = {}
    now, takings = 100, 0
    for number, (event, info_hash, wait, urgency, passed) in enumerate(happened):
        now += passed
        if event == "set":
            agenda.set(info_hash, now + wait, urgency)
            model[info_hash] = Entry(now + wait, urgency, number)
        elif event == "drop":
            agenda.drop(info_hash)
            model.pop(info_hash, None)
        else:
            for entry in model.values():
                entry.has_come |= entry.due <= now
            due = [one for one in model if model[one].has_come]
            takings += bool(due)
            by_age = takings % FAIR == 0

            def rank(one: bytes, by_age: bool = by_age) -> tuple[float, ...]:
                entry = model[one]
                return (0 if by_age else entry.urgency, entry.due, entry.number)

            assert agenda.overdue(now) == len(due)
            first = min(due, key=rank, default=None)
            assert agenda.take(now) == (first and (first, model.pop(first).urgency))
        assert len(agenda) == len(model)
        assert agenda.next_due() == min((one.due for one in model.values() if not one.has_come), default=None)


# The shortlist


def entered(limit: int, *swarms: tuple[bytes, int]) -> Shortlist:
    shortlist = Shortlist(limit)
    for info_hash, peers in swarms:
        shortlist.enter(info_hash, peers)
    return shortlist


def listed(shortlist: Shortlist) -> list[bytes]:
    result = [info_hash for info_hash in map(name, range(30)) if info_hash in shortlist]
    assert len(result) == len(shortlist)
    return result


def test_while_there_is_room_all_are_listed() -> None:
    shortlist = Shortlist(2)
    assert shortlist.enter(A, 1) == [A]
    assert shortlist.enter(B, 100) == [B]
    assert (listed(shortlist), shortlist.left_out) == ([A, B], 0)


def test_a_larger_one_takes_the_place_of_the_smallest() -> None:
    shortlist = entered(2, (A, 4), (B, 1))
    assert shortlist.enter(C, 2) == [C]
    assert (listed(shortlist), shortlist.left_out) == ([A, C], 1)
    # It had to be larger by that.
    assert shortlist.enter(D, 1) == []
    assert shortlist.left_out == 2


def test_a_newer_one_takes_the_place_of_the_oldest_that_is_no_larger() -> None:
    shortlist = entered(2, (A, 1), (B, 1))
    assert shortlist.enter(C, 1) == [C]
    assert listed(shortlist) == [B, C]
    assert shortlist.enter(D, 1) == [D]
    assert listed(shortlist) == [C, D]


def test_sizes_are_compared_by_their_power_of_two() -> None:
    shortlist = entered(1, (A, 8), (B, 7))
    assert listed(shortlist) == [A]
    assert shortlist.enter(A, 15) == []
    assert shortlist.enter(B, 8) == [B]
    assert listed(shortlist) == [B]


def test_who_leaves_makes_room_for_the_largest_and_newest_that_waits() -> None:
    shortlist = entered(1, (A, 2), (B, 2), (C, 2), (D, 1), (E, 100))
    assert listed(shortlist) == [E]
    assert shortlist.leave(E) == [C]
    assert shortlist.leave(B) == []
    assert shortlist.leave(C) == [A]
    assert shortlist.leave(A) == [D]
    assert shortlist.leave(D) == shortlist.leave(D) == []
    assert (len(shortlist), shortlist.left_out) == (0, 0)


def test_who_has_shrunk_makes_room() -> None:
    shortlist = entered(2, (A, 100), (B, 100), (C, 50), (D, 50))
    assert shortlist.enter(A, 1) == [D]
    assert listed(shortlist) == [B, D]


def test_without_room_nobody_is_listed() -> None:
    shortlist = entered(0, (A, 1), (B, 1000))
    assert (listed(shortlist), shortlist.left_out, shortlist.leave(A)) == ([], 2, [])


def test_any_number_of_peers_has_a_size() -> None:
    shortlist = entered(1, (A, 0))
    for info_hash, peers in ((B, 2**31), (C, 2**100)):
        assert shortlist.enter(info_hash, peers) == [info_hash]
    assert listed(shortlist) == [C]


def size_of(peers: int) -> int:
    return min(SIZES - 1, peers.bit_length())


events = st.tuples(st.integers(0, 11).map(name), st.sampled_from([None, None, 0, 1, 2, 3, 4, 9, 100, 2**40]))


@given(st.integers(0, 6), st.lists(events, min_size=20, max_size=80))
@reproducible
def test_the_shortlist_is_as_its_model(limit: int, happened: list[tuple[bytes, int | None]]) -> None:
    shortlist = Shortlist(limit)
    swarms: dict[bytes, int] = {}
    before: set[bytes] = set()
    for info_hash, peers in happened:
        same = peers is not None and info_hash in swarms and size_of(swarms[info_hash]) == size_of(peers)
        if peers is None:
            swarms.pop(info_hash, None)
            came = shortlist.leave(info_hash)
        else:
            swarms[info_hash] = peers
            came = shortlist.enter(info_hash, peers)
        now = {*listed(shortlist)}
        assert now <= {*swarms}
        assert len(now) == min(limit, len(swarms))
        assert shortlist.left_out == len(swarms) - len(now)
        waiting = [size_of(swarms[one]) for one in swarms if one not in now]
        assert max(waiting, default=0) <= min((size_of(swarms[one]) for one in now), default=SIZES)
        assert len(came) == len({*came})
        # Of the one that was entered it is no news that it is still listed.
        assert {*came} - {info_hash} == now - before - {info_hash}
        assert {*came} <= now
        assert info_hash in came or info_hash not in now - before
        # Whom nothing has happened to is put off for one other at most.
        assert len(before - now - {info_hash}) <= (peers is not None)
        assert not same or (came, now) == ([], before)
        before = now


@given(
    st.integers(1, 6), st.lists(st.tuples(st.integers(0, 29).map(name), st.integers(0, 20)), unique_by=lambda o: o[0])
)
@reproducible
def test_of_those_that_stay_the_largest_and_of_equals_the_newest_are_listed(
    limit: int, swarms: list[tuple[bytes, int]]
) -> None:
    order = {info_hash: (size_of(peers), number) for number, (info_hash, peers) in enumerate(swarms)}
    best = sorted(order, key=lambda one: order[one], reverse=True)[:limit]
    assert listed(entered(limit, *swarms)) == sorted(best)
