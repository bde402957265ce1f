"""A simulation of the choice of receivers: how soon every peer meets a seeder, and how many offers a peer is given.

    python -m benchmarks.meetings [--plot FILE] [SEEDERS+LEECHERS ...]

Seeders join first, leechers within the first announce interval. Each peer announces with `OFFERS` offers in every
interval, at a phase of its own, and answers every offer at once. The choice of this tracker is its `Hub`; those of
bittorrent-tracker 11 and of wt-tracker are written after their `lib/server/swarm.js` and `src/fast-tracker.ts`.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from benchmarks.operations import Client
from tracker.core.hub import Hub
from tracker.core.rules import Rules
from tracker.core.swarm import Connection, Peer
from tracker.protocol.codec import make_offer
from tracker.protocol.errors import RequestError
from tracker.protocol.messages import Announce, Answer, Offer

OFFERS: Final = 5
"""Offers of an announce, as bittorrent-tracker's client makes them."""

INTERVAL: Final = 120.0
ROUNDS: Final = 40
"""Announce intervals."""

SWARMS: Final = ("1+600", "10+10000", "0+300")
REMEMBERED: Final = 1000
"""Peers of a swarm that bittorrent-tracker keeps: those that announced last (`peersCacheLength`)."""

Choose = Callable[[int, int, float], list[int]]
"""Chooses the receivers of a peer's offers, by numbers: the seeders come first. Takes the peer, the number of offers,
and the time in seconds."""


def random_peers(_seeders: int, random: Random) -> Choose:
    """Choose as bittorrent-tracker does: a sample of the last `REMEMBERED` peers."""
    recent: dict[int, None] = {}

    def choose(peer: int, count: int, _now: float) -> list[int]:
        recent.pop(peer, None)
        recent[peer] = None
        if len(recent) > REMEMBERED:
            del recent[next(iter(recent))]
        others = list(recent)[:-1]
        return random.sample(others, min(count, len(others)))

    return choose


def consecutive_peers(_seeders: int, random: Random) -> Choose:
    """Choose as wt-tracker does: the peers in the order of joining, from a random one on."""
    joined: list[int] = []
    known: set[int] = set()

    def choose(peer: int, count: int, _now: float) -> list[int]:
        if peer not in known:
            known.add(peer)
            joined.append(peer)
        start = int(random.random() * len(joined))
        turn = (joined[(start + step) % len(joined)] for step in range(len(joined)))
        others = (other for other in turn if other != peer)
        return [other for other, _ in zip(others, range(count), strict=False)]

    return choose


class HubChoice:
    """The choice of this tracker. It is the outbox of a hub."""

    def __init__(self, seeders: int, random: Random) -> None:
        self._seeders = seeders
        self._hub = Hub(Rules(announce_interval=int(INTERVAL)), random.random)
        self._clients: dict[int, Client] = {}
        self._receivers: list[int] = []
        self._offers = [make_offer(f"{number:020}", "v=0") for number in range(OFFERS)]

    def choose(self, peer: int, count: int, now: float) -> list[int]:
        """Announce a peer, and return the numbers of the peers that receive its offers."""
        client = self._clients.setdefault(peer, Client())
        self._receivers = []
        announce = Announce(_HASH, f"{peer:020}", False, peer < self._seeders, self._offers[:count])
        self._hub.apply(client, announce, now, self)
        for receiver in self._receivers:
            answer = Answer(_HASH, f"{receiver:020}", f"{peer:020}", self._offers[0].offer_id, self._offers[0].offer_id)
            self._hub.apply(self._clients[receiver], answer, now, self)
        return self._receivers

    def reply(self, connection: Connection, info_hash: str, interval: int, complete: int, incomplete: int) -> None:
        """Ignore the reply."""

    def offers(self, _info_hash: str, _peer_id: str, receivers: list[Peer], _offers: list[Offer]) -> None:
        """Keep the receivers."""
        self._receivers = [int(receiver.peer_id) for receiver in receivers]

    def answer(self, connection: Connection, answer: Answer) -> None:
        """Ignore the answer."""

    def scrape(self, connection: Connection, counts: list[tuple[str, int, int]]) -> None:
        raise NotImplementedError

    def failure(self, _connection: Connection, error: RequestError) -> None:
        raise error


TRACKERS: Final[dict[str, Callable[[int, Random], Choose]]] = {
    "peerservers": lambda seeders, random: HubChoice(seeders, random).choose,
    "bittorrent-tracker": random_peers,
    "wt-tracker": consecutive_peers,
}
_HASH: Final = "h" * 20


@dataclass
class Round:
    """The state of a swarm after an announce interval."""

    most: int
    """Offers that the peer with the most was given in the interval."""
    seeded: float
    """Share of leechers that have met a seeder; without seeders, 1."""
    together: float
    """Share of peers in the largest part of the swarm whose peers have met, directly or through others."""
    repeated: float
    """Share of the interval's offers to a peer that the maker has met before."""


@dataclass
class Swarm:
    """A simulated swarm: which peers have met."""

    seeders: int
    leechers: int
    pairs: set[tuple[int, int]] = field(default_factory=set)
    seeded: set[int] = field(default_factory=set)
    parts: list[int] = field(default_factory=list)

    def run(self, choose: Choose, random: Random) -> Iterator[Round]:
        """Let every peer announce once per interval; yield the state after each."""
        total = self.seeders + self.leechers
        self.parts = list(range(total))
        phases = [(0.0 if peer < self.seeders else random.random() * INTERVAL, peer) for peer in range(total)]
        phases.sort()
        for number in range(ROUNDS):
            given: Counter[int] = Counter()
            repeated = 0
            for phase, peer in phases:
                receivers = choose(peer, OFFERS, number * INTERVAL + phase)
                given.update(receivers)
                repeated += sum(not self._meet(peer, receiver) for receiver in receivers)
            together = Counter(map(self._part_of, range(total))).most_common(1)[0][1] / total
            seeded = len(self.seeded) / self.leechers if self.seeders else 1
            yield Round(max(given.values(), default=0), seeded, together, repeated / max(1, given.total()))

    def _meet(self, one: int, other: int) -> bool:
        """Note a meeting; return whether it is the first one of the two peers."""
        pair = (min(one, other), max(one, other))
        if pair in self.pairs:
            return False
        self.pairs.add(pair)
        self.parts[self._part_of(one)] = self._part_of(other)
        if pair[0] < self.seeders <= pair[1]:
            self.seeded.add(pair[1])
        return True

    def _part_of(self, peer: int) -> int:
        parts = self.parts
        while parts[peer] != peer:
            parts[peer] = parts[parts[peer]]
            peer = parts[peer]
        return peer


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate the choice of receivers of three trackers.")
    parser.add_argument("swarms", nargs="*", default=SWARMS, help="numbers of seeders and leechers, as 1+600")
    parser.add_argument("--plot", type=Path, help="file for a plot, as SVG or PNG")
    arguments = parser.parse_args()
    found: dict[str, dict[str, list[Round]]] = {}
    print(f"{'swarm':10} {'tracker':20} {'after':>6} {'most offers':>12} {'seeded':>8} {'together':>9} {'repeated':>9}")
    for swarm in arguments.swarms:
        seeders, leechers = map(int, swarm.split("+"))
        for tracker, make in TRACKERS.items():
            random = Random(1)
            rounds = list(Swarm(seeders, leechers).run(make(seeders, random), random))
            found.setdefault(swarm, {})[tracker] = rounds
            for number in (1, 2, 5, 10, 20, ROUNDS):
                one = rounds[number - 1]
                print(
                    f"{swarm:10} {tracker:20} {number:6} {one.most:12} {one.seeded:8.1%} {one.together:9.2%} "
                    f"{one.repeated:9.1%}"
                )
    if arguments.plot:
        plot(found, arguments.plot)


def plot(found: dict[str, dict[str, list[Round]]], file: Path) -> None:
    """Draw, for each swarm, how many leechers have met a seeder, and how many offers one peer is given."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(found), 3, figsize=(11, 2.4 * len(found)), squeeze=False, layout="constrained")
    for (swarm, trackers), line in zip(found.items(), axes, strict=True):
        for tracker, rounds in trackers.items():
            numbers = range(1, len(rounds) + 1)
            line[0].plot(numbers, [100 * one.seeded for one in rounds], label=tracker)
            line[1].plot(numbers, [one.most for one in rounds], label=tracker)
            line[2].plot(numbers, [100 * one.repeated for one in rounds], label=tracker)
        titles = ("leechers that have met a seeder, %", "most offers to one peer", "offers to a peer met before, %")
        for axis, title in zip(line, titles, strict=True):
            axis.set_title(f"{swarm}: {title}", fontsize=9, loc="left")
            axis.set_xlabel("announce intervals", fontsize=8)
            axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].legend(fontsize=8)
    figure.savefig(file)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
