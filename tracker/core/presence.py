"""A peer that is present on several connections (sans I/O; times are seconds on any monotonic clock).

A client whose list names one tracker under two URLs opens two connections with one peer_id. A client that reconnects
does the same, if its old connection still seems to be open. And a stranger may announce a peer_id that it has seen in
an offer. The tracker can tell these apart only by the address, and by pinging the older connections.

A connection is at *home* if it comes from the network that the peer first announced from.
"""

from collections.abc import Iterable, Iterator
from typing import Final, Generic, Protocol, TypeVar

MAX_CONNECTIONS: Final = 4
"""Connections on which one peer may be present."""

MAX_OFFERS: Final = 256
"""Offers of one connection that are remembered, so that their answers go to it."""

OFFER_LIFETIME: Final = 60.0
"""Seconds for which they are remembered: Trystero takes answers for 57 s, bittorrent-tracker's client for 50 s."""

PING_TIMEOUT: Final = 1.5
"""Seconds after which a connection that has not answered a ping counts as silent."""

PING_GAP: Final = 10.0
"""Seconds from one ping of a connection to the next, so that a stranger cannot make it busy."""


class Reachable(Protocol):
    """A connection, as this module sees it."""

    last_received: float
    """The time of the last frame from the client."""

    @property
    def network(self) -> str:
        """The client's numeric IP address, or the /64 of an IPv6 address."""

    def ping(self) -> None:
        """Ask the client for a frame (RFC 6455, section 5.5.2)."""


C = TypeVar("C", bound=Reachable)


class Presence(Generic[C]):
    """A peer on one connection."""

    __slots__ = ("announced", "complete", "connection", "is_silent", "offers", "pinged")

    def __init__(self, connection: C, complete: bool, announced: float) -> None:
        self.connection: Final = connection
        self.complete = complete
        self.announced = announced
        """The time of the last announce."""
        self.pinged = 0.0
        """The time of the last ping, or 0."""
        self.is_silent = False
        """Whether the connection has not answered the last ping in time."""
        self.offers: dict[str, float] = {}
        """The offer_ids of the last offers, the oldest first, with the time of each."""

    def note_offers(self, offer_ids: Iterable[str], now: float) -> None:
        """Remember that these offers came on this connection."""
        for offer_id in offer_ids:
            self.offers.pop(offer_id, None)
            self.offers[offer_id] = now
        self.forget_offers(now)

    def forget_offers(self, now: float) -> None:
        """Forget the offers that can no longer be answered, and the oldest of those that are too many."""
        while self.offers:
            oldest = next(iter(self.offers))
            if len(self.offers) <= MAX_OFFERS and self.offers[oldest] + OFFER_LIFETIME > now:
                break
            del self.offers[oldest]

    def listen(self, now: float) -> bool:
        """Note whether the connection has answered its last ping; return whether that is still open or the answer no.

        A connection that answers late is not silent any more.
        """
        if not self.pinged or self.connection.last_received >= self.pinged:
            self.is_silent = False
            return False
        if now >= self.pinged + PING_TIMEOUT:
            self.is_silent = True
        return True

    def ping(self, now: float) -> None:
        """Ping the connection, unless it was pinged just now."""
        if not self.pinged or now >= self.pinged + PING_GAP:
            self.pinged = now
            self.connection.ping()


class Presences(Generic[C]):
    """One peer on several connections: the choice of the connection for offers, and for each answer.

    1. Offers go to the *current* connection: the one that announced last. Connections at home come before others, and
       silent ones come last.
    2. An answer goes to the connection that made the offer.
    3. A connection from elsewhere changes nothing for the others while one at home answers pings.
    """

    __slots__ = ("_before", "_home", "_presences", "_since")

    def __init__(self, connection: C, complete: bool, announced: float, now: float) -> None:
        """Begin with the connection on which the peer has been alone until `now`."""
        # In the order of their last announces.
        self._presences = [Presence(connection, complete, announced)]
        self._before: C | None = connection
        """The connection that made the offers which are not remembered; None if it has ended."""
        self._since = now
        self._home = connection.network

    def __len__(self) -> int:
        return len(self._presences)

    def __iter__(self) -> Iterator[Presence[C]]:
        return iter(self._presences)

    @property
    def current(self) -> Presence[C]:
        """The presence that receives offers."""
        return max(reversed(self._presences), key=self._rank)

    def is_at_home(self, connection: C) -> bool:
        """Return whether a connection comes from the network that the peer first announced from."""
        return connection.network == self._home

    def get(self, connection: C) -> Presence[C] | None:
        """Return the presence on a connection."""
        return next((presence for presence in self._presences if presence.connection is connection), None)

    def add(self, connection: C, complete: bool, now: float) -> tuple[Presence[C] | None, C | None]:
        """Add a connection.

        If there are too many, the least useful one makes room. Return the new presence and the connection that made
        room; the presence is None if the new connection itself is the least useful.
        """
        presence = Presence(connection, complete, now)
        self._presences.append(presence)
        if len(self._presences) <= MAX_CONNECTIONS:
            return presence, None
        least = min(self._presences, key=self._rank)
        self.remove(least.connection)
        return (None, None) if least is presence else (presence, least.connection)

    def note_announce(self, presence: Presence[C], complete: bool, offer_ids: Iterable[str], now: float) -> None:
        """Note an announce on one of the connections, with its offers."""
        self._presences.remove(presence)
        self._presences.append(presence)
        presence.announced = now
        presence.complete |= complete
        presence.note_offers(offer_ids, now)

    def remove(self, connection: C) -> None:
        """Remove a connection. If none is left at home, the network of the current one is the home from now on."""
        self._presences = [presence for presence in self._presences if presence.connection is not connection]
        if self._before is connection:
            self._before = None
        if self._presences and not any(self.is_at_home(presence.connection) for presence in self._presences):
            self._home = self.current.connection.network

    def makers(self, offer_id: str, now: float) -> list[C]:
        """Return the connections to which the answer to an offer goes.

        They are two only if a connection from elsewhere repeats an offer_id which may be one of those that were made
        before there were several connections.
        """
        before = self._before
        found: C | None = None
        # A stranger that has seen an offer may repeat its offer_id: the connections at home come first.
        for presence in sorted(self._presences, key=self._is_foreign):
            if offer_id in presence.offers:
                found = presence.connection
                break
        if found is None:
            return [before or self.current.connection]
        if before is None or found is before or self.is_at_home(found) or now > self._since + OFFER_LIFETIME:
            return [found]
        return [before, found]

    def ping(self, but: C | None, now: float) -> None:
        """Ping all connections, but for one that was heard just now."""
        for presence in self._presences:
            if presence.connection is not but:
                presence.ping(now)

    def listen(self, now: float) -> bool:
        """Note which connections have answered their pings; return whether there is one that has not."""
        # Every connection has to be looked at, not only those before the first one that has not answered.
        unheard = [presence for presence in self._presences if presence.listen(now)]
        return bool(unheard)

    def forget_offers(self, now: float) -> None:
        """Forget the offers that can no longer be answered."""
        for presence in self._presences:
            presence.forget_offers(now)

    def _is_foreign(self, presence: Presence[C]) -> bool:
        return not self.is_at_home(presence.connection)

    def _rank(self, presence: Presence[C]) -> tuple[bool, bool, float]:
        return not presence.is_silent, self.is_at_home(presence.connection), presence.announced
