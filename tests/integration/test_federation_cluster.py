"""A tracker of several nodes is one tracker for others: one link, whichever node it begins at, for the peers of all."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.client import Json, RawClient, answer, eventually, offers, raw_client
from tests.conftest import free_port
from tests.integration.cluster_in_process import Nodes
from tests.integration.conftest import Federate, Running
from tests.unit.fakes import peer_id

A, B, C, D = (peer_id(number) for number in range(1, 5))


@pytest.fixture
async def nodes(serve: Any, tmp_path: Path) -> AsyncIterator[Nodes]:
    nodes = Nodes(serve, tmp_path / "nodes")
    yield nodes
    await nodes.stop()


def links_of(tracker: Running) -> dict[str, Any]:
    mesh = tracker.extension("federation").mesh
    return dict(mesh.links) if mesh else {}


async def offer_for(client: RawClient) -> Json:
    """Return the next offer that a client receives."""
    return await client.receive_until(lambda message: "offer" in message)


async def counted(client: RawClient, peer: str, complete: int, incomplete: int) -> None:
    """Wait until a peer is told these numbers."""

    async def is_so() -> bool:
        reply = await client.announce(peer)
        return bool((reply["complete"], reply["incomplete"]) == (complete, incomplete))

    await eventually(is_so)


async def meet(maker: RawClient, maker_id: str, receiver: RawClient, receiver_id: str, number: int) -> None:
    """Have one client make offers until the other one has one of them, and its answer comes back."""

    async def is_given() -> bool:
        nonlocal number
        number += 1
        made = offers(5, start=1000 * number)
        await maker.announce(maker_id, offers=made, numwant=5)
        await maker.ping()
        await receiver.ping()
        for message in await receiver.received():
            if "offer" in message and message["peer_id"] == maker_id:
                await receiver.send(answer(receiver_id, maker_id, message["offer_id"]))
                return True
        return False

    await eventually(is_given)
    answered = await maker.receive_until(lambda message: "answer" in message and message["peer_id"] == receiver_id)
    assert answered["answer"]["type"] == "answer"


async def test_another_tracker_that_dials_any_node_has_one_link_for_the_peers_of_all_nodes(
    nodes: Nodes, federate: Federate
) -> None:
    await nodes.start(2, allow_private_addresses=True)
    other = 1 - nodes.gateway
    outside = await federate("outside", peers=[nodes.trackers[other].url], allow_private_addresses=True)
    await eventually(lambda: nodes.id in links_of(outside))
    gateway = nodes.trackers[nodes.gateway]
    await eventually(lambda: len(links_of(gateway)) == 1)
    (link,) = links_of(gateway).values()
    assert link.direction == "accepted"
    # The link has gone through a tunnel: this node has no federation.
    assert nodes.trackers[other].extension("federation").mesh is None
    async with AsyncExitStack() as stack:
        urls = [gateway.url, nodes.trackers[other].url, outside.url]
        clients = [await stack.enter_async_context(raw_client(url)) for url in urls]
        ids = [A, B, C]
        for client, peer in zip(clients, ids, strict=True):
            await client.announce(peer, left=0 if peer == B else 1)
        for client, peer in zip(clients, ids, strict=True):
            await counted(client, peer, 1, 2)
        for at, (maker, receiver) in enumerate([(0, 2), (2, 0), (1, 2), (2, 1), (0, 1), (1, 0)]):
            await meet(clients[maker], ids[maker], clients[receiver], ids[receiver], 10 * at)
    assert list(links_of(outside)) == [nodes.id]
    # Any node shows the link.
    for tracker in nodes.trackers:
        tables = tracker.server.extensions.tables
        await tables.refresh()
        (row,) = tables.read()["federation"]
        assert (row["direction"], row["shared_swarms"] <= 1) == ("accepted", True)


async def test_the_first_peers_of_both_sides_meet_by_their_parked_offers(nodes: Nodes, federate: Federate) -> None:
    await nodes.start(2, allow_private_addresses=True)
    other = 1 - nodes.gateway
    outside = await federate("outside", peers=[nodes.trackers[nodes.gateway].url], allow_private_addresses=True)
    await eventually(lambda: nodes.id in links_of(outside))
    for number, (first, second) in enumerate([(nodes.trackers[other], outside), (outside, nodes.trackers[other])]):
        info_hash = f"{number:020}"
        async with raw_client(first.url) as early, raw_client(second.url) as late:
            # The first peer makes its offers while it is alone, and none later.
            await early.announce(A, info_hash, offers=offers(3), numwant=3)
            await late.announce(B, info_hash)
            offer = await offer_for(late)
            assert offer["peer_id"] == A
            await late.send(answer(B, A, offer["offer_id"], info_hash))
            answered = await early.receive_until(lambda message: "answer" in message)
            assert answered["peer_id"] == B


async def test_another_node_takes_over_when_the_gateway_dies(nodes: Nodes, federate: Federate) -> None:
    await nodes.start(2, allow_private_addresses=True)
    first, other = nodes.gateway, 1 - nodes.gateway
    # It dials either node; behind a load balancer it would be one URL.
    outside = await federate("outside", peers=[tracker.url for tracker in nodes.trackers], allow_private_addresses=True)
    await eventually(lambda: nodes.id in links_of(outside))
    async with raw_client(nodes.trackers[other].url) as a, raw_client(outside.url) as b:
        await a.announce(A)
        await b.announce(B)
        await counted(a, A, 0, 2)
        await counted(b, B, 0, 2)
        nodes.kill(first)
        # The numbers of linked peers go with the gateway, and come back with the next one.
        await nodes.elected()
        assert nodes.gateway == other
        await eventually(lambda: nodes.id in links_of(outside) and len(links_of(nodes.trackers[other])) == 1)
        await counted(a, A, 0, 2)
        await counted(b, B, 0, 2)
        await meet(a, A, b, B, 0)
        await meet(b, B, a, A, 100)
    assert list(links_of(outside)) == [nodes.id]


async def test_a_gateway_that_stops_says_so_to_other_trackers_also_through_a_tunnel(
    nodes: Nodes, federate: Federate
) -> None:
    await nodes.start(2, allow_private_addresses=True)
    other = 1 - nodes.gateway
    outside = await federate("outside", peers=[nodes.trackers[other].url], allow_private_addresses=True)
    await eventually(lambda: nodes.id in links_of(outside))
    await nodes.trackers[nodes.gateway].server.stop()
    mesh = outside.extension("federation").mesh
    await eventually(lambda: mesh.closed_there["shutdown"] >= 1)
    await eventually(lambda: len(links_of(nodes.trackers[other])) == 1)


async def test_a_tracker_that_lists_its_own_nodes_knows_itself(nodes: Nodes) -> None:
    """Operators give the same list to all trackers. Behind a load balancer, it reaches any of its own nodes."""
    ports = [free_port(), free_port()]
    with capture_logs() as log:
        await nodes.start(2, ports, peers=[f"ws://127.0.0.1:{port}" for port in ports], allow_private_addresses=True)
        mesh = nodes.trackers[nodes.gateway].extension("federation").mesh
        await eventually(lambda: all(listed.is_itself for listed in mesh.listed.values()))
    assert mesh.links == {}
    assert [line["event"] for line in log if line["log_level"] in ("error", "warning")] == []
