"""The time and the priority of the next visit."""

from math import inf

import pytest

from extensions.dht.cache import Known
from extensions.dht.krpc.schedule import Priority
from extensions.dht.refresh import FRESH, REFRESH
from extensions.dht.tracked import (
    LONELY,
    MAX_DOUBLINGS,
    READ_BACK,
    RETRY,
    TrackedHash,
    next_visit,
)
from extensions.entries import LIFETIME
from extensions.trackers import RENDEZVOUS, Sighting
from tests.unit.dht.entries import HASH, entry_of

NOW = 5000.0


def earliest(first: float, last: float) -> float:
    # Random factors around 1 are exactly 1.
    return 1.0 if first < 1 < last else first


def tracked_of(info_hash: bytes = HASH, last_visit: float = NOW, **fields: object) -> TrackedHash:
    tracked = TrackedHash(info_hash, Known(), last_visit)
    for name, value in fields.items():
        setattr(tracked, name, value)
    return tracked


def after(
    tracked: TrackedHash,
    is_wanted: bool = False,
    own_left: float = 0.0,
    wait: tuple[float, float] | None = None,
    now: float = NOW,
) -> tuple[float, Priority]:
    """Return the seconds to the next visit, and its priority."""
    due, priority, _ = next_visit(tracked, is_wanted, wait, own_left, now, earliest)
    return due - now, priority


def test_an_entry_is_refreshed_an_hour_after_it_was_signed() -> None:
    assert after(tracked_of(peers=5), True, LIFETIME) == (REFRESH[0], Priority.REFRESHED)
    assert after(tracked_of(peers=5), True, LIFETIME - 1000) == (REFRESH[0] - 1000, Priority.REFRESHED)


def test_a_record_without_an_entry_of_ours_is_visited_as_often_with_lower_priority() -> None:
    assert after(tracked_of(peers=5)) == (REFRESH[0], Priority.REPEATED)
    assert after(tracked_of(peers=5, last_visit=NOW - 1e6)) == (0, Priority.REPEATED)


@pytest.mark.parametrize("own_left", [-1e9, 0, FRESH])
def test_a_publication_that_is_missing_or_about_to_expire_is_repeated_soon(own_left: float) -> None:
    assert after(tracked_of(peers=5), True, own_left) == (RETRY[0], Priority.REFRESHED)


def test_an_entry_that_expires_too_late_is_replaced_soon() -> None:
    # The clock was set back, so that other trackers reject the entry.
    assert after(tracked_of(peers=5), True, LIFETIME + 1) == (RETRY[0], Priority.REFRESHED)


def test_a_visit_that_the_last_one_asked_for_comes_first() -> None:
    assert after(tracked_of(peers=5), True, LIFETIME, READ_BACK) == (READ_BACK[0], Priority.REFRESHED)
    assert after(tracked_of(peers=5), True, LIFETIME, (4000.0, 4000.0)) == (REFRESH[0], Priority.REFRESHED)


@pytest.mark.parametrize("failures", range(1, 12))
def test_each_failure_delays_the_next_attempt_but_not_beyond_an_hour(failures: int) -> None:
    wait, priority = after(tracked_of(peers=5, failures=failures), True)
    assert (wait, priority) == (min(REFRESH[0], RETRY[0] * 2 ** min(MAX_DOUBLINGS, failures - 1)), Priority.REFRESHED)


@pytest.mark.parametrize("visits", [1, 2, 3, 6, 60])
def test_visits_for_peers_that_are_alone_become_rarer(visits: int) -> None:
    wait = LONELY[min(visits, len(LONELY)) - 1]
    assert after(tracked_of(peers=1, lonely_visits=visits)) == (wait, Priority.REPEATED)


@pytest.mark.parametrize("visits", range(1, 10))
def test_a_visit_for_peers_that_are_alone_becomes_a_refresh_in_time(visits: int) -> None:
    tracked = tracked_of(peers=1, lonely_visits=visits)
    wait = LONELY[min(visits, len(LONELY)) - 1]
    assert next_visit(tracked, True, None, LIFETIME, NOW, earliest) == (
        NOW + wait,
        Priority.REPEATED,
        NOW + REFRESH[0],
    )
    # Without an entry of ours there is nothing to refresh.
    assert next_visit(tracked, False, None, 0.0, NOW, earliest).refresh_due == inf
    assert next_visit(tracked_of(peers=5), True, None, LIFETIME, NOW, earliest).refresh_due == inf


def test_a_refresh_may_come_before_the_visit_for_lonely_peers() -> None:
    assert after(tracked_of(peers=1, lonely_visits=9), True, FRESH + 1) == (
        FRESH + 1 - LIFETIME + REFRESH[0],
        Priority.REFRESHED,
    )


def test_failures_delay_visits_for_peers_that_are_alone() -> None:
    assert after(tracked_of(peers=1, lonely_visits=1, failures=4)) == (LONELY[0] * 8, Priority.REPEATED)


@pytest.mark.parametrize(
    ("fields", "lonely"),
    [
        ({"peers": 1}, True),
        ({"peers": 2}, False),
        ({"peers": 1, "linked": True}, False),
        ({}, False),
        ({"info_hash": RENDEZVOUS}, True),
        ({"info_hash": RENDEZVOUS, "known": Known(seen={"a": Sighting(entry_of(1), "r0")})}, False),
    ],
)
def test_which_infohashes_count_as_lonely(fields: dict[str, object], lonely: bool) -> None:
    assert tracked_of(**fields).is_lonely is lonely  # type: ignore[arg-type]


def test_a_removal_is_attempted_soon() -> None:
    assert after(tracked_of(withdrawn=True), own_left=LIFETIME) == (RETRY[0], Priority.REFRESHED)
    assert after(tracked_of(withdrawn=True, failures=3), own_left=LIFETIME) == (RETRY[0] * 4, Priority.REFRESHED)
