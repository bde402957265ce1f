"""The scenarios: each makes a world, lets it live, and states its goals."""

import random
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from tests.simulation.measures import Sample
from tests.simulation.world import Conditions, World


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of a scenario. 0 stands for the scenario's own value, or for none at all."""

    trackers: int = 0
    infohashes: int = 0
    spread: tuple[int, int] = (2, 5)
    """Least and most trackers of an infohash."""
    peers: int = 0
    """Peers of an infohash at each of its trackers."""
    max_links: int = 0
    restarts: float = 0.0
    """The share of trackers that are restarted each minute."""
    hostile: float = 0.0
    """The share of hostile trackers."""
    loss: float = 0.0
    """The share of lost packets."""
    dht_rate: float = 8000.0
    """Bytes a second that a node of the DHT sends at most; 0: any number."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal, and whether it was reached."""

    text: str
    measured: str
    is_reached: bool


@dataclass(slots=True)
class Outcome:
    """The history of a run, and its goals."""

    scenario: str
    seed: int
    arguments: Arguments
    world: World
    goals: list[Goal] = field(default_factory=list)

    @property
    def samples(self) -> list[Sample]:
        """All samples, the oldest first."""
        return self.world.samples


Scenario = Callable[[Arguments, int], Awaitable[Outcome]]


def at(samples: list[Sample], seconds: float) -> Sample:
    """Return the first sample that is not older than this age."""
    return next((one for one in samples if one.seconds >= seconds - 0.5), samples[-1])


def infohashes(count: int) -> list[str]:
    """Return random infohashes."""
    return [random.randbytes(20).decode("latin-1") for _ in range(count)]


async def small_swarms(arguments: Arguments, seed: int) -> Outcome:
    """Many infohashes, each at a few trackers, with one peer at each of them."""
    arguments = _with_defaults(arguments, trackers=100, infohashes=1000, peers=1, seconds=300.0)
    world = _world(arguments)
    await world.start()
    # So long that each tracker has joined the DHT and made the links that it makes in advance.
    await world.observe(5.0)
    peers = [
        world.add_peer(info_hash, tracker)
        for info_hash in infohashes(arguments.infohashes)
        for tracker in random.sample(world.trackers, random.randint(*arguments.spread))
        for _ in range(arguments.peers)
    ]
    await world.join(peers, 5.0)
    world.repeat_restarts(arguments.restarts)
    await world.observe(world.age + arguments.seconds)
    late, end = at(world.samples, 70.0), world.samples[-1]
    goals = [
        Goal("nobody alone 60 s after joining", f"{late.lonely} of {late.peers}", late.lonely == 0),
        Goal("no swarm split in the end", f"{end.split} of {end.swarms}", end.split == 0),
    ]
    return Outcome("small-swarms", seed, arguments, world, goals)


async def popular(arguments: Arguments, seed: int) -> Outcome:
    """One infohash at all trackers, some of which are restarted."""
    arguments = _with_defaults(arguments, trackers=1000, infohashes=1, peers=1, restarts=0.1, seconds=120.0)
    world = _world(arguments)
    (info_hash,) = infohashes(1)
    peers = [world.add_peer(info_hash, tracker) for tracker in world.trackers for _ in range(arguments.peers)]
    await world.start()
    await world.join(peers, 1.0)
    world.repeat_restarts(arguments.restarts)
    await world.observe(arguments.seconds)
    from_ten = [one for one in world.samples if one.seconds >= 10.0]
    split = [one for one in from_ten if one.split]
    greatest = max(one.degree[2] for one in from_ten)
    goals = [
        Goal("one component at each sample from 10 s on", f"not at {len(split)} of {len(from_ten)}", not split),
        Goal("at most 24 common links in the swarm", str(greatest), greatest <= 24),
    ]
    return Outcome("popular", seed, arguments, world, goals)


async def cold(arguments: Arguments, seed: int) -> Outcome:
    """All trackers of one infohash start at once, and none knows any other."""
    arguments = _with_defaults(arguments, trackers=300, infohashes=1, peers=1, seconds=120.0)
    world = _world(arguments)
    (info_hash,) = infohashes(1)
    peers = [world.add_peer(info_hash, tracker) for tracker in world.trackers for _ in range(arguments.peers)]
    await world.start()
    await world.join(peers, 1.0)
    await world.observe(arguments.seconds)
    end = world.samples[-1]
    ratio = end.dials / max(1, end.open_links)
    goals = [
        Goal("under 5 dials for each link that stays", f"{ratio:.1f}", ratio < 5.0),
        Goal("nobody alone in the end", f"{end.lonely} of {end.peers}", end.lonely == 0),
    ]
    return Outcome("cold", seed, arguments, world, goals)


SCENARIOS: Final[dict[str, Scenario]] = {"small-swarms": small_swarms, "popular": popular, "cold": cold}


def _with_defaults(arguments: Arguments, **defaults: Any) -> Arguments:
    return replace(arguments, **{name: value for name, value in defaults.items() if not getattr(arguments, name)})


def _world(arguments: Arguments) -> World:
    conditions = Conditions(arguments.trackers, arguments.max_links, dht_rate=arguments.dht_rate, loss=arguments.loss)
    return World(conditions, Path(tempfile.mkdtemp(prefix="simulation-")))
