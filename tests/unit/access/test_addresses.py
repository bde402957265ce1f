"""Token buckets, quotas of addresses, and the time for which quotas are kept."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.access.addresses import (
    EXCESS,
    LARGE,
    Addresses,
    AddressLimits,
    Quota,
    TooManyConnections,
    TooManyNewConnections,
    networks,
)
from tracker.access.ratelimit import TokenBucket

steps = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 50)), max_size=50)


def addresses(**settings: Any) -> Addresses:
    return Addresses(AddressLimits(**settings))


def enter(among: Addresses, address: str, now: float = 0.0) -> Quota:
    quota = among.enter(address, now)
    assert quota is not None
    return quota


def test_a_bucket_gives_a_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(rate=10, burst=100, now=5)
    assert bucket.try_take(100, 5)
    assert not bucket.try_take(1, 5)
    assert bucket.try_take(10, 6)
    assert not bucket.try_take(1, 6)


def test_a_bucket_never_holds_more_than_a_burst() -> None:
    bucket = TokenBucket(rate=10, burst=100, now=0)
    assert not bucket.try_take(101, 1_000_000)
    assert bucket.try_take(100, 1_000_000)


def test_trying_too_much_takes_nothing() -> None:
    bucket = TokenBucket(rate=1, burst=10, now=0)
    assert not bucket.try_take(11, 0)
    assert bucket.try_take(10, 0)


def test_taking_into_debt_returns_the_time_to_wait() -> None:
    bucket = TokenBucket(rate=10, burst=100, now=0)
    assert bucket.take(60, 0) == 0
    assert bucket.take(60, 0) == 2
    assert bucket.take(10, 0) == 3
    assert bucket.take(0, 2) == 1
    assert not bucket.try_take(1, 3)
    assert bucket.try_take(10, 4)


def test_whole_tokens_are_taken_up_to_an_amount() -> None:
    bucket = TokenBucket(rate=1, burst=10, now=0)
    assert bucket.take_up_to(4, 0) == 4
    assert bucket.take_up_to(20, 0.5, keep=2) == 4
    assert bucket.take_up_to(20, 0.5, keep=3) == 0
    assert bucket.take_up_to(20, 0.5) == 2
    bucket.take(5, 0.5)
    assert bucket.take_up_to(1, 0.5) == 0


def test_nothing_can_always_be_taken_from_a_bucket_without_debts() -> None:
    bucket = TokenBucket(rate=1, burst=1, now=0)
    assert bucket.try_take(1, 0)
    assert bucket.try_take(0, 0)


@given(steps)
def test_no_more_comes_out_of_a_bucket_than_burst_and_rate(asked: list[tuple[float, float]]) -> None:
    now, taken = 0.0, 0.0
    bucket = TokenBucket(rate=7, burst=60, now=now)
    for amount, pause in asked:
        now += pause
        if bucket.try_take(amount, now):
            taken += amount
        assert taken <= 60 + 7 * now + 1e-6


@given(steps)
def test_waiting_for_the_returned_time_keeps_to_the_rate(asked: list[tuple[float, float]]) -> None:
    now, taken = 0.0, 0.0
    bucket = TokenBucket(rate=7, burst=60, now=now)
    for amount, pause in asked:
        now += pause
        wait = bucket.take(amount, now)
        assert wait >= 0
        now += wait
        taken += amount
        assert taken <= 60 + 7 * now + 1e-6


def test_announces_are_limited_by_burst_and_rate() -> None:
    quota = Quota("192.0.2.1", AddressLimits(announces_per_second=2, burst=3), now=5)
    assert [quota.charge_request(5) for _ in range(7)] == [True] * 6 + [False]
    assert quota.charge_request(5.5)
    assert not quota.charge_request(5.5)


def test_as_many_offers_as_are_within_the_limit_pass() -> None:
    quota = Quota("192.0.2.1", AddressLimits(offers_per_second=2, burst=1), now=0)
    assert quota.charge_offers(20, 0) == 2
    assert quota.charge_offers(20, 0) == 0
    assert quota.charge_offers(20, 0.5) == 1
    assert quota.charge_offers(20, 100) == 2


def test_a_share_of_the_allowance_is_kept_for_answers() -> None:
    quota = Quota("192.0.2.1", AddressLimits(offers_per_second=5, burst=4), now=0)
    assert quota.charge_offers(20, 0) == 15
    assert [quota.charge_answer(0) for _ in range(6)] == [True] * 5 + [False]
    assert quota.charge_offers(1, 1) == 0
    assert quota.charge_answer(1)


def test_zero_means_no_limit() -> None:
    quota = Quota("192.0.2.1", AddressLimits(), now=0)
    assert all(quota.charge_request(0) and quota.charge_answer(0) for _ in range(1000))
    assert quota.charge_offers(1000, 0) == 1000
    assert quota.charge_excess(1_000_000, 0) == 0
    assert quota.may_join(range(1_000_000))


def test_even_the_lowest_rates_allow_something_after_a_wait() -> None:
    quota = Quota("192.0.2.1", AddressLimits(announces_per_second=0.01, offers_per_second=0.5, burst=1), now=0)
    assert (quota.charge_request(0), quota.charge_offers(20, 0)) == (True, 1)
    assert (quota.charge_request(50), quota.charge_offers(20, 50)) == (False, 1)
    assert quota.charge_request(101)


def test_after_an_excess_of_messages_the_client_must_wait() -> None:
    quota = Quota("192.0.2.1", AddressLimits(announces_per_second=1, burst=3), now=0)
    assert quota.charge_excess(3 * EXCESS, 0) == 0
    assert quota.charge_excess(EXCESS, 0) == 1
    assert quota.charge_excess(EXCESS, 0) == 2
    assert quota.charge_excess(0, 2) == 0


def test_peers_of_large_connections_are_counted() -> None:
    quota = Quota("192.0.2.1", AddressLimits(peers_per_address=3 * LARGE), now=0)
    small, first, second = set(range(LARGE - 1)), set(range(LARGE)), set(range(LARGE))
    assert all(quota.may_join(peers) for peers in (small, first, second))
    second.update(range(2 * LARGE))
    assert quota.may_join(small)
    assert not quota.may_join(first)
    assert not quota.may_join(second)
    quota.forget(second)
    quota.forget(small)
    assert quota.may_join(first)


def test_connections_of_one_address_are_limited() -> None:
    among = addresses(connections_per_address=2)
    first = enter(among, "192.0.2.1")
    assert enter(among, "192.0.2.1") is first
    for _ in range(3):
        with pytest.raises(TooManyConnections):
            among.enter("192.0.2.1", 0)
    assert enter(among, "192.0.2.2") is not first
    among.leave(first, 0)
    assert enter(among, "192.0.2.1") is first
    assert first.connections == 2


def test_an_ipv6_64_is_one_client() -> None:
    among = addresses(connections_per_address=2)
    assert enter(among, "2001:db8::1") is enter(among, "2001:db8::ffff:1:2:3")
    with pytest.raises(TooManyConnections):
        among.enter("2001:db8:0:0:1::", 0)
    enter(among, "2001:db8:0:1::1")
    assert len(among) == 2


def test_exempt_addresses_do_not_count() -> None:
    among = addresses(connections_per_address=1, exempt=networks(["127.0.0.0/8", "2001:db8::/32"]))
    for address in ("127.0.0.1", "127.1.2.3", "2001:db8::1") * 3:
        assert among.enter(address, 0) is None
    among.leave(None, 0)
    assert len(among) == 0


def test_reconnecting_does_not_fill_the_allowance() -> None:
    among = addresses(announces_per_second=1, burst=10)
    quota = enter(among, "192.0.2.1")
    assert all(quota.charge_request(0) for _ in range(10))
    among.leave(quota, 0)
    again = enter(among, "192.0.2.1", 3)
    assert again is quota
    assert [again.charge_request(3) for _ in range(4)] == [True] * 3 + [False]
    among.leave(again, 3)
    enter(among, "192.0.2.2", 13)
    assert len(among) == 1
    assert enter(among, "192.0.2.1", 13) is not quota


def test_a_quota_with_a_low_rate_is_kept_until_it_is_full() -> None:
    among = addresses(announces_per_second=0.01, burst=1)
    quota = enter(among, "192.0.2.1")
    assert quota.charge_request(0)
    among.leave(quota, 0)
    assert not enter(among, "192.0.2.1", 99).charge_request(99)


def test_quotas_without_a_connection_are_bounded_and_those_with_one_stay() -> None:
    among = Addresses(AddressLimits(burst=1000), max_remembered=10)
    here = enter(among, "198.51.100.1")
    for number in range(50):
        among.leave(enter(among, f"192.0.2.{number}"), 0)
    assert len(among) == 11
    assert enter(among, "198.51.100.1") is here


@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.floats(0, 5)), max_size=80),
    st.integers(0, 3),
)
def test_connections_are_counted_exactly_and_every_quota_expires(
    moves: list[tuple[int, bool, float]], most: int
) -> None:
    among = addresses(connections_per_address=most, burst=3)
    open_: dict[str, list[Quota]] = {}
    now = 0.0
    for number, comes, pause in moves:
        now += pause
        address = f"192.0.2.{number}"
        mine = open_.setdefault(address, [])
        if comes:
            try:
                mine.append(enter(among, address, now))
            except TooManyConnections:
                assert len(mine) == most
        elif mine:
            among.leave(mine.pop(), now)
        assert all(quota.connections == len(quotas) for quotas in open_.values() for quota in quotas)
        assert among.connections() == {address: len(quotas) for address, quotas in open_.items() if quotas}
        among.check_invariants()
    for mine in open_.values():
        for quota in mine:
            among.leave(quota, now)
    among.leave(enter(among, "198.51.100.1", now + 4), now + 4)
    assert len(among) == 1


def test_changed_limits_hold_for_new_quotas() -> None:
    among = addresses(connections_per_address=1, announces_per_second=1, burst=1)
    old = enter(among, "192.0.2.1")
    among.change(AddressLimits(connections_per_address=2))
    assert enter(among, "192.0.2.1") is old
    with pytest.raises(TooManyConnections):
        among.enter("192.0.2.1", 0)
    assert old.charge_request(0)
    assert not old.charge_request(0)
    among.leave(old, 0)
    among.leave(old, 0)
    among.change(AddressLimits(connections_per_address=3))
    assert len(among) == 0
    assert enter(among, "192.0.2.1") is not old


def test_unchanged_limits_keep_all_quotas() -> None:
    among = addresses(announces_per_second=1, burst=1)
    quota = enter(among, "192.0.2.1")
    assert quota.charge_request(0)
    among.leave(quota, 0)
    among.change(AddressLimits(announces_per_second=1, burst=1))
    assert not enter(among, "192.0.2.1").charge_request(0)


def test_an_address_that_becomes_exempt_while_connected_is_counted_off() -> None:
    among = addresses(connections_per_address=1)
    quota = enter(among, "192.0.2.1")
    among.change(AddressLimits(connections_per_address=1, exempt=networks(["192.0.2.0/24"])))
    assert among.enter("192.0.2.1", 0) is None
    among.leave(None, 0)
    among.leave(quota, 0)
    assert quota.connections == 0


def test_new_connections_are_limited_by_burst_and_rate() -> None:
    among = addresses(new_connections_per_second=2, burst=3)
    quotas = [enter(among, "192.0.2.1") for _ in range(6)]
    for _ in range(2):
        with pytest.raises(TooManyNewConnections):
            among.enter("192.0.2.1", 0)
    assert among.connections() == {"192.0.2.1": 6}
    assert enter(among, "192.0.2.2").connections == 1
    # Closing them gives nothing back.
    for quota in quotas:
        among.leave(quota, 0)
    with pytest.raises(TooManyNewConnections):
        among.enter("192.0.2.1", 0.4)
    assert among.connections() == {"192.0.2.2": 1}
    among.check_invariants()
    assert enter(among, "192.0.2.1", 0.5) is quotas[0]
    with pytest.raises(TooManyNewConnections):
        among.enter("192.0.2.1", 0.5)
    assert among.connections()["192.0.2.1"] == 1


def test_an_address_that_is_refused_again_and_again_is_remembered() -> None:
    among = addresses(new_connections_per_second=0.125, burst=1)
    among.leave(enter(among, "192.0.2.1"), 0)
    for now in range(1, 8):
        with pytest.raises(TooManyNewConnections):
            among.enter("192.0.2.1", now)
    assert enter(among, "192.0.2.1", 8).connections == 1


def test_a_connection_over_the_number_takes_nothing_from_the_rate() -> None:
    among = addresses(connections_per_address=1, new_connections_per_second=1, burst=2)
    quota = enter(among, "192.0.2.1")
    for _ in range(5):
        with pytest.raises(TooManyConnections):
            among.enter("192.0.2.1", 0)
    among.leave(quota, 0)
    assert enter(among, "192.0.2.1") is quota


def test_a_connection_that_another_process_has_charged_is_not_charged_again() -> None:
    among = addresses(new_connections_per_second=1, burst=1)
    for _ in range(5):
        assert among.enter("192.0.2.1", 0, is_new=False)
    enter(among, "192.0.2.1")
    with pytest.raises(TooManyNewConnections):
        among.enter("192.0.2.1", 0)


def test_pages_are_limited_by_burst_and_rate() -> None:
    quota = Quota("192.0.2.1", AddressLimits(pages_per_second=2, burst=3), now=0)
    assert [quota.charge_page(5) for _ in range(7)] == [True] * 6 + [False]
    assert quota.charge_page(5.5)
    assert not quota.charge_page(5.5)
    unlimited = Quota("192.0.2.1", AddressLimits(), now=0)
    assert all(unlimited.charge_page(0) and unlimited.charge_connection(0) for _ in range(1000))


def test_bytes_are_charged_into_debt() -> None:
    quota = Quota("192.0.2.1", AddressLimits(bytes_per_second=100, burst=2), now=0)
    assert quota.received is not None
    assert quota.received.take(200, 0) == 0
    assert quota.received.take(300, 0) == 3
    assert quota.received.take(0, 3) == 0
    assert Quota("192.0.2.1", AddressLimits(), now=0).received is None


def test_a_quota_in_use_by_bytes_is_kept_until_it_is_full() -> None:
    among = addresses(bytes_per_second=0.01, burst=1)
    quota = enter(among, "192.0.2.1")
    among.leave(quota, 0)
    assert enter(among, "192.0.2.1", 99) is quota
