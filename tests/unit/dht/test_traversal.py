"""Traversals of simulated networks: which nodes they find, and with how few queries."""

import random
from collections.abc import Callable, Collection, Iterable, Mapping
from heapq import nsmallest

import pytest

from extensions.dht.krpc.messages import Address, Contact
from extensions.dht.krpc.traversal import (
    CLOSEST,
    MAX_CONTACTS,
    MAX_QUERIES,
    OUTSTANDING,
    PARALLEL,
    Candidate,
    Traversal,
)

TARGET = b"\x5a" * 20

# The nodes named in the reply of a node; None if it is dead.
Answers = Callable[[Contact], Iterable[Contact] | None]


def distance(contact: Contact) -> int:
    return int.from_bytes(contact.node_id, "big") ^ int.from_bytes(TARGET, "big")


def host(number: int) -> str:
    # Each in a network of its own.
    return f"{10 + (number >> 16 & 127)}.{number >> 8 & 255}.{number & 255}.1"


def near(number: int, address: Address | None = None) -> Contact:
    """The node at this distance."""
    node_id = (int.from_bytes(TARGET, "big") ^ number).to_bytes(20, "big")
    return Contact(node_id, address or (host(number), 6881))


def network(size: int, seed: int = 1) -> list[Contact]:
    source = random.Random(seed)
    return [Contact(source.randbytes(20), (host(number), 6881)) for number in range(size)]


def table(owner: Contact, nodes: Iterable[Contact]) -> list[Contact]:
    """Return a Kademlia routing table: for each power of two of the distance, as many nodes as a bucket holds."""
    source = random.Random(owner.node_id)
    own = int.from_bytes(owner.node_id, "big")
    buckets: dict[int, list[Contact]] = {}
    for node in nodes:
        buckets.setdefault((int.from_bytes(node.node_id, "big") ^ own).bit_length(), []).append(node)
    buckets.pop(0, None)
    return [node for bucket in buckets.values() for node in source.sample(bucket, min(len(bucket), CLOSEST))]


def answers_of(nodes: list[Contact], dead: Collection[Contact] = ()) -> Answers:
    """Return nodes of which each has noticed the death of half of the dead nodes, and each of different ones."""

    def answer(contact: Contact) -> list[Contact] | None:
        if contact in dead:
            return None
        source = random.Random(contact.node_id)
        believed = [node for node in nodes if node not in dead or source.random() < 0.5]
        return nsmallest(CLOSEST, table(contact, believed), key=distance)

    return answer


def anyone(_address: Address) -> bool:
    return True


def walk(
    traversal: Traversal, answer: Answers, seed: int = 1, at: Mapping[Address, Contact] | None = None
) -> list[Contact]:
    """Run a traversal to its end, with replies in random order. Return the nodes asked.

    `at` gives the real node at an address, if it may differ from the one that was named.
    """
    source = random.Random(seed)
    asked: list[Contact] = []
    awaited: list[Contact] = []
    slow: list[Contact] = []
    while not traversal.is_done:
        while contact := traversal.next():
            asked.append(contact)
            awaited.append(contact)
            assert len(awaited) <= PARALLEL
            assert len(awaited) + len(slow) <= OUTSTANDING
        assert awaited or slow or traversal.is_done, "nothing will ever happen"
        # Dead nodes are slow at first. They fail when there is no room for more slow ones, or after a while.
        if slow and (not awaited or source.random() < 0.1):
            traversal.failed(slow.pop(0).address)
        elif awaited:
            contact = awaited.pop(source.randrange(len(awaited)))
            sender = (at or {}).get(contact.address, contact)
            heard = answer(sender)
            if heard is None:
                traversal.slow(contact.address)
                slow.append(contact)
            else:
                candidate = traversal.answered(sender, heard, b"token of " + sender.node_id)
                assert candidate
                assert candidate.contact == sender
    assert not awaited
    assert is_silent(traversal) == (not slow)
    assert len({contact.address for contact in asked}) == len(asked) == traversal.queries
    return asked


def is_silent(traversal: Traversal) -> bool:
    """Return whether no query is pending, by the traversal's own count."""
    return traversal.pending == 0


def found(traversal: Traversal) -> list[Contact]:
    return [candidate.contact for candidate in traversal.closest()]


# Honest networks


@pytest.mark.parametrize(("size", "limit"), [(1, 1), (5, 5), (20, 20), (300, 35), (5000, 50)])
def test_the_closest_nodes_are_found(size: int, limit: int) -> None:
    nodes = network(size)
    traversal = Traversal(TARGET, nodes[: min(CLOSEST, size)], anyone)
    asked = walk(traversal, answers_of(nodes))
    assert found(traversal) == nsmallest(CLOSEST, nodes, key=distance)
    assert len(asked) <= limit
    assert all(candidate.token == b"token of " + candidate.contact.node_id for candidate in traversal.closest())


@pytest.mark.parametrize(("size", "limit"), [(20, 20), (300, 50), (5000, 80)])
@pytest.mark.parametrize("seed", range(3))
def test_a_third_of_the_nodes_may_be_dead(size: int, limit: int, seed: int) -> None:
    nodes = network(size, seed)
    # The start is alive.
    dead = {*random.Random(seed).sample(nodes[CLOSEST:], size // 3)}
    answer = answers_of(nodes, dead)
    traversal = Traversal(TARGET, nodes[:CLOSEST], anyone)
    asked = walk(traversal, answer, seed)
    heard = {*nodes[:CLOSEST]}.union(*(answer(contact) or () for contact in asked))
    assert found(traversal) == nsmallest(CLOSEST, heard - dead, key=distance)
    # (In a few networks of this kind, no node that is asked knows all of them.)
    assert found(traversal) == nsmallest(CLOSEST, {*nodes} - dead, key=distance)
    assert len(asked) <= limit


def test_a_traversal_without_a_start_is_done() -> None:
    traversal = Traversal(TARGET, [], anyone)
    assert traversal.next() is None
    assert traversal.is_done
    assert is_silent(traversal)
    assert traversal.closest() == []


def test_it_ends_when_no_candidate_is_left() -> None:
    traversal = Traversal(TARGET, [near(number) for number in range(1, 31)], anyone)
    assert len(walk(traversal, lambda _contact: None)) == 30
    assert traversal.closest() == []


def test_it_does_not_wait_for_dead_nodes() -> None:
    # As many are slow as may be asked at a time; none of them has failed when the live nodes have answered.
    traversal = Traversal(TARGET, [near(number) for number in range(1, 41)], anyone)
    for _ in range(PARALLEL):
        contact = traversal.next()
        assert contact
        traversal.slow(contact.address)
    for _ in range(CLOSEST):
        assert not traversal.is_done
        contact = traversal.next()
        assert contact
        traversal.answered(contact)
    assert traversal.is_done
    assert not is_silent(traversal)
    assert found(traversal) == [near(number) for number in range(PARALLEL + 1, PARALLEL + CLOSEST + 1)]


def test_no_farther_node_is_asked_while_the_closest_may_still_answer() -> None:
    traversal = Traversal(TARGET, [near(number) for number in range(1, 41)], anyone)
    asked = [traversal.next() for _ in range(PARALLEL)]
    for _ in range(CLOSEST - PARALLEL):
        contact = asked.pop()
        assert contact
        traversal.answered(contact)
        asked.append(traversal.next())
    contact = asked.pop()
    assert contact
    traversal.answered(contact)
    assert traversal.next() is None
    assert not traversal.is_done
    # If one of them is slow, the next takes its place.
    contact = asked.pop()
    assert contact
    traversal.slow(contact.address)
    assert traversal.next() == near(CLOSEST + 1)


def test_a_slow_node_that_answers_counts() -> None:
    traversal = Traversal(TARGET, [near(number) for number in range(10, 18)], anyone)
    first = traversal.next()
    assert first == near(10)
    traversal.slow(first.address)
    for _ in range(CLOSEST - 1):
        contact = traversal.next()
        assert contact
        traversal.answered(contact)
    assert traversal.is_done
    candidate = traversal.answered(first, [near(1)], b"token")
    assert isinstance(candidate, Candidate)
    assert candidate.token == b"token"
    assert found(traversal)[0] == first
    # And so do the nodes that it names.
    assert not traversal.is_done
    assert traversal.next() == near(1)


def test_pending_queries_to_slow_nodes_are_limited() -> None:
    traversal = Traversal(TARGET, [near(number) for number in range(1, 41)], anyone)
    for _ in range(OUTSTANDING):
        contact = traversal.next()
        assert contact
        traversal.slow(contact.address)
    assert traversal.next() is None
    assert not traversal.is_done
    traversal.failed(near(1).address)
    assert traversal.next() == near(OUTSTANDING + 1)


def test_a_reply_of_a_node_that_was_not_asked_is_ignored() -> None:
    traversal = Traversal(TARGET, [near(1), near(2)], anyone)
    assert traversal.answered(near(1)) is None
    assert traversal.answered(near(3), [near(3)]) is None
    assert traversal.next() == near(1)
    assert traversal.answered(near(1))
    assert traversal.answered(near(1), [near(3)]) is None
    traversal.slow(near(1).address)
    traversal.failed(near(1).address)
    assert found(traversal) == [near(1)]
    assert is_silent(traversal)
    traversal.failed(near(2).address)
    assert traversal.next() == near(2)


# Which nodes may be asked


def test_one_node_of_a_host_is_asked() -> None:
    nodes = [near(number, ("192.0.2.1", number)) for number in range(1, 6)]
    traversal = Traversal(TARGET, [*nodes, near(7)], anyone)
    assert walk(traversal, lambda _contact: nodes) == [nodes[0], near(7)]


@pytest.mark.parametrize("network", ["198.51.100.{}", "2001:470:1:2::{}", "2001:470:1:{}::1"])
def test_one_node_of_a_network_is_asked(network: str) -> None:
    nodes = [near(number, (network.format(number), 6881)) for number in range(1, 6)]
    traversal = Traversal(TARGET, [*nodes, near(7)], anyone)
    assert walk(traversal, lambda _contact: nodes) == [nodes[0], near(7)]


@pytest.mark.parametrize("networks", ["198.51.{}.1", "2001:470:{}::1"])
def test_different_networks_are_different(networks: str) -> None:
    nodes = [near(number, (networks.format(number), 6881)) for number in range(1, 6)]
    assert set(walk(Traversal(TARGET, nodes, anyone), lambda _contact: nodes)) == set(nodes)


def test_without_that_limit_all_are_asked() -> None:
    nodes = [near(number, ("192.0.2.1", number)) for number in range(1, 6)]
    assert set(walk(Traversal(TARGET, nodes, anyone, one_per_network=False), lambda _contact: nodes)) == set(nodes)


def test_unusable_addresses_are_not_asked() -> None:
    traversal = Traversal(TARGET, [near(1), near(2, ("127.0.0.1", 0)), near(3)], lambda address: address[1] > 0)
    asked = walk(traversal, lambda _contact: [near(4, ("10.0.0.99", 0)), near(5)])
    assert asked == [near(1), near(3), near(5)]
    assert found(traversal) == asked


def test_with_only_unusable_candidates_it_is_done() -> None:
    traversal = Traversal(TARGET, [near(1), near(2)], lambda _address: False)
    assert traversal.is_done
    assert traversal.next() is None


# Malicious nodes


@pytest.mark.parametrize("alive", [True, False], ids=["that answer", "that do not answer"])
def test_endless_nodes_that_are_nearer_are_not_followed_for_ever(alive: bool) -> None:
    left = iter(range(10**6, 0, -1))

    def answer(contact: Contact) -> list[Contact] | None:
        # The start has to answer.
        return [near(next(left)) for _ in range(30)] if alive or distance(contact) > 10**6 else None

    traversal = Traversal(TARGET, network(CLOSEST), anyone)
    assert len(walk(traversal, answer)) <= MAX_QUERIES


def test_a_malicious_start_node_does_not_hide_the_closest() -> None:
    nodes = network(300)
    honest = answers_of(nodes)

    def answer(contact: Contact) -> Iterable[Contact] | None:
        if contact == nodes[0]:
            return [near(number) for number in range(1, 100)]
        return None if distance(contact) < 1000 else honest(contact)

    traversal = Traversal(TARGET, nodes[:CLOSEST], anyone)
    walk(traversal, answer)
    assert found(traversal) == nsmallest(CLOSEST, nodes[1:], key=distance)


def test_a_limited_number_of_nodes_of_one_reply_count() -> None:
    traversal = Traversal(TARGET, [near(10**6)], anyone)
    asked = walk(traversal, lambda contact: [near(n) for n in range(999, 0, -1)] if contact == near(10**6) else None)
    assert asked[1:] == [near(number) for number in range(1000 - MAX_CONTACTS, 1000)]


def test_the_nearest_of_many_nodes_are_kept() -> None:
    nodes = [near(number) for number in range(1, 1001)]
    random.Random(1).shuffle(nodes)
    traversal = Traversal(TARGET, nodes, anyone)
    assert sorted(walk(traversal, lambda _contact: None), key=distance) == [near(n) for n in range(1, MAX_QUERIES + 1)]


def test_a_wrong_id_does_not_hide_a_node() -> None:
    nodes = network(300)
    honest = answers_of(nodes)
    closest = nsmallest(CLOSEST, nodes, key=distance)
    hidden = [near(2**160 - 1 - number, node.address) for number, node in enumerate(closest)]

    def answer(contact: Contact) -> Iterable[Contact] | None:
        return [*hidden, *nodes[1:CLOSEST]] if contact == nodes[0] else honest(contact)

    traversal = Traversal(TARGET, nodes[:1], anyone)
    walk(traversal, answer, at={node.address: node for node in nodes})
    assert found(traversal) == closest


def test_many_ids_of_one_node_are_one_node() -> None:
    nodes = network(300)
    honest = answers_of(nodes)
    closest = nsmallest(CLOSEST, nodes, key=distance)
    disguised = [near(number, closest[-1].address) for number in range(1, MAX_CONTACTS)]

    def answer(contact: Contact) -> Iterable[Contact] | None:
        return [*disguised, *nodes[1:CLOSEST]] if contact == nodes[0] else honest(contact)

    traversal = Traversal(TARGET, nodes[:1], anyone)
    asked = walk(traversal, answer, at={node.address: node for node in nodes})
    assert [contact for contact in asked if contact.address == closest[-1].address] == disguised[:1]
    assert found(traversal) == closest


# Restarted nodes: their ids differ from the known ones


def test_the_id_in_the_reply_counts() -> None:
    traversal = Traversal(TARGET, [near(5), near(20)], anyone)
    assert traversal.next() == near(5)
    renamed = near(30, near(5).address)
    candidate = traversal.answered(renamed, [near(10)], b"token")
    assert candidate
    assert (candidate.contact, candidate.token, candidate.distance) == (renamed, b"token", 30)
    assert traversal.next() == near(10)
    assert traversal.answered(near(10))
    # It is not asked again under either id.
    assert traversal.next() == near(20)
    assert traversal.answered(near(20), [near(5), renamed, near(1, near(5).address)])
    assert traversal.next() is None
    assert traversal.is_done
    assert is_silent(traversal)
    assert found(traversal) == [near(10), near(20), renamed]


def test_a_node_that_moved_away_leaves_room_for_the_next() -> None:
    traversal = Traversal(TARGET, [near(number) for number in range(1, CLOSEST + 2)], anyone)
    for _ in range(CLOSEST):
        contact = traversal.next()
        assert contact
        assert traversal.answered(near(10**6, contact.address) if contact == near(3) else contact)
    assert not traversal.is_done
    assert traversal.next() == near(CLOSEST + 1)
    assert traversal.answered(near(CLOSEST + 1))
    assert traversal.is_done
    assert near(3) not in found(traversal)
    assert len(found(traversal)) == CLOSEST


def test_a_slow_node_with_another_id_counts() -> None:
    traversal = Traversal(TARGET, [near(5)], anyone)
    assert traversal.next() == near(5)
    traversal.slow(near(5).address)
    assert traversal.answered(near(1, near(5).address))
    assert is_silent(traversal)
    assert found(traversal) == [near(1, near(5).address)]
    # Further replies are ignored.
    assert traversal.answered(near(1, near(5).address)) is None
    assert traversal.answered(near(5)) is None


def test_a_restarted_network_is_found_by_its_old_contacts() -> None:
    nodes, before = network(300), network(300, seed=2)
    traversal = Traversal(TARGET, before[:CLOSEST], anyone)
    walk(traversal, answers_of(nodes), at={node.address: node for node in nodes})
    assert found(traversal) == nsmallest(CLOSEST, nodes, key=distance)
    assert all(candidate.token == b"token of " + candidate.contact.node_id for candidate in traversal.closest())
