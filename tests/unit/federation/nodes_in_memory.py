"""The nodes of one tracker without sockets, connected by the extension `cluster`. The gateway has an exchange."""

import random
from collections.abc import Callable

from extensions.cluster.envelope import Sealer
from extensions.cluster.node import TICK, Node
from extensions.cluster.transport import Bus
from tests.unit.cluster.world import Description, Log
from tests.unit.fakes import FakeConnection, HubHarness
from tests.unit.federation.here import Here
from tracker.core.nodes import NodePeers

START = 5
"""Seconds after which there is a gateway."""


class MemoryNode:
    """A node on a bus. `is_capable`: it may be the gateway."""

    def __init__(self, cluster: "MemoryCluster", harness: HubHarness, number: int, is_capable: bool) -> None:
        self.harness = harness
        self.callbacks: list[Callable[[], None]] = []
        self.transport = cluster.bus.transport()
        self.log = Log()
        self.id = f"{number:016x}"
        peers = NodePeers(harness.hub, harness.outbox)
        self.node = Node(
            self.id,
            Description(harness, f"node {number}", is_capable),
            Sealer(self.id, "test", None),
            self.transport,
            peers,
            harness.hub.swarms,
            lambda: cluster.now,
            self.callbacks.append,
            self.log,
        )
        peers.attach(self.node)
        self.transport.begin(self.id, self.node.receive, self.node.lost, self.node.connected)

    def turn(self) -> bool:
        """Run what waits for the next turn of the event loop. Return whether there was anything."""
        callbacks, self.callbacks[:] = list(self.callbacks), []
        for callback in callbacks:
            callback()
        return bool(callbacks)


class MemoryCluster:
    """Nodes of which the first one is the gateway. The others only have hubs."""

    def __init__(self, gateway: Here, count: int) -> None:
        self.bus = Bus(random.Random(1).random)
        self.now = gateway.now
        harnesses: list[HubHarness] = [gateway, *(HubHarness(seed=number) for number in range(1, count))]
        self.nodes = [MemoryNode(self, harness, number, number == 0) for number, harness in enumerate(harnesses)]
        gateway.clock = lambda: self.now
        self._places: dict[FakeConnection, HubHarness] = {}
        for _ in range(START):
            self._pass(1.0)
        assert self.nodes[0].node.parts.gateway.is_here

    def node_of(self, connection: FakeConnection) -> HubHarness:
        """Return the hub of a connection: those of the nodes in turn."""
        return self._places.setdefault(connection, self.nodes[len(self._places) % len(self.nodes)].harness)

    def settle(self) -> None:
        """Deliver all messages, and what follows at the next ticks."""
        for _ in range(2):
            self._deliver()
            self._pass(TICK)
        for one in self.nodes:
            one.harness.hub.check_invariants()

    def _pass(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        for one in self.nodes:
            one.harness.now = self.now
            one.node.tick()
        self._deliver()

    def _deliver(self) -> None:
        for _ in range(10_000):
            busy = False
            for one in self.nodes:
                busy |= one.turn()
            busy |= self.bus.step()
            if not busy:
                return
        raise AssertionError("the nodes never come to rest")
