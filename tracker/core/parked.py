"""Offers that found no receiver, kept until one comes (sans I/O; times are seconds on any monotonic clock)."""

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, Final

from tracker.core.counters import Counters
from tracker.core.swarm import Connection, Peer, Swarm
from tracker.protocol.messages import Offer
from tracker.reasons import DropReason

LIFETIME: Final = 45.0
"""Seconds for which an offer is valid: bittorrent-tracker's client destroys its connection after 50 s."""

MAX_BYTES: Final = 16 << 20
"""Bytes of memory for all parked offers. Beyond this, the oldest are dropped."""

_OVERHEAD: Final = 400
"""Bytes that an offer takes besides its SDP."""


class Parked:
    """The parked offers of one peer.

    `met` counts the offers that the peer has received since, by origin. As many peers at that origin need no offer.
    """

    __slots__ = ("connection", "made", "met", "offers", "peer", "size")

    def __init__(self, peer: Peer, offers: list[Offer], made: float) -> None:
        self.peer = peer
        self.connection = peer.connection
        """The connection on which the last of the offers were made."""
        self.offers = offers
        self.made = made
        self.met: Counter[Any] = Counter()
        self.size = _size(offers)


class ParkedOffers:
    """The last offers of each peer that found no receiver. Nothing is parked before `enable` or `keep`."""

    def __init__(self, counters: Counters, max_bytes: int = MAX_BYTES) -> None:
        self.enabled = False
        """Whether offers are parked."""
        self.renewed = False
        """Whether a peer that is alone announces more often, so that its parked offers stay valid."""
        self._counters = counters
        self._on_placed: list[Callable[[float], None]] = []
        # The oldest offers come first. A plain dict would search for its first entry past all those that were removed.
        self._parked: OrderedDict[Peer, Parked] = OrderedDict()
        self._swarms: dict[Swarm, dict[Peer, Parked]] = {}
        self._bytes = 0
        self._max_bytes = max_bytes

    @property
    def size(self) -> int:
        """Bytes of memory that the parked offers take."""
        return self._bytes

    def keep(self) -> None:
        """Park offers from now on, and let those expire whose peer is alone for long."""
        self.enabled = True

    def enable(self, on_placed: Callable[[float], None]) -> None:
        """Park offers from now on, and have peers that are alone make new ones before they expire.

        `on_placed` gets the seconds that a parked offer waited for a receiver.
        """
        self.enabled = self.renewed = True
        self._on_placed.append(on_placed)

    def count(self, now: float) -> int:
        """Return the number of parked offers that are still valid."""
        self.expire(now)
        return sum(len(parked.offers) for parked in self._parked.values() if parked.made + LIFETIME > now)

    def park(self, peer: Peer, offers: list[Offer], now: float) -> None:
        """Park a peer's offers, which replace the peer's parked offers."""
        self.forget(peer)
        parked = Parked(peer, [offer.detached() for offer in offers], now)
        self._parked[peer] = parked
        self._swarms.setdefault(peer.swarm, {})[peer] = parked
        self._bytes += parked.size
        self.expire(now)

    def add(self, peer: Peer, offers: list[Offer], made: float, now: float) -> None:
        """Park more offers of a peer, made at the time `made`. All its offers then expire with the oldest."""
        parked = self._parked.get(peer)
        if parked is None or parked.made + LIFETIME <= now:
            self.park(peer, offers, made)
        else:
            parked.offers += [offer.detached() for offer in offers]
            parked.made = min(parked.made, made)
            size = _size(offers)
            parked.size += size
            self._bytes += size
        self.expire(now)

    def of(self, swarm: Swarm, now: float) -> list[Parked]:
        """Return the parked offers of a swarm that are still valid, the oldest first."""
        return [parked for parked in self._swarms.get(swarm, {}).values() if parked.made + LIFETIME > now]

    def note_met(self, peer: Peer, origin: Any) -> None:
        """Note that a peer has received an offer from `origin`."""
        parked = self._parked.get(peer)
        if parked:
            parked.met[origin] += 1

    def take(self, parked: Parked, count: int, now: float) -> list[Offer]:
        """Remove up to `count` of a peer's offers, and return them for placing."""
        if count <= 0:
            return []
        taken, parked.offers = parked.offers[:count], parked.offers[count:]
        size = _size(taken)
        parked.size -= size
        self._bytes -= size
        for on_placed in self._on_placed:
            on_placed(now - parked.made)
        if not parked.offers:
            self.forget(parked.peer)
        return taken

    def forget(self, peer: Peer) -> None:
        """Remove a peer's offers, because the peer left or because they are no longer valid."""
        parked = self._parked.pop(peer, None)
        if parked:
            self._bytes -= parked.size
            swarm = self._swarms[peer.swarm]
            del swarm[peer]
            if not swarm:
                del self._swarms[peer.swarm]

    def forget_from(self, peer: Peer, connection: Connection) -> None:
        """Remove a peer's offers if they were made on this connection: its client forgets them when it ends."""
        parked = self._parked.get(peer)
        if parked and parked.connection is connection:
            self.forget(peer)

    def check_invariants(self) -> None:
        """Raise `AssertionError` if the sums or the two indexes differ; for tests."""
        assert self._bytes == sum(parked.size for parked in self._parked.values())
        assert all(parked.offers and parked.size == _size(parked.offers) for parked in self._parked.values())
        assert self._parked == {peer: parked for of in self._swarms.values() for peer, parked in of.items()}
        assert all(self._swarms.values())

    def expire(self, now: float) -> None:
        """Drop the offers that are too old, and further ones, the oldest first, while all take too much memory."""
        while self._parked:
            oldest = next(iter(self._parked.values()))
            if self._bytes <= self._max_bytes and oldest.made + LIFETIME > now:
                break
            self._counters.dropped[DropReason.UNPLACED_OFFER] += len(oldest.offers)
            self.forget(oldest.peer)


def _size(offers: list[Offer]) -> int:
    return sum(offer.size + _OVERHEAD for offer in offers)
