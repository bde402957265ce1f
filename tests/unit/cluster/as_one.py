"""A world in the form that the core's tests of several nodes know: messages arrive as soon as a step is done."""

from typing import Any

from tests.unit.cluster.world import Station, World
from tests.unit.core.cluster import Cluster
from tests.unit.fakes import FakeConnection


class AsOne(Cluster):
    """Some nodes, used like one tracker. With one, there is no other node."""

    def __init__(self, size: int, seed: int = 1, gateway: bool = False, observer: Any = None, **rules: Any) -> None:
        assert not gateway
        assert observer is None
        self.world = World(size, seed=seed, **rules)
        self.home: dict[FakeConnection, Any] = {}
        self.by_role = True
        self._next = 0

    @property
    def nodes(self) -> list[Any]:  # type: ignore[override]
        return self.world.stations

    @property
    def now(self) -> float:
        return self.world.now

    @now.setter
    def now(self, now: float) -> None:
        # Ticks that come late: nodes do not take each other for dead.
        seconds = now - self.world.now
        ticks = min(15, round(seconds / 0.1))
        self.world.now = now - 0.1 * ticks
        if ticks:
            self.world.pass_time(0.1 * ticks)
        self.world.now = now
        for station in self.world.stations:
            station.now = now

    def expire(self) -> None:
        for station in self.nodes:
            station.expire()
        self.run()

    def end(self, number: int) -> None:
        station: Station = self.nodes[number]
        self.world.kill(station)
        for other in self.nodes:
            other.node.lost(station.node_id)
        self.run()

    def run(self) -> None:
        self.world.settle()
        # Numbers of large swarms are told at the next tick.
        for station in self.nodes:
            station.node.tick()
        self.world.settle()
        if sum(station.hub.seeders + station.hub.leechers for station in self.nodes) < 30:
            self.world.check()
