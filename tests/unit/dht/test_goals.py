"""Traversals among liars: the nodes that store, those whose id fits their address, and those within reach."""

import random
from collections.abc import Callable, Iterable
from heapq import nsmallest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.dht.krpc.estimate import SizeEstimate
from extensions.dht.krpc.messages import Contact
from extensions.dht.krpc.node_ids import crc32c, fits
from extensions.dht.krpc.traversal import (
    CLOSEST,
    DETOURS,
    JUDGED,
    MAX_CONTACTS,
    MAX_QUERIES,
    Candidate,
    Goal,
    State,
    Traversal,
)
from tests.unit.dht.test_traversal import TARGET, anyone, distance, found, near, network

STORING = Goal(needs_token=True)

# The nodes named in the reply of a node that is asked for a target, and its token; None if it does not answer.
Answer = Callable[[Contact, int], tuple[Iterable[Contact], bytes] | None]

SPOT = int.from_bytes(TARGET, "big")


def global_host(number: int) -> str:
    """Return a global address, in a network of its own."""
    return f"{20 + (number >> 16)}.{number >> 8 & 255}.{number & 255}.1"


def compliant(number: int, source: random.Random) -> Contact:
    """Return a node whose id fits its address (BEP 42)."""
    host, last = global_host(number), source.randrange(256)
    masked = int.from_bytes(bytes(map(int, host.split("."))), "big") & 0x030F3FFF | (last & 7) << 29
    prefix = crc32c(masked.to_bytes(4, "big")) >> 11
    node_id = (prefix << 3 | source.randrange(8)).to_bytes(3, "big") + source.randbytes(16) + bytes([last])
    assert fits(node_id, host)
    return Contact(node_id, (host, 6881))


def wilful(number: int, node_id: bytes) -> Contact:
    """Return a node that has chosen its id."""
    host = global_host(number)
    assert not fits(node_id, host)
    return Contact(node_id, (host, 6881))


def at(spot: int) -> bytes:
    return spot.to_bytes(20, "big")


def search(traversal: Traversal, answer: Answer) -> list[Contact]:
    """Run a traversal to its end; nodes answer in the order of the queries. Return the nodes asked."""
    asked = []
    while not traversal.is_done:
        contact = traversal.next()
        detours = traversal.detours()
        assert contact or detours, "nothing will ever happen"
        for scout, target in detours:
            reply = answer(scout, int.from_bytes(target, "big"))
            traversal.scouted(reply[0] if reply else ())
        if contact:
            asked.append(contact)
            if (reply := answer(contact, SPOT)) is None:
                traversal.failed(contact.address)
            else:
                assert traversal.answered(contact, *reply)
    assert traversal.queries <= MAX_QUERIES
    return asked


class Crowd:
    """Honest nodes, of which a seventh do not fit, and Sybils at given distances from the target.

    Sybils give tokens, and name each other. In the tables of honest nodes they are like any other node.
    """

    def __init__(self, honest: int, distances: Iterable[int] = (), seed: int = 1) -> None:
        source = random.Random(seed)
        self.honest = [
            compliant(number, source) if number % 7 else wilful(number, source.randbytes(20))
            for number in range(honest)
        ]
        self.sybils = [wilful(honest + number, at(SPOT ^ far)) for number, far in enumerate(distances)]
        self._all = sorted((int.from_bytes(one.node_id, "big"), one) for one in [*self.honest, *self.sybils])
        self._tables: dict[Contact, list[Contact]] = {}
        self._source = source
        estimate = SizeEstimate()
        for _ in range(8):
            target = source.randbytes(20)
            spot = int.from_bytes(target, "big")
            nearest = nsmallest(8, self.honest, key=lambda one: int.from_bytes(one.node_id, "big") ^ spot)
            estimate.note(target, [one.node_id for one in nearest])
        self.reach = estimate.reach

    def answer(self, contact: Contact, target: int) -> tuple[list[Contact], bytes]:
        if contact in self.sybils:
            return self._source.sample(self.sybils, min(len(self.sybils), MAX_CONTACTS)), b"token"
        if contact not in self._tables:
            own = int.from_bytes(contact.node_id, "big")
            buckets: dict[int, list[Contact]] = {}
            for number, one in self._all:
                buckets.setdefault((number ^ own).bit_length(), []).append(one)
            self._tables[contact] = [
                one
                for far, bucket in buckets.items()
                if far
                for one in self._source.sample(bucket, min(len(bucket), CLOSEST))
            ]
        table = self._tables[contact]
        return nsmallest(8, table, key=lambda one: int.from_bytes(one.node_id, "big") ^ target), b"token"

    def search(self, start: int, goal: Goal | None = None) -> Traversal:
        """Look up the target, starting from some honest nodes."""
        traversal = Traversal(
            TARGET, self.honest[start : start + 16], anyone, goal=goal or Goal(True, True, self.reach)
        )
        search(traversal, self.answer)
        return traversal


# Nodes that store


def test_a_node_without_a_token_does_not_take_the_place_of_one_that_stores() -> None:
    nodes = [near(number) for number in range(1, 41)]
    traversal = Traversal(TARGET, nodes, anyone, goal=STORING)
    asked = search(traversal, lambda contact, _: ((), b"token" if distance(contact) % 3 == 0 else b""))
    assert found(traversal) == [near(number) for number in range(3, 25, 3)]
    assert asked == nodes[:24]
    assert [candidate.can_store for candidate in traversal.asked()] == [number % 3 == 0 for number in range(1, 25)]
    assert [one.contact for one in traversal.live()] == nodes[:24]


def test_a_known_refuser_is_asked_but_does_not_count() -> None:
    refusers = {near(number).address for number in (1, 2, 5)}
    traversal = Traversal(
        TARGET, [near(n) for n in range(1, 21)], anyone, goal=Goal(True, refuses=refusers.__contains__)
    )
    asked = search(traversal, lambda _contact, _: ((), b"token"))
    assert asked == [near(number) for number in range(1, 12)]
    assert found(traversal) == [near(number) for number in (3, 4, 6, 7, 8, 9, 10, 11)]


@pytest.mark.parametrize("size", [0, 1, 20])
def test_a_small_network_without_tokens_is_searched_once(size: int) -> None:
    nodes = network(size)
    traversal = Traversal(TARGET, nodes[:8], anyone, goal=Goal(True, True, 2**160 - 1))
    source = random.Random(1)
    assert set(search(traversal, lambda _contact, _: (source.sample(nodes, min(8, size)), b""))) == set(nodes)
    assert traversal.closest() == []


def test_endless_nodes_without_tokens_end_at_the_limit() -> None:
    left = iter(range(10**6, 0, -1))
    traversal = Traversal(TARGET, network(CLOSEST), anyone, goal=Goal(True, True, 2**80))
    search(traversal, lambda _contact, _: ([near(next(left)) for _ in range(MAX_CONTACTS)], b""))
    assert traversal.queries == MAX_QUERIES
    assert traversal.closest() == []


def test_a_node_that_refuses_later_is_replaced_by_the_next_one() -> None:
    nodes = [near(number) for number in range(1, 21)]
    traversal = Traversal(TARGET, nodes, anyone, goal=STORING)
    assert search(traversal, lambda _contact, _: ((), b"token")) == nodes[:8]
    for candidate in traversal.closest()[:3]:
        candidate.can_store = False
    assert not traversal.is_done
    assert search(traversal, lambda _contact, _: ((), b"token")) == nodes[8:11]
    assert found(traversal) == nodes[3:11]


# Nodes whose id fits, and nodes within reach


def test_the_closest_nodes_with_a_fitting_id_are_found_too() -> None:
    source = random.Random(1)
    honest = sorted((compliant(number, source) for number in range(200)), key=distance)
    wilful_ones = [wilful(1000 + number, at(SPOT ^ number)) for number in range(1, 41)]
    traversal = Traversal(TARGET, [*wilful_ones, *honest], anyone, goal=Goal(True, True))
    asked = search(traversal, lambda _contact, _: ((), b"token"))
    assert set(asked) == {*wilful_ones[:8], *honest[:8]}
    assert found(traversal) == [*wilful_ones[:8], *honest[:8]]
    assert [one.fits for one in traversal.closest()] == [False] * 8 + [True] * 8


def test_fitting_nodes_that_are_dead_are_replaced() -> None:
    source = random.Random(1)
    honest = sorted((compliant(number, source) for number in range(200)), key=distance)
    wilful_ones = [wilful(1000 + number, at(SPOT ^ number)) for number in range(1, 9)]
    traversal = Traversal(TARGET, [*wilful_ones, *honest], anyone, goal=Goal(True, True))
    search(traversal, lambda contact, _: None if contact in honest[:20] else ((), b"token"))
    assert found(traversal) == [*wilful_ones, *honest[20:28]]


def test_the_search_for_fitting_nodes_is_not_held_up_by_others_without_tokens() -> None:
    source = random.Random(1)
    honest = sorted((compliant(number, source) for number in range(200)), key=distance)
    sybils = [wilful(1000 + number, at(SPOT ^ number)) for number in range(1, 1001)]
    traversal = Traversal(TARGET, [*sybils, *honest], anyone, goal=Goal(True, True))
    asked = search(traversal, lambda contact, _: ((), b"token" if contact in honest else b""))
    assert set(honest[:8]) <= set(asked[:16])
    assert set(honest[:8]) == set(found(traversal))


def test_all_nodes_within_reach_are_found() -> None:
    nodes = [near(number) for number in range(1, 31)]
    traversal = Traversal(TARGET, nodes, anyone, goal=Goal(True, reach=20))
    assert set(search(traversal, lambda _contact, _: ((), b"token"))) == set(nodes[:20])
    assert found(traversal) == nodes[:20]


def test_of_too_many_nodes_within_reach_the_nearest_and_the_farthest_are_asked() -> None:
    nodes = [near(number) for number in range(1, 401)]
    traversal = Traversal(TARGET, nodes, anyone, goal=Goal(True, reach=399))
    asked = search(traversal, lambda _contact, _: ((), b"token"))
    detours = CLOSEST * DETOURS
    assert {*asked} == {*nodes[:8], *nodes[399 - (MAX_QUERIES - detours - 8) : 399]}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("sybils", [8, 64, 128, 200])
@pytest.mark.parametrize("spread", [1, 64], ids=["nearest", "spread"])
def test_readers_and_writers_meet_among_sybils(sybils: int, spread: int, seed: int) -> None:
    calm = Crowd(3000, seed=seed)
    steps = calm.reach // sybils if spread > 1 else 1
    crowd = Crowd(3000, ((number + 1) * steps for number in range(sybils)), seed)
    copies = {candidate.contact for candidate in crowd.search(0).closest()} - {*crowd.sybils}
    assert len(copies) >= CLOSEST
    for reader in range(1, 4):
        assert copies & {candidate.contact for candidate in crowd.search(100 * reader).live()}
    if spread == 1:
        # Without these goals, not a single honest node is found.
        assert {candidate.contact for candidate in crowd.search(0, STORING).closest()} <= {*crowd.sybils}


@pytest.mark.parametrize("seed", range(3))
def test_an_honest_network_costs_little(seed: int) -> None:
    crowd = Crowd(3000, seed=seed)
    queries, stores = [], []
    for start in range(0, 200, 10):
        traversal = crowd.search(start)
        queries.append(traversal.queries)
        stores.append(len(traversal.closest()))
        assert {*nsmallest(8, crowd.honest, key=distance)} <= {*found(traversal)}
    assert sum(queries) / len(queries) < 22
    assert sum(stores) / len(stores) < 16


nodes_of_all_kinds = st.lists(
    st.tuples(st.integers(1, 200), st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    max_size=60,
    unique_by=lambda one: one[0],
)


@given(nodes_of_all_kinds, st.booleans(), st.booleans(), st.sampled_from([0, 5, 60]))
@settings(derandomize=True, max_examples=200)
def test_the_nodes_found_are_those_of_the_goal(
    kinds: list[tuple[int, bool, bool, bool, bool]], needs_token: bool, needs_fitting: bool, reach: int
) -> None:
    """Each node has a distance, and may be compliant, alive, have a token, and be known to refuse."""
    nodes = {
        Contact(at(SPOT ^ far), (f"10.0.{far}.1" if is_local else global_host(far), 1)): (alive, token, refuses)
        for far, is_local, alive, token, refuses in kinds
    }
    refusers = {contact.address for contact, (_, _, refuses) in nodes.items() if refuses}
    goal = Goal(needs_token, needs_fitting, reach, refusers.__contains__)
    traversal = Traversal(TARGET, nodes, anyone, goal=goal)
    asked = search(
        traversal, lambda contact, _: ((), b"token" if nodes[contact][1] else b"") if nodes[contact][0] else None
    )
    able = [
        one
        for one in sorted(nodes, key=distance)
        if nodes[one][0] and not nodes[one][2] and nodes[one][1] >= needs_token
    ]
    # Any id fits a local address, and these do not fit the others.
    fitting = [one for one in able if one.address[0].startswith("10.")] if needs_fitting else []
    wanted = {*able[:CLOSEST], *fitting[:CLOSEST], *(one for one in able if distance(one) <= reach)}
    if needs_token and len(able) < CLOSEST:
        others = [one for one in sorted(nodes, key=distance) if nodes[one] == (True, True, True)]
        wanted |= {*others[: CLOSEST - len(able)]}
    assert found(traversal) == sorted(wanted, key=distance)
    # No more nodes are asked than that takes.
    last = max(
        [distance(able[CLOSEST - 1])] if len(able) >= CLOSEST else [200],
        [distance(fitting[CLOSEST - 1])] if len(fitting) >= CLOSEST else [200 * needs_fitting],
    )[0]
    assert all(distance(one) <= max(last, reach) for one in asked)


def test_detours_go_once_to_fitting_nodes_and_only_in_a_crowd() -> None:
    source = random.Random(1)
    honest = sorted((compliant(number, source) for number in range(200)), key=distance)
    sybils = [wilful(1000 + number, at(SPOT ^ number)) for number in range(1, 9)]
    reach = distance(honest[7])
    for start, is_crowd in ((honest, False), ([*sybils, *honest], True)):
        traversal = Traversal(TARGET, start, anyone, goal=Goal(True, True, reach))
        detours: list[tuple[Contact, bytes]] = []
        while contact := traversal.next():
            assert traversal.answered(contact, (), b"token")
            detours += traversal.detours()
        assert bool(detours) == is_crowd
        assert {contact for contact, _ in detours} == ({*honest[:8]} if is_crowd else set())
        assert traversal.is_done != is_crowd
        targets = [int.from_bytes(target, "big") ^ SPOT for _, target in detours]
        assert all(reach / 8 < far < 4 * reach for far in targets)
        assert len({*targets}) == (4 if is_crowd else 0)
        for _ in detours:
            assert not traversal.is_done
            traversal.scouted()
        assert traversal.is_done
        assert traversal.detours() == []


@pytest.mark.parametrize("nodes", [1, 8, 9, 17])
def test_detours_stay_among_the_ids_if_the_dht_is_believed_to_be_tiny(nodes: int) -> None:
    # The estimate is that of the start, and the DHT has grown since.
    source = random.Random(1)
    reach = min(2**160 - 1, 8 * 2**160 // nodes)
    crowd = sorted((compliant(number, source) for number in range(400)), key=distance)[:30]
    traversal = Traversal(TARGET, crowd, anyone, goal=Goal(True, True, reach))
    while contact := traversal.next():
        traversal.answered(contact, (), b"token")
    targets = {target for _, target in traversal.detours()}
    assert {len(target) for target in targets} == {20}
    assert len(targets) == 4


# Nodes that do not answer this method


def asked_one() -> Traversal:
    traversal = Traversal(TARGET, [near(1)], anyone, goal=STORING)
    assert traversal.next() == near(1)
    return traversal


def state(traversal: Traversal) -> Candidate:
    [candidate] = traversal.asked()
    return candidate


def test_a_node_that_refuses_a_method_may_name_others() -> None:
    traversal = asked_one()
    assert traversal.ask_again(near(1).address, 204)
    assert traversal.queries == 2
    assert not traversal.is_done
    traversal.routed(near(1), [near(2)])
    assert (state(traversal).state, state(traversal).can_store, state(traversal).code) == (State.ANSWERED, False, 204)
    assert traversal.next() == near(2)
    assert traversal.answered(near(1), (), b"token") is None


def test_a_node_that_is_asked_again_does_not_count_meanwhile() -> None:
    traversal = Traversal(TARGET, [near(number) for number in range(1, 10)], anyone, goal=STORING)
    assert traversal.next() == near(1)
    for number in range(2, 9):
        assert traversal.next() == near(number)
        assert traversal.answered(near(number), (), b"token")
    assert traversal.next() is None
    assert traversal.ask_again(near(1).address, 204)
    assert traversal.next() == near(9)


def test_a_late_node_that_is_asked_again_may_still_answer_the_first_query() -> None:
    traversal = asked_one()
    traversal.slow(near(1).address)
    assert traversal.ask_again(near(1).address)
    assert not traversal.is_done
    traversal.routed(near(1), [near(2)])
    assert traversal.next() == near(2)
    candidate = traversal.answered(near(1), (), b"token")
    assert candidate
    assert (candidate.token, candidate.can_store) == (b"token", True)
    assert traversal.answered(near(1), (), b"token") is None
    traversal.failed(near(2).address)
    assert found(traversal) == [near(1)]
    assert traversal.pending == 0


def test_the_first_reply_of_a_late_node_may_come_first() -> None:
    traversal = asked_one()
    traversal.slow(near(1).address)
    assert traversal.ask_again(near(1).address)
    assert traversal.answered(near(1), (), b"token")
    traversal.routed(near(1), [near(2)])
    assert found(traversal) == [near(1)]
    assert traversal.next() == near(2)


@pytest.mark.parametrize("order", ["first", "second"])
def test_a_late_node_has_failed_when_both_queries_have(order: str) -> None:
    traversal = asked_one()
    traversal.slow(near(1).address)
    assert traversal.ask_again(near(1).address)
    ends = [traversal.failed, traversal.not_routed]
    first, second = ends if order == "first" else ends[::-1]
    first(near(1).address)
    assert traversal.pending == 1
    second(near(1).address)
    assert traversal.pending == 0
    assert traversal.is_done
    assert state(traversal).state is State.FAILED


def test_a_node_with_another_id_in_its_second_reply_counts_under_that() -> None:
    traversal = asked_one()
    assert traversal.ask_again(near(1).address, 204)
    traversal.routed(near(7, near(1).address), [])
    assert state(traversal).contact == near(7, near(1).address)
    assert not state(traversal).can_store
    assert traversal.closest() == []


def test_only_a_pending_query_can_be_repeated() -> None:
    traversal = asked_one()
    assert not traversal.ask_again(near(2).address)
    assert traversal.answered(near(1), (), b"token")
    assert not traversal.ask_again(near(1).address)
    assert found(traversal) == [near(1)]


def test_most_nodes_are_late_if_more_than_half_are() -> None:
    traversal = Traversal(TARGET, [near(number) for number in range(1, 41)], anyone)
    for number in range(1, JUDGED + 3):
        contact = traversal.next()
        assert contact
        if number <= JUDGED // 2 + 1:
            traversal.slow(contact.address)
            assert not traversal.is_mostly_late
        else:
            traversal.answered(contact)
            assert traversal.is_mostly_late == (number in (JUDGED, JUDGED + 1))


def test_a_node_that_is_late_twice_counts_once() -> None:
    traversal = Traversal(TARGET, [near(number) for number in range(1, 41)], anyone)
    late = [traversal.next() for _ in range(4)]
    for contact in late:
        assert contact
        traversal.slow(contact.address)
        assert traversal.ask_again(contact.address)
        traversal.not_routed(contact.address)
    for _ in range(JUDGED - 4):
        contact = traversal.next()
        assert contact
        traversal.answered(contact)
    assert not traversal.is_mostly_late


def test_the_error_of_a_refusal_is_kept() -> None:
    traversal = asked_one()
    traversal.failed(near(1).address, 203)
    assert state(traversal).code == 203
