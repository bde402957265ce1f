"""The scenarios: each makes a world, lets it live, and states its goals."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tests.simulation.hostile import Vandal
from tests.simulation.measures import Sample
from tests.simulation.world import Conditions, World

REAL_NODES: Final = 20
"""Nodes of the DHT of real trackers, besides their own."""

REAL_PACE: Final = 10.0
"""Seconds in which real trackers start, and in which their peers join: all share the machine."""


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
    churn: float = 0.0
    """The share of peers that leave each minute; for each of them another one joins the swarm."""
    hostile: float = 0.0
    """The share of hostile trackers."""
    vandals: float = 0.0
    """Seconds in which a vandal spoils one slot of each infohash's record."""
    loss: float = 0.0
    """The share of lost packets."""
    slow: float = 0.0
    """The share of trackers with slow lines."""
    dht_rate: float = 8000.0
    """Bytes a second that a node of the DHT sends at most; 0: any number."""
    within: float = 1.0
    """Seconds in which all trackers start."""
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


def since(samples: list[Sample], seconds: float) -> list[Sample]:
    """Return the samples of the world from this age on, or else the last one."""
    return [one for one in samples if one.seconds >= seconds] or samples[-1:]


def nobody_alone(samples: list[Sample], seconds: float = 60.0) -> Goal:
    """Return the goal that each peer meets one of its swarm in time."""
    longest = max(one.wait for one in samples)
    lonely = samples[-1].lonely
    measured = f"{longest:.0f} s at most, {lonely} of {samples[-1].peers} alone in the end"
    return Goal(f"nobody alone for more than {seconds:.0f} s", measured, longest <= seconds)


def infohashes(count: int) -> list[str]:
    """Return random infohashes."""
    return [random.randbytes(20).decode("latin-1") for _ in range(count)]


async def small_swarms(arguments: Arguments, seed: int) -> Outcome:
    """Many infohashes, each at a few trackers, with one peer at each of them."""
    arguments = _with_defaults(arguments, trackers=100, infohashes=1000, peers=1, seconds=300.0)
    world = _world(arguments)
    await world.start(within=arguments.within)
    # So long that each tracker has joined the DHT and made the links that it makes in advance.
    await world.observe(world.age + 4.0)
    peers = [
        world.add_peer(info_hash, tracker)
        for info_hash in infohashes(arguments.infohashes)
        for tracker in random.sample(world.trackers, random.randint(*arguments.spread))
        for _ in range(arguments.peers)
    ]
    await world.join(peers, 5.0)
    world.repeat_restarts(arguments.restarts)
    world.repeat_churn(arguments.churn)
    await world.observe(world.age + arguments.seconds)
    end = world.samples[-1]
    goals = [nobody_alone(world.samples)]
    if not (arguments.restarts or arguments.churn):
        # Otherwise, some swarm has always just changed.
        goals.append(
            Goal("in each swarm, all have met in the end", f"not in {end.unmet} of {end.swarms}", not end.unmet)
        )
        if not arguments.max_links:
            # With few places, links of swarms whose peers have met make room for others.
            goals.append(Goal("no swarm split in the end", f"{end.split} of {end.swarms}", not end.split))
    return Outcome("small-swarms", seed, arguments, world, goals)


async def validate(arguments: Arguments, seed: int) -> Outcome:
    """Small swarms at simulated trackers on one machine, and then at real ones."""
    arguments = _with_defaults(arguments, trackers=30, infohashes=100, peers=1, seconds=60.0)
    world = World(
        Conditions(
            arguments.trackers,
            dht_rate=0.0,
            dht_loss=0.0,
            # Each tracker is a node, too.
            dht_nodes=arguments.trackers + REAL_NODES,
            latency=(0.0001, 0.001),
            round_trip=(0.001, 0.01),
        )
    )
    await world.start(within=REAL_PACE)
    await world.observe(2 * REAL_PACE)
    peers = [
        world.add_peer(info_hash, tracker)
        for info_hash in infohashes(arguments.infohashes)
        for tracker in random.sample(world.trackers, random.randint(*arguments.spread))
    ]
    await world.join(peers, REAL_PACE)
    await world.observe(world.age + arguments.seconds)
    return Outcome("validate", seed, arguments, world, [nobody_alone(world.samples)])


async def popular(arguments: Arguments, seed: int) -> Outcome:
    """One infohash at all trackers, some of which are restarted."""
    arguments = _with_defaults(arguments, trackers=1000, infohashes=1, peers=1, restarts=0.1, seconds=120.0)
    world = _world(arguments)
    (info_hash,) = infohashes(1)
    peers = [world.add_peer(info_hash, tracker) for tracker in world.trackers for _ in range(arguments.peers)]
    # Peers whose tracker has not started yet come back a few seconds later.
    await asyncio.gather(world.start(within=arguments.within), world.join(peers, arguments.within))
    world.repeat_restarts(arguments.restarts)
    begun = world.age
    await world.observe(begun + arguments.seconds)
    from_ten = since(world.samples, begun + 10.0)
    split = [one for one in from_ten if one.split]
    greatest = max(one.degree[2] for one in from_ten)
    goals = [
        Goal(
            "one component at each sample from 10 s after the last start on",
            f"not at {len(split)} of {len(from_ten)}",
            not split,
        ),
        Goal("at most 24 common links in the swarm", str(greatest), greatest <= 24),
    ]
    return Outcome("popular", seed, arguments, world, goals)


async def cold(arguments: Arguments, seed: int) -> Outcome:
    """All trackers of one infohash start at once, and none knows any other."""
    arguments = _with_defaults(arguments, trackers=300, infohashes=1, peers=1, seconds=120.0)
    world = _world(arguments)
    (info_hash,) = infohashes(1)
    peers = [world.add_peer(info_hash, tracker) for tracker in world.trackers for _ in range(arguments.peers)]
    await asyncio.gather(world.start(within=arguments.within), world.join(peers, arguments.within))
    await world.observe(arguments.seconds)
    end = world.samples[-1]
    ratio = end.dials / max(1, end.open_links)
    goals = [
        Goal("under 5 dials for each link that stays", f"{ratio:.1f}", ratio < 5.0),
        Goal("nobody alone in the end", f"{end.lonely} of {end.peers}", end.lonely == 0),
    ]
    return Outcome("cold", seed, arguments, world, goals)


async def hostile(arguments: Arguments, seed: int) -> Outcome:
    """Small swarms, a third of whose trackers are hostile; vandals at the records."""
    arguments = _with_defaults(
        arguments, trackers=60, infohashes=150, peers=1, hostile=1 / 3, vandals=10.0, seconds=180.0
    )
    world = _world(arguments)
    await world.start(within=arguments.within)
    await world.observe(world.age + 4.0)
    hashes = infohashes(arguments.infohashes)
    peers = [
        world.add_peer(info_hash, tracker)
        for info_hash in hashes
        for tracker in random.sample(world.honest, random.randint(*arguments.spread))
        for _ in range(arguments.peers)
    ]
    for info_hash in hashes:
        # As many as honest ones, at least.
        for tracker in random.sample(world.hostile, min(len(world.hostile), arguments.spread[1])):
            tracker.serve(info_hash)
    world.run(Vandal(world.dht, hashes, arguments.vandals).run())
    await world.join(peers, 5.0)
    joined = world.age
    world.repeat_churn(arguments.churn)
    await world.observe(joined + arguments.seconds)
    late = since(world.samples, joined + 60.0)
    split = max(one.split for one in late)
    goals = [nobody_alone(world.samples)]
    if not (arguments.max_links or arguments.churn):
        measured = f"{split} of {late[-1].swarms} at most"
        goals.append(Goal("no swarm of honest trackers split from 60 s after joining on", measured, not split))
    return Outcome("hostile", seed, arguments, world, goals)


async def partition(arguments: Arguments, seed: int) -> Outcome:
    """Small swarms; for two minutes, nothing passes between two halves of the trackers."""
    arguments = _with_defaults(arguments, trackers=30, infohashes=100, peers=1, churn=0.2, seconds=360.0)
    world = _world(arguments)
    await world.start()
    peers = [
        world.add_peer(info_hash, tracker)
        for info_hash in infohashes(arguments.infohashes)
        for tracker in random.sample(world.trackers, random.randint(*arguments.spread))
        for _ in range(arguments.peers)
    ]
    await world.join(peers, 5.0)
    await world.observe(60.0)
    world.divide(2)
    world.repeat_churn(arguments.churn)
    await world.observe(180.0)
    world.network.heal()
    await world.observe(arguments.seconds)
    late = since(world.samples, 240.0)
    wait = max(one.wait for one in late)
    linked = max(one.components for one in late)
    goals = [
        Goal("one component of links from a minute after healing on", f"{linked} at most", linked == 1),
        Goal("nobody alone for more than 60 s from then on", f"{wait:.0f} s at most", wait <= 60.0),
    ]
    return Outcome("partition", seed, arguments, world, goals)


async def full(arguments: Arguments, seed: int) -> Outcome:
    """Two trackers that are full of links with answers, and then a lonely swarm that is common to both."""
    arguments = _with_defaults(arguments, trackers=22, peers=1, max_links=10, seconds=60.0)
    world = _world(arguments)
    one, other, *others = world.trackers
    await world.start()
    await world.observe(5.0)
    # Each of the two shares a swarm of its own with each of its neighbours.
    peers = [
        world.add_peer(info_hash, tracker)
        for number, neighbour in enumerate(others)
        for info_hash in infohashes(1)
        for tracker in (neighbour, (one, other)[number % 2])
    ]
    await world.join(peers, 5.0)
    await world.observe(60.0)
    links = [len(tracker.links) for tracker in (one, other)]
    before = world.samples[-1].lonely
    lonely = [world.add_peer(info_hash, tracker) for info_hash in infohashes(1) for tracker in (one, other)]
    await world.join(lonely, 1.0)
    await world.observe(world.age + arguments.seconds)
    goals = [
        Goal(
            "both trackers are full of links with answers", f"{links}, {before} peers alone", min(links) >= 10 > before
        ),
        nobody_alone(world.samples),
    ]
    return Outcome("full", seed, arguments, world, goals)


async def one_place(arguments: Arguments, seed: int) -> Outcome:
    """Three trackers with one place for a link each: the first has a swarm with the second, then one with the third."""
    arguments = _with_defaults(arguments, trackers=3, peers=1, max_links=1, seconds=60.0)
    world = _world(arguments)
    one, second, third = world.trackers
    await world.start()
    await world.observe(5.0)
    for neighbour in (second, third):
        peers = [world.add_peer(info_hash, tracker) for info_hash in infohashes(1) for tracker in (one, neighbour)]
        await world.join(peers, 1.0)
        await world.observe(world.age + arguments.seconds)
    return Outcome("one-place", seed, arguments, world, [nobody_alone(world.samples)])


async def life(arguments: Arguments, seed: int) -> Outcome:
    """A few trackers in short: restarts, a kill, a new key, a partition, and newcomers."""
    arguments = _with_defaults(arguments, trackers=10, infohashes=30, peers=1)
    world = _world(arguments)
    hashes = infohashes(arguments.infohashes)
    goals: list[Goal] = []

    async def settle(after: str) -> None:
        """Give a minute, and then see whether the promise holds."""
        await world.observe(world.age + 55.0)
        end = world.samples[-1]
        measured = f"{end.lonely} of {end.peers} peers, {end.split} of {end.swarms} swarms"
        goals.append(Goal(f"nobody alone and no swarm split {after}", measured, not (end.lonely or end.split)))

    async def join(count: int) -> None:
        peers = [
            world.add_peer(info_hash, tracker)
            for info_hash in hashes
            for tracker in random.sample(world.trackers, count)
        ]
        await world.join(peers, 5.0)

    await world.start()
    await join(random.randint(*arguments.spread))
    await settle("a minute after joining")
    await asyncio.gather(
        world.restart(world.trackers[0]),
        world.restart(world.trackers[1], kill=True),
        world.restart(world.trackers[2], new_key=True),
    )
    await settle("a minute after restarts")
    world.divide(2)
    await world.observe(world.age + 60.0)
    world.network.heal()
    await settle("a minute after a partition")
    await join(1)
    await settle("a minute after newcomers")
    return Outcome("life", seed, arguments, world, goals)


SCENARIOS: Final[dict[str, Scenario]] = {
    "small-swarms": small_swarms,
    "popular": popular,
    "cold": cold,
    "hostile": hostile,
    "partition": partition,
    "full": full,
    "one-place": one_place,
    "life": life,
    "validate": validate,
}


def _with_defaults(arguments: Arguments, **defaults: Any) -> Arguments:
    return replace(arguments, **{name: value for name, value in defaults.items() if not getattr(arguments, name)})


def _world(arguments: Arguments) -> World:
    conditions = Conditions(
        arguments.trackers,
        arguments.max_links,
        arguments.dht_rate,
        loss=arguments.loss,
        slow=arguments.slow,
        hostile=arguments.hostile,
    )
    return World(conditions)
