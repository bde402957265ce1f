"""When a tracker may be dialed again."""

from math import inf

import pytest

from extensions.federation.backoffs import (
    ATTEMPTS,
    FIRST_ATTEMPTS,
    FIRST_BACKOFF,
    FIRST_REFUSED,
    LASTING,
    MAX_BACKOFF,
    MAX_REMEMBERED,
    REMEMBERED_FOR,
    Backoffs,
    Verdict,
    verdict_of,
)
from extensions.federation.reasons import BROKEN_RULES, OTHER, Ended, EndReason
from extensions.trackers import TrackerEntry

LOST = Ended(EndReason.LOST)
FULL = Ended(EndReason.CLOSED_THERE, "too_many_links")
MOVED = Ended(EndReason.WRONG_ID)


def entry(name: str = "a", expires: int = 1) -> TrackerEntry:
    return TrackerEntry(name * 64, expires, "wss://a.example", bytes(64))


@pytest.fixture
def backoffs() -> Backoffs:
    """Backoffs without a random part."""
    return Backoffs(lambda _, most: most)


def waits(backoffs: Backoffs, *ends: Ended) -> list[float]:
    """Return the seconds until the tracker may be dialed after each of these ends."""
    now, found = 1000.0, []
    for end in ends:
        ready = backoffs.note(entry(), end, now)
        assert backoffs.ready_at(entry(), now) == ready
        assert backoffs.ready_at(entry(), ready) == 0
        found.append(ready - now)
        now = ready
    return found


def test_a_tracker_that_is_not_reached_has_some_attempts(backoffs: Backoffs) -> None:
    assert waits(backoffs, *[LOST] * 12) == [min(MAX_BACKOFF, FIRST_BACKOFF * 2**n) for n in range(12)]


@pytest.mark.parametrize(("ends", "attempts"), [([], FIRST_ATTEMPTS), ([Ended(EndReason.LOST, lasted=99.0)], ATTEMPTS)])
def test_a_tracker_that_was_linked_has_more_attempts(backoffs: Backoffs, ends: list[Ended], attempts: int) -> None:
    waits(backoffs, *ends, *[LOST] * (attempts - 1 - len(ends)))
    assert not backoffs.is_exhausted(entry().tracker_id, 1000)
    waits(backoffs, LOST)
    assert backoffs.is_exhausted(entry().tracker_id, 1000)


def test_a_full_tracker_is_left_alone_for_longer_each_time_and_is_never_given_up(backoffs: Backoffs) -> None:
    assert waits(backoffs, *[FULL] * 12) == [min(MAX_BACKOFF, FIRST_REFUSED * 2**n) for n in range(12)]
    assert not backoffs.is_exhausted(entry().tracker_id, 1000)


def test_a_link_that_has_lasted_is_a_success(backoffs: Backoffs) -> None:
    lasted = Ended(EndReason.LOST, lasted=LASTING + 1)
    assert waits(backoffs, LOST, LOST, LOST, lasted, LOST) == [1, 2, 4, 1, 2]
    assert waits(backoffs, FULL, FULL, Ended(EndReason.CLOSED_THERE, "idle", LASTING + 1)) == [5, 10, 5]


def test_an_entry_that_leads_to_another_tracker_is_of_no_use_but_a_newer_one_is(backoffs: Backoffs) -> None:
    assert backoffs.note(entry(expires=7), MOVED, 0) == inf
    assert backoffs.ready_at(entry(expires=7), 1) == inf
    assert backoffs.ready_at(entry(expires=6), 1) == inf
    assert backoffs.ready_at(entry(expires=8), 1) == 0
    assert backoffs.ready_at(entry("b"), 1) == 0


def test_the_random_part_is_at_most_half() -> None:
    assert Backoffs(lambda least, _: least).note(entry(), FULL, 100.0) == 100 + FIRST_REFUSED / 2


@pytest.mark.parametrize("reason", list(EndReason))
def test_each_reason_has_a_meaning(reason: EndReason) -> None:
    here = verdict_of(Ended(reason))
    expected = {
        EndReason.UNREACHABLE: Verdict.LOST,
        EndReason.HANDSHAKE_TIMEOUT: Verdict.LOST,
        EndReason.LOST: Verdict.LOST,
        EndReason.STUCK: Verdict.LOST,
        EndReason.TOO_MANY_LINKS: Verdict.BUSY,
        EndReason.WRONG_ID: Verdict.MOVED,
        EndReason.IDLE: Verdict.OVER,
        EndReason.DUPLICATE: Verdict.OVER,
        EndReason.REPLACED: Verdict.OVER,
        EndReason.SHUTDOWN: Verdict.OVER,
    }
    assert here is expected.get(reason, Verdict.HOPELESS)
    there = verdict_of(Ended(EndReason.CLOSED_THERE, reason.value))
    assert there is {
        EndReason.SHUTDOWN: Verdict.LOST,
        EndReason.TOO_MANY_LINKS: Verdict.BUSY,
        EndReason.IDLE: Verdict.BUSY,
        EndReason.DUPLICATE: Verdict.OVER,
        EndReason.REPLACED: Verdict.OVER,
    }.get(reason, Verdict.HOPELESS)


def test_a_restarted_tracker_with_a_new_key_has_broken_no_rule() -> None:
    assert EndReason.WRONG_ID not in BROKEN_RULES


def test_reasons_of_others_are_their_own_business() -> None:
    assert Ended(EndReason.CLOSED_THERE, "because").given == OTHER
    assert Ended(EndReason.LOST, "because").given == ""


def test_memory_is_bounded_in_number_and_time(backoffs: Backoffs) -> None:
    for number in range(MAX_REMEMBERED + 10):
        one = TrackerEntry(f"{number:064x}", 1, "wss://a.example", bytes(64))
        backoffs.note(one, FULL, 0)
        backoffs.note(one, MOVED, 0)
    first = TrackerEntry(f"{0:064x}", 1, "wss://a.example", bytes(64))
    assert backoffs.ready_at(first, 1) == 0
    backoffs.note(entry(), LOST, 0)
    backoffs.note(entry(), LOST, REMEMBERED_FOR + 1)
    assert backoffs.ready_at(entry(), REMEMBERED_FOR + 1) == REMEMBERED_FOR + 1 + FIRST_BACKOFF
