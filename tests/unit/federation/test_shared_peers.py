"""Clients with several linked trackers in their lists: each pair is introduced as if the trackers were not linked."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from itertools import permutations
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.client import Json
from tests.unit.federation.mesh_in_memory import Client, MemoryMesh
from tracker.core.overlap import MARKS_WITHIN

Scenario = Callable[[], Coroutine[Any, Any, None]]

lists = st.lists(st.sets(st.integers(0, 2), min_size=1), min_size=2, max_size=9)


async def join(mesh: MemoryMesh, trackers: list[set[int]]) -> list[Client]:
    """Return a member for each list of trackers. All trackers know where all of them are."""
    clients = [Client(mesh, number, chosen) for number, chosen in enumerate(trackers)]
    for client in clients:
        client.announce(0)
        await mesh.settle()
    await mesh.tell()
    for client in clients:
        client.take_offers()
    return clients


async def introductions(mesh: MemoryMesh, clients: list[Client], count: int) -> dict[tuple[str, str], Counter[str]]:
    """Have each member announce once. Return the offer_ids that each receiver got of each maker."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for client in clients:
        client.announce(count)
        await mesh.settle()
        for receiver in clients:
            for maker, offer_id, _ in receiver.take_offers():
                found.setdefault((maker, receiver.peer_id), Counter())[offer_id] += 1
    return found


@pytest.mark.parametrize("nodes", [1, 3])
@settings(max_examples=100)
@given(trackers=lists)
def test_each_pair_meets_at_its_common_trackers_or_else_over_one_link(nodes: int, trackers: list[set[int]]) -> None:
    async def scenario() -> None:
        mesh = MemoryMesh(3, nodes=nodes)
        clients = await join(mesh, trackers)
        await check(mesh, clients, exactly=True)

    asyncio.run(scenario())


@pytest.mark.parametrize("nodes", [1, 3])
@settings(max_examples=50)
@given(trackers=lists)
def test_trackers_that_are_not_vouched_for_introduce_no_pair_less_often(nodes: int, trackers: list[set[int]]) -> None:
    async def scenario() -> None:
        mesh = MemoryMesh(3, trusting=False, nodes=nodes)
        clients = await join(mesh, trackers)
        await check(mesh, clients, exactly=False)

    asyncio.run(scenario())


async def check(mesh: MemoryMesh, clients: list[Client], *, exactly: bool) -> None:
    """Have all members make more than enough offers."""
    found = await introductions(mesh, clients, 20)
    for one, other in permutations(clients, 2):
        received = found.pop((one.peer_id, other.peer_id), Counter())
        common = one.connections.keys() & other.connections.keys()
        if exactly:
            assert received.total() == (len(common) or 1)
        else:
            assert received.total() >= (len(common) or 1)
        if not common:
            assert max(received.values()) == 1, "the same offer twice"
    assert not found, "a peer got its own offers"


@pytest.mark.parametrize("linked", [False, True])
def test_a_member_gets_the_same_offer_everywhere_and_again_after_others_have_joined(linked: bool) -> None:
    """Otherwise two members answer one offer, and only the first of them is connected."""

    async def scenario() -> None:
        mesh = MemoryMesh(2, linked=linked)
        maker, *others = [Client(mesh, number, {0, 1}) for number in (5, 9, 2, 7, 1)]
        made: list[Json] = []
        expected: dict[str, str] = {}
        maker.announce(0)
        for newcomer in others:
            newcomer.announce(0)
            await mesh.tell()
            made = maker.announce(4, again=made)
            await mesh.settle()
            for receiver in others:
                received = {(maker, offer_id) for maker, offer_id, _ in receiver.take_offers()}
                if newcomer is receiver or receiver.peer_id in expected:
                    ((_, offer_id),) = received
                    assert expected.setdefault(receiver.peer_id, offer_id) == offer_id
        assert len(set(expected.values())) == len(others)

    asyncio.run(scenario())


members = st.integers(0, 5)
steps = st.one_of(
    st.tuples(st.just("join"), st.sets(st.integers(0, 2), min_size=1)),
    st.tuples(st.just("announce"), members),
    st.tuples(st.just("leave"), members),
    st.tuples(st.just("leave one"), members),
    st.tuples(st.just("also join"), members, st.integers(0, 2)),
    st.tuples(st.just("tell")),
    st.tuples(st.just("settle")),
)


@pytest.mark.parametrize("nodes", [1, 3])
@settings(max_examples=100)
@example(script=[("join", {0, 1}), ("join", {2}), ("tell",), ("join", {0, 1})])
@example(script=[("join", {1, 2}), ("join", {0}), ("tell",), ("announce", 0), ("leave one", 0)])
@example(script=[("join", {0}), ("join", {1}), ("tell",), ("join", {0}), ("join", {0}), ("join", {1, 2})])
@example(script=[("join", {0, 1}), ("join", {0}), ("tell",), ("leave one", 0), ("join", {0})])
@given(script=st.lists(steps, max_size=25))
def test_whatever_has_happened_trackers_soon_know_which_peers_are_the_same(
    nodes: int, script: list[tuple[Any, ...]]
) -> None:
    async def scenario() -> None:
        mesh = MemoryMesh(3, nodes=nodes)
        clients: list[Client] = []
        for step, *arguments in script:
            await perform(mesh, clients, step, *arguments)
        await mesh.tell()
        for client in clients:
            client.announce(0)
            client.take_offers()
        await mesh.tell()
        for tracker in mesh.trackers:
            # The time for which refused offers keep peers apart, although there is no lasting reason.
            tracker.now += 2 * MARKS_WITHIN
        for client in clients:
            client.announce(0)
            assert set(client.counted().values()) <= {(0, len(clients))}
        await check(mesh, clients, exactly=True)

    asyncio.run(scenario())


async def perform(mesh: MemoryMesh, clients: list[Client], step: str, *arguments: Any) -> None:
    if step == "join":
        clients.append(Client(mesh, mesh.number_of_offers(1), arguments[0]))
        clients[-1].announce(3)
    elif step == "tell":
        await mesh.tell()
    elif step == "settle":
        await mesh.settle()
    elif arguments[0] < len(clients):
        client = clients[arguments[0]]
        if step == "announce":
            client.announce(3)
        elif step == "also join":
            client.join(arguments[1])
        elif step == "leave one" and len(client.connections) > 1:
            client.leave(min(client.connections))
        elif step == "leave":
            client.leave()
            clients.remove(client)
