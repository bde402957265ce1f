"""From which neighbour each offer came (sans I/O; times are seconds on any monotonic clock)."""

from typing import Final

from extensions.federation.ledger import OfferKey
from extensions.federation.neighbour import Neighbour
from tracker.extension import ExpiringMap

ROUTE_LIFETIME: Final = 120.0
MAX_ROUTES: Final = 100_000
"""Seconds, and number of offers, for which it is remembered from which neighbour an offer came."""


class Routes:
    """The neighbours of the offers that local peers were given.

    By offer, not by peer: another neighbour that uses the same peer_id must not get the answers.
    """

    def __init__(self) -> None:
        self._numbers: dict[Neighbour, int] = {}
        """Each neighbour with a number that no other one has or had."""
        self._by_number: dict[int, Neighbour] = {}
        self._added = 0
        # Not the neighbours themselves: a route must not keep one in memory that is gone, with all names of its swarms.
        self._routes: ExpiringMap[OfferKey, int] = ExpiringMap(ROUTE_LIFETIME, MAX_ROUTES)

    def add(self, neighbour: Neighbour) -> None:
        """Add a neighbour."""
        self._added += 1
        self._numbers[neighbour] = self._added
        self._by_number[self._added] = neighbour

    def remove(self, neighbour: Neighbour) -> None:
        """Forget a neighbour."""
        number = self._numbers.pop(neighbour, None)
        if number is not None:
            del self._by_number[number]

    def put(self, key: OfferKey, neighbour: Neighbour, now: float) -> None:
        """Remember that a local peer was given an offer of a neighbour."""
        self._routes.put(key, self._numbers[neighbour], now)

    def get(self, key: OfferKey, now: float) -> Neighbour | None:
        """Return the neighbour that an offer came from; None if it is gone, or if the route is forgotten."""
        number = self._routes.get(key, now)
        return None if number is None else self._by_number.get(number)

    def expire(self, now: float) -> None:
        """Forget the offers that can no longer be answered."""
        self._routes.expire(now)
