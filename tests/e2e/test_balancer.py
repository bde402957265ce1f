"""Nodes of one tracker behind HAProxy and nginx, configured as docs/deploy has it; only ports and files differ."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from websockets.exceptions import InvalidHandshake

from tests.client import RawClient, eventually
from tests.conftest import StartTracker, TrackerProcess
from tests.e2e.proxies import BALANCERS, ELSEWHERE, FAR, Place, Proxy

pytestmark = pytest.mark.parametrize("balancer", BALANCERS.values(), ids=BALANCERS, indirect=True)


@pytest.fixture
async def balancer(request: pytest.FixtureRequest, tmp_path: Path, start_tracker: StartTracker) -> AsyncIterator[Proxy]:
    """Return each balancer. The test starts it and its nodes."""
    balancer = Proxy(request.param, Place.new(tmp_path), start_tracker)
    yield balancer
    await balancer.stop()
    log = (tmp_path / "log").read_text()
    assert re.findall(r".*\[(?:crit|emerg)\].*|.*\[ALERT\].* config.*", log) == []


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
