"""Offers that found nobody, kept while their makers still wait for an answer (sans I/O)."""

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from tracker.core.swarm import Peer, Swarm
from tracker.protocol.messages import Offer

LIFETIME: Final = 45.0
"""Seconds that an offer is good for: bittorrent-tracker's client gives up on one after 50."""

MAX_BYTES: Final = 16 << 20
"""Memory in all; for new ones the oldest go."""

_OVERHEAD: Final = 400
"""Bytes that an offer takes besides its SDP."""


class Parked:
    """One peer's offers. `met` counts those it was given since, by where they came from: that many there need none."""

    __slots__ = ("met", "offers", "peer", "since", "size")

    def __init__(self, peer: Peer, offers: list[Offer], since: float) -> None:
        self.peer = peer
        self.offers = offers
        self.since = since
        self.met: Counter[Any] = Counter()
        self.size = _size(offers)


class Parking:
    """The last unplaced offers of each peer. `on_placed` is told how many seconds some had waited that are placed."""

    def __init__(self, on_placed: Callable[[float], None]) -> None:
        self.dropped = 0
        """Offers that nobody came for in time."""
        self._on_placed = on_placed
        # A dict keeps their order: the oldest first.
        self._parked: dict[Peer, Parked] = {}
        self._swarms: dict[Swarm, dict[Peer, Parked]] = {}
        self._bytes = 0

    def offers(self, now: float) -> int:
        """How many there are that are still good."""
        self._sweep(now)
        return sum(len(parked.offers) for parked in self._parked.values() if parked.since + LIFETIME > now)

    def park(self, peer: Peer, offers: list[Offer], now: float) -> None:
        """Keep a peer's offers in place of those it has here; the tokens must not point into a frame."""
        self.forget(peer)
        parked = Parked(peer, offers, now)
        self._parked[peer] = parked
        self._swarms.setdefault(peer.swarm, {})[peer] = parked
        self._bytes += parked.size
        self._sweep(now)

    def add(self, peer: Peer, offers: list[Offer], since: float, now: float) -> None:
        """Keep more of a peer's offers, that were made then: they get no older than those made now."""
        parked = self._parked.get(peer)
        if parked is None or parked.since + LIFETIME <= now:
            self.park(peer, offers, since)
        else:
            parked.offers += offers
            parked.since = min(parked.since, since)
            size = _size(offers)
            parked.size += size
            self._bytes += size
        self._sweep(now)

    def of(self, swarm: Swarm, now: float) -> list[Parked]:
        """What is parked in a swarm and still good."""
        return [parked for parked in self._swarms.get(swarm, {}).values() if parked.since + LIFETIME > now]

    def met(self, peer: Peer, owner: Any) -> None:
        """A peer was given somebody's offer, that came from `owner`."""
        parked = self._parked.get(peer)
        if parked:
            parked.met[owner] += 1

    def take(self, parked: Parked, count: int, now: float) -> list[Offer]:
        """Take some of a peer's offers out, to place them."""
        if count <= 0:
            return []
        taken, parked.offers = parked.offers[:count], parked.offers[count:]
        size = _size(taken)
        parked.size -= size
        self._bytes -= size
        self._on_placed(now - parked.since)
        if not parked.offers:
            self.forget(parked.peer)
        return taken

    def _sweep(self, now: float) -> None:
        while self._parked:
            oldest = next(iter(self._parked.values()))
            if self._bytes <= MAX_BYTES and oldest.since + LIFETIME > now:
                break
            self.dropped += len(oldest.offers)
            self.forget(oldest.peer)

    def forget(self, peer: Peer) -> None:
        """A peer has left, or has new offers."""
        parked = self._parked.pop(peer, None)
        if parked:
            self._bytes -= parked.size
            swarm = self._swarms[peer.swarm]
            del swarm[peer]
            if not swarm:
                del self._swarms[peer.swarm]


def _size(offers: list[Offer]) -> int:
    return sum(memoryview(offer.description.sdp).nbytes + _OVERHEAD for offer in offers)
