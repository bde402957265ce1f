"""What is measured in a world: who has met whom, who could meet whom, and the links."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Protocol

from tests.simulation.peers import SimulatedPeer

SETTLED: Final = 5.0
"""Seconds after which a peer's tracker is expected to have found others of the swarm."""


class Measurable(Protocol):
    """A world of trackers and peers, simulated or real."""

    swarms: dict[str, list[SimulatedPeer]]
    """The peers that have ever been in a swarm, by infohash."""
    samples: list["Sample"]
    started: float
    """When it began (monotonic seconds)."""

    @property
    def honest(self) -> Sequence[Any]:
        """The trackers that are measured: with `hub`, `mesh`, `links` and `is_up`."""
        ...

    @property
    def network(self) -> Any:
        """Counts `dials` and the `connected` ones."""
        ...

    @property
    def dht(self) -> Any:
        """Counts `gets` and `puts`."""
        ...

    @property
    def now(self) -> float:
        """The monotonic clock."""
        ...

    @property
    def age(self) -> float:
        """Seconds since the beginning."""
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of a world at one moment."""

    seconds: float
    """Since the beginning."""
    peers: int
    """Peers that have joined a swarm with more than one peer."""
    met: int
    """Those of them that have met another peer."""
    lonely: int
    wait: float
    """The longest time for which a peer that has met none has been in a swarm with others, in seconds."""
    swarms: int
    """Swarms with settled peers at two trackers or more: they have been connected for `SETTLED` seconds."""
    split: int
    """Those of them whose trackers do not form one component of common links."""
    unmet: int
    """Those of them whose peers do not form one component by who has met whom."""
    trackers: int
    unlinked: int
    """Trackers without a link."""
    components: int
    """Of the graph of all links."""
    links: tuple[int, float, int]
    """Least, median and greatest number of links of a tracker."""
    degree: tuple[int, float, int]
    """The same of common links of a tracker in one swarm."""
    open_links: int
    dials: int
    connected: int
    gets: int
    puts: int


class Components:
    """Sets that grow together (union and find)."""

    def __init__(self, items: Iterable[Hashable]) -> None:
        self._parents = {item: item for item in items}
        self.number = len(self._parents)

    def join(self, one: Hashable, other: Hashable) -> None:
        """Note that two items are connected."""
        one, other = self._root(one), self._root(other)
        if one != other:
            self._parents[one] = other
            self.number -= 1

    @property
    def largest(self) -> int:
        """The number of items in the largest set."""
        return max(Counter(map(self._root, list(self._parents))).values(), default=0)

    def _root(self, item: Hashable) -> Hashable:
        while (parent := self._parents[item]) != item:
            self._parents[item] = self._parents[parent]
            item = parent
        return item


def extent(numbers: Iterable[int]) -> tuple[int, float, int]:
    """Return the least, the median and the greatest number."""
    found = sorted(numbers)
    return (found[0], median(found), found[-1]) if found else (0, 0, 0)


def sample(world: Measurable) -> Sample:
    """Measure a world now. Hostile trackers, and links to them, count only among the links of the others."""
    up = {tracker.mesh.id: tracker for tracker in world.honest if tracker.is_up and tracker.mesh}
    pairs = {
        (tracker_id, other)
        for tracker_id, tracker in up.items()
        for other in tracker.links
        if tracker_id < other and other in up
    }
    graph = Components(up)
    for one, other in pairs:
        graph.join(one, other)
    common: defaultdict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for tracker_id, tracker in up.items():
        for other, link in tracker.links.items():
            pair = (tracker_id, other) if tracker_id < other else (other, tracker_id)
            if pair in pairs:
                for info_hash in link.account.members:
                    common[info_hash][pair] += 1
    swarms = split = unmet = peers = met = lonely = 0
    degrees: list[int] = []
    wait = 0.0
    for info_hash, members in world.swarms.items():
        joined = [peer for peer in members if peer.is_present]
        if len(joined) > 1:
            peers += len(joined)
            met += sum(bool(peer.met) for peer in joined)
            lonely += sum(not peer.met for peer in joined)
            # Two, because the first may be the peer itself.
            first, second = sorted(peer.present_since for peer in joined)[:2]
            since = max(first, second)
            wait = max(wait, *(world.now - max(peer.present_since, since) for peer in joined if not peer.met), 0.0)
        settled = {peer.home for peer in joined if peer.present_since <= world.now - SETTLED}
        serving = {one for one, tracker in up.items() if tracker in settled and info_hash in tracker.hub.swarms}
        if len(serving) < 2:
            continue
        swarms += 1
        by_link, degree = Components(serving), Counter(dict.fromkeys(serving, 0))
        for pair, sides in common[info_hash].items():
            if sides == 2 and serving.issuperset(pair):
                by_link.join(*pair)
                degree.update(pair)
        degrees += degree.values()
        split += by_link.number > 1
        by_meeting = Components(peer.peer_id for peer in joined)
        names = {peer.peer_id for peer in joined}
        for peer in joined:
            for other in peer.met:
                if other in names:
                    by_meeting.join(peer.peer_id, other)
        unmet += by_meeting.number > 1
    return Sample(
        seconds=round(world.age, 3),
        peers=peers,
        met=met,
        lonely=lonely,
        wait=round(wait, 1),
        swarms=swarms,
        split=split,
        unmet=unmet,
        trackers=len(up),
        unlinked=sum(not tracker.links for tracker in up.values()),
        components=graph.number,
        links=extent(len(tracker.links) for tracker in up.values()),
        degree=extent(degrees),
        open_links=len(pairs),
        dials=world.network.dials,
        connected=world.network.connected,
        gets=world.dht.gets,
        puts=world.dht.puts,
    )


def met_within(world: Measurable, seconds: int) -> float | None:
    """Return the share of peers that had met another one so long after there was one; None if no time was so long."""
    end = world.started + world.samples[-1].seconds
    met = peers = 0
    for members in world.swarms.values():
        if len(members) < 2:
            continue
        first, second = sorted(members, key=lambda peer: peer.joined)[:2]
        for peer in members:
            since = max(peer.joined, second.joined if peer is first else first.joined)
            if since + seconds <= min(end, peer.left):
                peers += 1
                met += peer.met_at <= since + seconds
    return met / peers if peers else None
