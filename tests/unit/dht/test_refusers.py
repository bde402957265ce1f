"""Nodes that are known to refuse puts: which evidence counts, and which does not."""

import pytest

from extensions.dht.krpc.messages import Address
from extensions.dht.krpc.refusers import MAX_REFUSERS, RECENT, REMEMBER, Refusers

NODE: Address = ("192.0.2.1", 6881)
OTHER: Address = ("192.0.2.2", 6881)
TARGET = b"t" * 20


def lie(refusers: Refusers, now: float, seq: int = 5, expected: int = 5, after: float = 1.0) -> None:
    refusers.on_conflict(TARGET, NODE, expected, now)
    refusers.on_item(TARGET, NODE, seq, now + after)


def test_a_refuser_is_remembered_for_hours_and_for_its_method() -> None:
    refusers = Refusers()
    refusers.on_refusal("put", NODE, 0)
    assert refusers.refuses("put", NODE, REMEMBER - 1)
    assert not refusers.refuses("announce_peer", NODE, 0)
    assert not refusers.refuses("put", OTHER, 0)
    assert not refusers.refuses("put", NODE, REMEMBER)


@pytest.mark.parametrize(("expected", "seq"), [(5, 5), (5, 4), (0, 0), (5, 0)])
def test_a_conflict_without_another_writer_is_a_lie(expected: int, seq: int) -> None:
    refusers = Refusers()
    lie(refusers, 0, seq, expected, 0.1)
    assert refusers.refuses("put", NODE, REMEMBER)
    assert not refusers.refuses("put", NODE, REMEMBER + 0.2)


def test_an_honest_node_that_another_writer_was_at_first_is_no_liar() -> None:
    refusers = Refusers()
    for time in range(100):
        lie(refusers, time, seq=6)
    assert not refusers.refuses("put", NODE, 100)


def test_an_honest_node_that_has_lost_its_item_later_is_no_liar() -> None:
    refusers = Refusers()
    for time in range(20):
        lie(refusers, 1000 * time, seq=0, after=RECENT)
    assert not refusers.refuses("put", NODE, 20_000)


def test_only_the_first_item_after_a_conflict_counts() -> None:
    refusers = Refusers()
    refusers.on_conflict(TARGET, NODE, 5, 0)
    for time, seq in enumerate((6, 5, 0)):
        refusers.on_item(TARGET, NODE, seq, time)
    assert not refusers.refuses("put", NODE, 3)


def test_items_of_other_targets_and_nodes_prove_nothing() -> None:
    refusers = Refusers()
    for time in range(10):
        refusers.on_conflict(TARGET, NODE, 5, time)
        refusers.on_item(b"u" * 20, NODE, 5, time)
        refusers.on_item(TARGET, OTHER, 5, time)
    assert not refusers.refuses("put", NODE, 10)
    assert not refusers.refuses("put", OTHER, 10)


def test_the_oldest_of_too_many_refusers_are_forgotten() -> None:
    refusers = Refusers()
    refusers.on_refusal("put", NODE, 0)
    for port in range(MAX_REFUSERS):
        refusers.on_refusal("put", ("192.0.2.3", port), 1)
    assert not refusers.refuses("put", NODE, 1)
    assert refusers.refuses("put", ("192.0.2.3", 0), 1)
