"""The rate limit per node: never exceeded, and no slower than necessary."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.dht.krpc.messages import Address
from extensions.dht.krpc.pacing import NODE_RATE, WINDOW, NodePace

HERE, THERE = ("192.0.2.1", 6881), ("192.0.2.2", 6881)

reproducible = settings(derandomize=True)
gaps = st.sampled_from([0.0, 0.0, 0.0, 0.1, 0.25, 0.5, 1.0, 3.0]) | st.floats(0, 2)


def test_packets_to_an_idle_node_go_at_once() -> None:
    pace = NodePace()
    assert [pace.grant(HERE, 5.0) for _ in range(NODE_RATE)] == [5.0] * NODE_RATE
    assert pace.grant(THERE, 5.0) == 5.0
    assert pace.grant(HERE, 5.0 + WINDOW) == 5.0 + WINDOW


def test_packets_that_wait_follow_one_another() -> None:
    pace = NodePace(rate=2)
    waits = [pace.grant(HERE, 5.0) - 5.0 for _ in range(7)]
    assert waits == pytest.approx([0, 0, WINDOW, WINDOW, 2 * WINDOW, 2 * WINDOW, 3 * WINDOW])
    # A later packet does not overtake them.
    assert pace.grant(HERE, 5.5) == pytest.approx(5.0 + 3 * WINDOW)


def test_each_port_of_a_host_is_a_node_of_its_own() -> None:
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
        # No later than necessary.
        assert when == now or when == times[-rate] + WINDOW
        assert not times or when >= times[-1]
        times.append(when)


def test_nodes_whose_packets_no_longer_count_are_forgotten() -> None:
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
