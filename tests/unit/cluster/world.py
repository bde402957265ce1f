"""Several nodes of one tracker in one process, whose time passes only when told to, on a bus that may harm messages."""

import random
from collections.abc import Callable
from typing import Any

from extensions.cluster.envelope import Sealer, derive_key
from extensions.cluster.members import Member
from extensions.cluster.node import TICK, Node
from extensions.cluster.reasons import Dropped, Left, Refused
from extensions.cluster.streams import NodeStream, Receiver
from extensions.cluster.transport import Bus, InProcess
from tests.client import HASH, Json, announce
from tests.unit.fakes import FakeConnection, HubHarness
from tracker.core.nodes import NodePeers

TRACKER = "t" * 64
SECRET = bytes(32)


class Log:
    """Keeps the events of a node; the node's `Listener`."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.round_trips: list[float] = []
        self.receivers: Callable[[bytes, NodeStream], Receiver | None] = lambda *_: None

    def node_joined(self, member: Member) -> None:
        self.events.append(("joined", member.node_id))

    def node_left(self, member: Member, why: Left) -> None:
        self.events.append(("left", member.node_id, why))

    def gateway_changed(self, is_here: bool, node_id: str) -> None:
        self.events.append(("gateway", is_here, node_id))

    def refused(self, reason: Refused, sender: str) -> None:
        self.events.append(("refused", reason, sender))

    def round_trip(self, seconds: float) -> None:
        self.round_trips.append(seconds)

    def accept(self, opening: bytes, stream: NodeStream) -> Receiver | None:
        return self.receivers(opening, stream)


class Description:
    """What the heartbeats of a node say."""

    def __init__(self, harness: HubHarness, label: str, is_capable: bool) -> None:
        self.harness = harness
        self.label = label
        self.group = ""
        self.version = "1.0"
        self.tracker_id = TRACKER
        self.started = 1_700_000_000
        self.is_capable = is_capable

    def numbers(self) -> tuple[int, int, int, int]:
        hub = self.harness.hub
        return 0, len(hub.swarms), hub.seeders, hub.leechers


class Station(HubHarness):
    """One node with its hub."""

    def __init__(self, world: "World", number: int, node_id: str, **rules: Any) -> None:
        super().__init__(seed=number, **rules)
        self.world = world
        self.node_id = node_id
        self.log = Log()
        self.load = Description(self, f"node {number}", world.is_capable)
        self.transport: InProcess = world.bus.transport(world.max_payload, world.needs_mac)
        self.sealer = Sealer(node_id, "test", derive_key(SECRET, "test") if world.needs_mac else None)
        self.nodes = NodePeers(self.hub, self.outbox)
        self.callbacks: list[Callable[[], None]] = []
        self.node = Node(
            node_id,
            self.load,
            self.sealer,
            self.transport,
            self.nodes,
            self.hub.swarms,
            lambda: world.now,
            self.callbacks.append,
            self.log,
        )
        self.nodes.attach(self.node)
        self.now = world.now
        self.transport.begin(node_id, self.node.receive, self.node.lost, self.node.connected)

    def turn(self) -> bool:
        """Run what waits for the next turn of the event loop. Return whether there was anything."""
        callbacks, self.callbacks[:] = list(self.callbacks), []
        for callback in callbacks:
            callback()
        return bool(callbacks)

    @property
    def returned_offers(self) -> int:
        """Offers that found no receiver here."""
        return self.node.parts.sessions.dropped[Dropped.NO_RECEIVER]

    def view(self, info_hash: str = HASH) -> tuple[int, int]:
        """Return complete and incomplete of a swarm, as a scrape shows them."""
        swarm = self.hub.swarms.get(info_hash)
        return (swarm.complete, swarm.incomplete) if swarm else (0, 0)

    def check(self) -> None:
        """Raise `AssertionError` if an invariant is broken."""
        self.hub.check_invariants()
        self.node.parts.shared.check_invariants()


class World:
    """The nodes, the bus between them, and the clock."""

    def __init__(
        self,
        count: int,
        seed: int = 1,
        is_capable: bool = False,
        needs_mac: bool = False,
        max_payload: int = 1 << 20,
        **rules: Any,
    ) -> None:
        self.random = random.Random(seed)
        self.is_capable = is_capable
        self.needs_mac = needs_mac
        self.max_payload = max_payload
        self.rules = rules
        self.now = 1000.0
        self.bus = Bus(self.random.random)
        self.stations: list[Station] = []
        self.still: set[Station] = set()
        """Processes that are stopped for a while, as by a signal. What is sent to them waits, or is lost."""
        self.born = 0
        for _ in range(count):
            self.bear()
        self.meet()

    def bear(self) -> Station:
        """Start another node."""
        self.born += 1
        station = Station(self, self.born, f"{self.random.getrandbits(64):016x}", **self.rules)
        self.stations.append(station)
        return station

    def kill(self, station: Station) -> None:
        """End a node without a word. Its connections are gone, too."""
        station.transport.end()
        self.stations.remove(station)

    def stop(self, station: Station) -> None:
        """Stop a node as an operator does."""
        station.node.stop()
        self.kill(station)

    def turn(self) -> None:
        """Let each node do what waits for the next turn of the event loop."""
        for station in self.stations:
            station.turn()

    def settle(self) -> None:
        """Deliver all messages, and let the nodes do everything that needs no time."""
        for _ in range(10_000):
            busy = False
            for station in self.stations:
                busy |= station.turn()
            busy |= self.bus.step()
            if not busy:
                return
        raise AssertionError("the nodes never come to rest")

    def pass_time(self, seconds: float, settles: bool = True) -> None:
        """Let time pass, in ticks."""
        for _ in range(round(seconds / TICK)):
            self.now += TICK
            for station in list(self.stations):
                if station in self.still:
                    continue
                station.now = self.now
                station.node.tick()
                station.hub.expire(self.now, 1_000_000)
            if settles:
                self.settle()

    def meet(self) -> None:
        """Let the nodes find each other."""
        self.pass_time(1.2)

    def announce(self, station: Station, connection: FakeConnection, *args: Any, **fields: Any) -> list[Json]:
        """Send an announce to a node; return the messages in the sender's inbox."""
        return station.send(connection, announce(*args, **fields))

    def check(self) -> None:
        """Raise `AssertionError` if an invariant of a node is broken."""
        for station in self.stations:
            station.check()
