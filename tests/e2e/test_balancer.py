"""Nodes of one tracker behind HAProxy and nginx, with a NATS server, configured as docs/deploy has it.

Only ports, files and the password differ.
"""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from websockets.exceptions import InvalidHandshake

from tests.client import RawClient, answer, eventually, offers
from tests.conftest import StartTracker, TrackerProcess
from tests.e2e.nats import Nodes
from tests.e2e.proxies import BALANCERS, ELSEWHERE, FAR, Place, Proxy
from tests.unit.fakes import peer_id

pytestmark = pytest.mark.parametrize("balancer", BALANCERS.values(), ids=BALANCERS, indirect=True)


@pytest.fixture
async def balancer(request: pytest.FixtureRequest, tmp_path: Path, start_tracker: StartTracker) -> AsyncIterator[Proxy]:
    """Return each balancer. The test starts it and its nodes."""
    balancer = Proxy(request.param, Place.new(tmp_path), start_tracker)
    yield balancer
    await balancer.stop()
    log = (tmp_path / "log").read_text()
    assert re.findall(r".*\[(?:crit|emerg)\].*|.*\[ALERT\].* config.*", log) == []


@pytest.fixture
async def cluster(balancer: Proxy, tmp_path: Path) -> AsyncIterator[Nodes]:
    """Start the NATS server. The test starts the nodes."""
    nodes = Nodes(tmp_path, balancer.place.pair)
    await nodes.nats.start()
    yield nodes
    await nodes.nats.stop()


async def connections(nodes: list[TrackerProcess]) -> list[float]:
    return [await node.metric("peerservers_connections") for node in nodes]


async def test_clients_are_spread_over_the_nodes_which_see_their_addresses(balancer: Proxy) -> None:
    nodes = [await balancer.start_node(number, connections_per_address=1, exempt=[]) for number in range(2)]
    await balancer.run()
    async with AsyncExitStack() as stack:
        for address in (ELSEWHERE, FAR):
            await stack.enter_async_context(balancer.client(address))
        assert await connections(nodes) == [1, 1]


async def test_a_node_that_is_full_leaves_a_client_to_another_one(balancer: Proxy) -> None:
    nodes = [await balancer.start_node(number, max_connections=limit) for number, limit in enumerate((1, 5))]
    await balancer.run()
    async with AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(balancer.client())
        assert await connections(nodes) == [1, 3]


async def back(balancer: Proxy, stack: AsyncExitStack) -> RawClient:
    """Return a client that has connected again, however often that has to be tried."""
    found: list[RawClient] = []

    async def connects() -> bool:
        try:
            found.append(await stack.enter_async_context(balancer.client()))
        except (InvalidHandshake, OSError):
            return False
        return True

    await eventually(connects)
    return found[0]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
async def test_the_clients_of_a_node_that_ends_find_another_one(balancer: Proxy, number: signal.Signals) -> None:
    nodes = [await balancer.start_node(number) for number in range(2)]
    await balancer.run()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(balancer.client()) for _ in range(4)]
        assert await connections(nodes) == [2, 2]
        await nodes[0].stop(number)
        closed = [asyncio.ensure_future(client.closed()) for client in clients]
        await eventually(lambda: sum(one.done() for one in closed) == 2)
        ended = [one for one in closed if one.done()]
        assert {one.result()[0] for one in ended} == {1006 if number == signal.SIGKILL else 1001}
        for one in set(closed) - set(ended):
            one.cancel()
        for _ in range(2):
            await back(balancer, stack)
        assert await connections(nodes[1:]) == [4]


async def start(balancer: Proxy, cluster: Nodes) -> list[TrackerProcess]:
    """Start both nodes, and wait until they know each other; then start the balancer."""
    nodes = [await balancer.start_node(number, cluster.env(number)) for number in range(2)]
    for node in nodes:
        await node.logged("node_joined")
    await balancer.run()
    return nodes


async def meet(maker: RawClient, maker_id: str, taker: RawClient, taker_id: str, start: int) -> None:
    """Let one peer make an offer, and another one answer it. The tracker has no other peers."""
    await maker.announce(maker_id, offers=offers(1, start=start))
    offer = await taker.receive_until(lambda message: "offer" in message)
    assert offer["peer_id"] == maker_id
    await taker.send(answer(taker_id, maker_id, offer["offer_id"]))
    reply = await maker.receive_until(lambda message: "answer" in message)
    assert (reply["peer_id"], reply["offer_id"]) == (taker_id, offer["offer_id"])


async def test_clients_at_different_nodes_meet_and_meet_again_when_a_node_is_gone(
    balancer: Proxy, cluster: Nodes
) -> None:
    nodes = await start(balancer, cluster)
    one, other = peer_id(1), peer_id(2)
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(balancer.client()) for _ in range(2)]
        assert await connections(nodes) == [1, 1]
        await first.announce(one)
        await second.announce(other)
        # The two nodes know of each other's peers a moment later.
        await eventually(lambda: sees(second, other, 2))
        await meet(second, other, first, one, 0)

        nodes[0].process.kill()
        closed = [asyncio.ensure_future(client.closed()) for client in (first, second)]
        await asyncio.wait(closed, return_when=asyncio.FIRST_COMPLETED)
        lost, kept = (first, second) if closed[0].done() else (second, first)
        lost_id, kept_id = (one, other) if lost is first else (other, one)
        for waiting in closed:
            waiting.cancel()
        again = await back(balancer, stack)
        await again.announce(lost_id)
        await meet(again, lost_id, kept, kept_id, 10)
        # The peer of the dead node has left the swarm: no ghost is counted.
        await eventually(lambda: sees(again, lost_id, 2))


async def sees(client: RawClient, own_id: str, count: int) -> bool:
    """Return whether a peer is told this number of peers, itself included."""
    reply = await client.announce(own_id)
    seen: int = reply["complete"] + reply["incomplete"]
    return seen == count
