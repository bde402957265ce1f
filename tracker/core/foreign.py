"""The limits of offers from other trackers to each local peer (sans I/O; times are seconds on any monotonic clock)."""

from collections import Counter
from typing import Any, Final

from tracker.core.rules import Rules
from tracker.core.swarm import Peer

_WINDOW: Final = 60.0
"""Seconds for which the offers given to a peer are counted."""


class ForeignOffers:
    """Counts the offers of other trackers' peers that each local peer is given in a window.

    They are at most `max_foreign_offers`, of which at most half come from one origin.
    """

    def __init__(self, rules: Rules) -> None:
        self._limit = rules.max_foreign_offers
        self._given: dict[Peer, Counter[Any]] = {}
        """The offers given to each peer in this window, in all (None) and by origin."""
        self._window_ends = 0.0

    def may_be_given(self, peer: Peer, origin: Any, now: float) -> bool:
        """Return whether a peer may receive one more offer from an origin; None for an unknown one."""
        given = self._given.get(peer)
        if given is None or now > self._window_ends:
            return True
        return given[None] < self._limit and (origin is None or given[origin] < self._limit / 2)

    def note_given(self, peer: Peer, origin: Any, now: float) -> None:
        """Note that a peer receives an offer from an origin."""
        if now > self._window_ends:
            self._given.clear()
            self._window_ends = now + _WINDOW
        given = self._given.setdefault(peer, Counter())
        given[None] += 1
        if origin is not None:
            given[origin] += 1

    def forget(self, peer: Peer) -> None:
        """Forget a peer that has left."""
        self._given.pop(peer, None)
