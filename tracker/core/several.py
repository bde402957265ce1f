"""The peers that are present on several connections, and the choice of one of them for offers (sans I/O).

All times are seconds on any monotonic clock.
"""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

from tracker.core.counters import Counters
from tracker.core.parked import ParkedOffers
from tracker.core.presence import Presences
from tracker.core.swarm import Connection, Peer
from tracker.protocol.errors import RequestError
from tracker.protocol.messages import Announce
from tracker.reasons import DropReason

MAX_LISTENED: Final = 1000
"""Peers that one call of `listen` examines, because one client can have tens of thousands of them on a dead socket."""


class SeveralConnections:
    """Keeps the connections of peers that have more than one. `become_seeder` makes a leecher a seeder."""

    def __init__(self, parked: ParkedOffers, counters: Counters, become_seeder: Callable[[Peer], None]) -> None:
        self._parked = parked
        self._counters = counters
        self._become_seeder = become_seeder
        self._pinged: dict[Peer, None] = {}

    @property
    def pinged(self) -> Iterable[Peer]:
        """The peers with a connection that has not answered a ping yet."""
        return self._pinged

    def announce(self, connection: Connection, peer: Peer, message: Announce, now: float, admitted: bool) -> bool:
        """Note an announce of a peer on one of its connections, which may be new.

        `admitted`: the announce is older, because it had to wait. Return whether it refreshes the peer.

        Raises:
            RequestError: if the peer has too many other connections.
        """
        # A connection that had to wait for admission may have died meanwhile.
        heard = None if admitted else connection
        presences = peer.presences
        if presences is None:
            presences = peer.presences = Presences(peer.connection, peer.complete, peer.last_seen, now)
        presence = presences.get(connection)
        if presence is None:
            presence, removed = presences.add(connection, message.complete, now)
            if presence is None:
                text = "this peer_id is in use on other connections"
                raise RequestError(DropReason.PEER_ID_IN_USE, text, message.info_hash)
            connection.peers.add(peer)
            if presences.is_at_home(connection):
                # Its client may have reconnected, and lost its peers, too.
                peer.forget_met()
            if removed is not None:
                removed.peers.discard(peer)
                self._parked.forget_from(peer, removed)
            # The other ones may be dead: a client that reconnects keeps its peer_id.
            self._ping(peer, presences, heard, now)
        presences.note_announce(presence, message.complete, [offer.id for offer in message.offers], now)
        is_at_home = presences.is_at_home(connection)
        if not is_at_home and presences.current is not presence:
            self._ping(peer, presences, heard, now)
        self._choose(peer, presences)
        return is_at_home

    def leave(self, peer: Peer, connection: Connection) -> None:
        """Remove a peer from one of its connections."""
        presences = peer.presences
        assert presences is not None
        presences.remove(connection)
        connection.peers.discard(peer)
        self._parked.forget_from(peer, connection)
        self._choose(peer, presences)
        if len(presences) == 1:
            peer.presences = None
            self._pinged.pop(peer, None)

    def forget(self, peer: Peer) -> None:
        """Forget a peer that has left its swarm."""
        if self._pinged:
            self._pinged.pop(peer, None)

    def listen(self, now: float) -> None:
        """Note which of the pinged connections have answered. Each call examines the next `MAX_LISTENED` peers."""
        for peer in list(islice(self._pinged, MAX_LISTENED)):
            presences = peer.presences
            assert presences is not None
            del self._pinged[peer]
            if presences.listen(now):
                # Its next turn comes after those of the others.
                self._pinged[peer] = None
            for presence in presences:
                if presence.is_silent:
                    # Its client has probably forgotten them.
                    self._parked.forget_from(peer, presence.connection)
            self._choose(peer, presences)

    def _ping(self, peer: Peer, presences: Presences[Connection], but: Connection | None, now: float) -> None:
        presences.ping(but, now)
        self._pinged[peer] = None

    def _choose(self, peer: Peer, presences: Presences[Connection]) -> None:
        """Give the peer's offers to its current connection from now on."""
        current, former = presences.current, presences.get(peer.connection)
        if current is former:
            return
        if former is not None and former.is_silent:
            self._counters.dropped[DropReason.TAKEN_OVER] += 1
        peer.connection = current.connection
        peer.swarm.moved(peer)
        peer.last_seen = max(peer.last_seen, current.announced)
        if current.complete and not peer.complete:
            self._become_seeder(peer)
