"""A world of simulated trackers and peers: its making, its faults, and its history."""

import asyncio
import random
import tempfile
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.simulation.dht.model import ROUND_TRIP, UPLOAD_RATE, Dht
from tests.simulation.hostile import HostileTracker, kinds
from tests.simulation.measures import Sample, sample
from tests.simulation.network import Line, Network
from tests.simulation.peers import SimulatedPeer
from tests.simulation.tracker import Disk, Tracker
from tracker.core.rules import Rules

AWAY: Final = 2.0
"""Seconds from the end of a tracker to its next start."""

SLOW: Final = (0.4, 20e3)
"""The latency of a slow line in seconds, and its bytes a second."""

LATENCY: Final = (0.005, 0.08)
"""Seconds from a tracker to the middle of the network."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """The surroundings of a run."""

    trackers: int
    max_links: int = 0
    """0: the default of the product."""
    dht_rate: float = UPLOAD_RATE
    dht_loss: float = 0.02
    loss: float = 0.0
    """The share of lost packets on links."""
    slow: float = 0.0
    """The share of trackers with slow lines."""
    hostile: float = 0.0
    """The share of hostile trackers."""
    dht_nodes: int = 0
    """Nodes of the DHT; 0: each target has its own."""
    latency: tuple[float, float] = LATENCY
    """Least and most seconds from a tracker to the middle of the network."""
    round_trip: tuple[float, float] = ROUND_TRIP
    """Least and most seconds of a query in the DHT."""


class World:
    """All trackers and peers of a run."""

    def __init__(self, conditions: Conditions) -> None:
        self.conditions = conditions
        self.network = Network()
        self.dht = Dht(
            self.network.traffic,
            conditions.dht_loss,
            conditions.dht_rate,
            conditions.dht_nodes,
            conditions.round_trip,
        )
        self.trackers: list[Tracker] = []
        self.peers: dict[str, SimulatedPeer] = {}
        """By peer_id."""
        self.swarms: dict[str, list[SimulatedPeer]] = {}
        self.samples: list[Sample] = []
        self.restarts = 0
        self.started = time.monotonic()
        self._directory = tempfile.TemporaryDirectory(prefix="simulation-")
        self._tasks: list[asyncio.Task[Any]] = []
        hostile = iter(kinds(round(conditions.hostile * conditions.trackers)))
        settings = {"max_links": conditions.max_links} if conditions.max_links else {}
        for number in range(conditions.trackers):
            disk = Disk(Path(self._directory.name) / str(number))
            disk.write_key(random.getrandbits(64))
            line = Line(random.uniform(*conditions.latency), loss=conditions.loss)
            if number >= (1 - conditions.slow) * conditions.trackers:
                line.latency, line.bandwidth = SLOW
            make: type[Tracker] = next(hostile, Tracker)
            self.trackers.append(make(number, self.network, self.dht, disk, settings, Rules(), line))

    @property
    def honest(self) -> list[Tracker]:
        """The trackers that are not hostile."""
        return [tracker for tracker in self.trackers if not tracker.is_hostile]

    @property
    def hostile(self) -> list[HostileTracker]:
        """The hostile trackers."""
        return [tracker for tracker in self.trackers if isinstance(tracker, HostileTracker)]

    @property
    def now(self) -> float:
        """The monotonic clock."""
        return time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.started

    async def start(self, trackers: Iterable[Tracker] | None = None, within: float = 1.0) -> None:
        """Start trackers at random moments within some seconds."""
        await asyncio.gather(*(self._start(tracker, within) for tracker in trackers or self.trackers))

    def add_peer(self, info_hash: str, tracker: Tracker, complete: bool = False) -> SimulatedPeer:
        """Add a peer, which must still `join`."""
        peer = SimulatedPeer(len(self.peers), info_hash, tracker, complete, self._on_meeting)
        self.peers[peer.peer_id] = peer
        self.swarms.setdefault(info_hash, []).append(peer)
        return peer

    async def join(self, peers: Iterable[SimulatedPeer], within: float) -> None:
        """Let peers join at random moments within some seconds."""
        loop = asyncio.get_running_loop()
        for peer in peers:
            loop.call_later(random.uniform(0, within), peer.join)
        await asyncio.sleep(within)

    async def restart(self, tracker: Tracker, kill: bool = False, new_key: bool = False) -> None:
        """Stop or kill a tracker, and start it again."""
        self.restarts += 1
        await (tracker.kill() if kill else tracker.stop())
        if new_key:
            tracker.disk.write_key(random.getrandbits(64))
        await asyncio.sleep(AWAY)
        await tracker.start()

    def repeat_restarts(self, per_minute: float) -> None:
        """Restart this share of the trackers each minute from now on, one in four by killing it."""
        if per_minute:
            self.run(self._restart_some(per_minute))

    def repeat_churn(self, per_minute: float) -> None:
        """Let this share of the peers leave each minute from now on, and another one join each one's swarm."""
        if per_minute:
            self.run(self._replace_some(per_minute))

    def divide(self, parts: int) -> None:
        """Part the trackers into so many sets between which nothing passes."""
        self.network.divide({tracker.url: number % parts for number, tracker in enumerate(self.trackers)})

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine in the background until the end."""
        self._tasks.append(asyncio.ensure_future(coroutine))

    async def observe(self, seconds: float, period: float = 5.0) -> None:
        """Take a sample at each period until the world has this age."""
        while self.age < seconds:
            # At multiples of the period, whatever happened in between.
            await asyncio.sleep(period - self.age % period)
            self.samples.append(sample(self))

    async def stop(self) -> None:
        """Stop everything."""
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
        await asyncio.gather(*(tracker.stop() for tracker in self.trackers if tracker.is_up))
        self._directory.cleanup()

    async def _start(self, tracker: Tracker, within: float) -> None:
        await asyncio.sleep(random.uniform(0, within))
        await tracker.start()

    async def _restart_some(self, per_minute: float) -> None:
        period = 60.0 / (per_minute * len(self.trackers))
        while True:
            await asyncio.sleep(random.uniform(0.5, 1.5) * period)
            up = [tracker for tracker in self.honest if tracker.is_up]
            if up:
                self.run(self.restart(random.choice(up), kill=random.random() < 0.25))

    async def _replace_some(self, per_minute: float) -> None:
        while True:
            present = [peer for peer in self.peers.values() if peer.is_present]
            await asyncio.sleep(random.uniform(0.5, 1.5) * 60.0 / (per_minute * max(1, len(present))))
            if present:
                peer = random.choice(present)
                peer.leave()
                others = {one.home for one in self.swarms[peer.info_hash] if one.is_present}
                free = [tracker for tracker in self.honest if tracker not in others]
                self.add_peer(peer.info_hash, random.choice(free or self.honest)).join()

    def _on_meeting(self, peer: SimulatedPeer, other_id: str) -> None:
        self.network.traffic.note("met", peer.peer_id, other_id)
        other = self.peers.get(other_id)
        peer.meet(other_id)
        if other:
            other.meet(peer.peer_id)
