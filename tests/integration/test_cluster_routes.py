"""Nodes of two machines: over Unix-domain sockets on each of them, and over NATS between them."""

from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from extensions.cluster.both import Both
from extensions.cluster.envelope import ALL, BROADCAST, Sealer
from extensions.cluster.nats import Nats
from extensions.cluster.nats_options import NatsOptions, NatsSettings
from extensions.cluster.unix import UnixSockets
from tests.client import eventually
from tests.integration.nodes import RecordingNode
from tests.nats_server import NatsServer, NatsServers

A, B, C = "a" * 16, "b" * 16, "c" * 16


class RoutingNode(RecordingNode):
    """A node with both transports."""

    def __init__(self, node_id: str, directory: Path, server: NatsServer) -> None:
        options = NatsOptions(NatsSettings(servers=[server.url]))
        self.both = Both(UnixSockets(directory), Nats(options, "test"))
        super().__init__(node_id, self.both)
        self._heartbeats = 0

    async def is_connected(self, *states: bool) -> None:
        """Wait until NATS was connected and not in this order."""
        await self.until(lambda: self.connected == list(states))

    def heartbeat(self) -> bytes:
        """Return a new broadcast."""
        self._heartbeats += 1
        return Sealer(self.node_id, "test", b"key").seal(BROADCAST, ALL, 0, self._heartbeats, [])

    def published(self) -> int:
        """Return the number of messages that went over NATS."""
        assert self.both.nats.connection
        return self.both.nats.connection.published


@pytest.fixture
async def server() -> AsyncIterator[NatsServer]:
    async with NatsServers() as servers:
        yield await servers.start()


@pytest.fixture
async def nodes(server: NatsServer) -> AsyncIterator[tuple[RoutingNode, RoutingNode, RoutingNode]]:
    """Return two nodes of one machine and one of another, all connected."""
    with TemporaryDirectory() as here, TemporaryDirectory() as there:
        a, b, c = (
            RoutingNode(A, Path(here), server),
            RoutingNode(B, Path(here), server),
            RoutingNode(C, Path(there), server),
        )
        for node in (a, b, c):
            await node.start()
        for node in (a, b, c):
            await node.is_connected(True)
        await eventually(lambda: a.both.sockets.nodes == [B] and b.both.sockets.nodes == [A])
        yield a, b, c
        for node in (a, b, c):
            await node.both.stop()


async def test_each_message_takes_one_way(nodes: tuple[RoutingNode, RoutingNode, RoutingNode]) -> None:
    a, b, c = nodes
    before = a.published()
    assert a.both.send(B, b"over a socket")
    assert a.both.send(C, b"over NATS")
    await b.has(b"over a socket")
    await c.has(b"over NATS")
    assert a.published() == before + 1
    assert c.both.send(A, b"back")
    await a.has(b"back")


async def test_a_broadcast_arrives_once(nodes: tuple[RoutingNode, RoutingNode, RoutingNode]) -> None:
    a, b, c = nodes
    heartbeat = a.heartbeat()
    a.both.broadcast(heartbeat)
    await b.has(heartbeat)
    await c.has(heartbeat)
    # NATS keeps the order: the broadcast has come, too, when this has.
    assert c.both.send(B, b"later")
    a.both.nats.send(B, a.heartbeat())
    assert c.both.send(B, b"last")
    await b.until(lambda: b"last" in b.received)
    assert b.received == [b"later", b"last"]


async def test_nodes_of_one_machine_do_not_need_nats(
    server: NatsServer, nodes: tuple[RoutingNode, RoutingNode, RoutingNode]
) -> None:
    a, b, c = nodes
    await server.stop()
    for node in (a, b, c):
        await node.is_connected(True, False)
    assert a.both.send(B, b"still here")
    await b.has(b"still here")
    assert not a.both.send(C, b"not sent")
    assert a.both.pending(B) == 0 < a.both.pending(C)
    server.config["max_payload"] = 10_000
    await server.start()
    for node in (a, b, c):
        await node.is_connected(True, False, True)
        assert node.both.max_payload == 10_000
    assert a.both.send(C, b"again")
    await c.has(b"again")
    assert a.lost == b.lost == c.lost == []
    await b.both.stop()
    await a.until(lambda: a.lost == [B])
    assert c.lost == []
