"""When a record is looked at next, and how urgent that is."""

import pytest

from extensions.dht.cache import Known
from extensions.dht.records.entry import LIFETIME
from extensions.dht.tracked import (
    FRESH,
    LONELY,
    MAX_DOUBLINGS,
    OPENED,
    READ_BACK,
    REFRESH,
    REFRESHED,
    REPEATED,
    RETRY,
    Topic,
    next_look,
)
from extensions.trackers import RENDEZVOUS, Sighting
from tests.unit.dht.entries import HASH, entry_of

NOW = 5000.0


def earliest(first: float, last: float) -> float:
    # What varies around one varies not at all.
    return 1.0 if first < 1 < last else first


def topic_of(info_hash: bytes = HASH, looked: float = NOW, **fields: object) -> Topic:
    topic = Topic(info_hash, Known(), looked)
    for name, value in fields.items():
        setattr(topic, name, value)
    return topic


def after(
    topic: Topic,
    is_wanted: bool = False,
    own_left: float = 0.0,
    look_again: tuple[float, float] | None = None,
    now: float = NOW,
) -> tuple[float, int]:
    """Seconds to the next look, and how urgent it is."""
    due, urgency = next_look(topic, is_wanted, look_again, own_left, now, earliest)
    return due - now, urgency


def test_what_is_published_is_published_again_an_hour_after_it_was_signed() -> None:
    assert after(topic_of(peers=5), True, LIFETIME) == (REFRESH[0], REFRESHED)
    assert after(topic_of(peers=5), True, LIFETIME - 1000) == (REFRESH[0] - 1000, REFRESHED)


def test_without_an_entry_of_ours_it_is_looked_at_as_often_and_less_urgently() -> None:
    assert after(topic_of(peers=5)) == (REFRESH[0], REPEATED)
    assert after(topic_of(peers=5, looked=NOW - 1e6)) == (0, REPEATED)


@pytest.mark.parametrize("own_left", [-1e9, 0, FRESH])
def test_an_entry_that_is_missing_or_ends_is_tried_again_soon(own_left: float) -> None:
    assert after(topic_of(peers=5), True, own_left) == (RETRY[0], REFRESHED)


def test_an_entry_that_ends_too_late_is_looked_at_soon() -> None:
    # The clock was set back, and others do not believe it.
    assert after(topic_of(peers=5), True, LIFETIME + 1) == (RETRY[0], REFRESHED)


def test_what_was_asked_for_comes_first() -> None:
    assert after(topic_of(peers=5), True, LIFETIME, READ_BACK) == (READ_BACK[0], REFRESHED)
    assert after(topic_of(peers=5), True, LIFETIME, (4000.0, 4000.0)) == (REFRESH[0], REFRESHED)


@pytest.mark.parametrize("failures", range(1, 12))
def test_after_each_failure_the_next_trial_is_later_but_no_later_than_an_hour(failures: int) -> None:
    wait, urgency = after(topic_of(peers=5, failures=failures), True)
    assert (wait, urgency) == (min(REFRESH[0], RETRY[0] * 2 ** min(MAX_DOUBLINGS, failures - 1)), REFRESHED)


@pytest.mark.parametrize(("looks", "urgency"), [(1, OPENED), (2, OPENED), (3, REPEATED), (6, REPEATED), (60, REPEATED)])
def test_peers_that_are_alone_have_others_looked_for_less_and_less_often(looks: int, urgency: int) -> None:
    wait = LONELY[min(looks, len(LONELY)) - 1]
    assert after(topic_of(peers=1, looks=looks)) == (wait, urgency)


@pytest.mark.parametrize("looks", range(1, 10))
def test_looking_for_others_never_makes_a_refresh_less_urgent(looks: int) -> None:
    assert after(topic_of(peers=1, looks=looks), True, LIFETIME)[1] <= REFRESHED


def test_a_refresh_that_comes_first_is_one() -> None:
    assert after(topic_of(peers=1, looks=9), True, FRESH + 1) == (FRESH + 1 - LIFETIME + REFRESH[0], REFRESHED)


def test_failures_put_off_what_is_done_for_peers_that_are_alone() -> None:
    assert after(topic_of(peers=1, looks=1, failures=4)) == (LONELY[0] * 8, OPENED)


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
def test_who_is_alone(fields: dict[str, object], lonely: bool) -> None:
    assert topic_of(**fields).is_lonely is lonely  # type: ignore[arg-type]


def test_what_is_to_be_taken_back_is_tried_soon() -> None:
    assert after(topic_of(withdrawn=True), own_left=LIFETIME) == (RETRY[0], REFRESHED)
    assert after(topic_of(withdrawn=True, failures=3), own_left=LIFETIME) == (RETRY[0] * 4, REFRESHED)
