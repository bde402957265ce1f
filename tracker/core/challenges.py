"""Peers that have joined at another node, while they still seem to be connected to this one (sans I/O).

A client that reconnects may come to another node of the tracker. Its old connection may be dead, and its peer would be
a member of the swarm twice. And a stranger may announce a peer_id that it has seen. Therefore the old connection is
pinged: if it does not answer in time, the peer leaves; otherwise it stays.

All times are seconds on any monotonic clock.
"""

from collections.abc import Callable
from itertools import islice
from math import inf
from typing import Final

from tracker.core.counters import Counters
from tracker.core.members import settle
from tracker.core.presence import PING_TIMEOUT
from tracker.core.rules import Rules
from tracker.core.swarm import Connection, Peer
from tracker.reasons import DropReason

MAX_JUDGED: Final = 1000
"""Peers that one call of `listen` judges, because one dead connection may have tens of thousands."""


class Challenges:
    """The peers whose connections were pinged. `leave` removes a peer from its swarm."""

    def __init__(self, rules: Rules, counters: Counters, leave: Callable[[Peer], None]) -> None:
        self._counters = counters
        self._leave = leave
        # Silent enough to come last for offers, but not to leave.
        self._behind = min(2.0 * rules.announce_interval + 1.0, max(0.0, rules.peer_timeout - 2 * PING_TIMEOUT))
        self._open: dict[Peer, tuple[float, float, float]] = {}
        """For each peer the time of the challenge, that of the ping, and its `last_seen` until then. Oldest first."""
        self._pinged: dict[Connection, float] = {}
        """The times of the last pings, the oldest first."""

    def __len__(self) -> int:
        return len(self._open)

    def has(self, peer: Peer) -> bool:
        """Return whether a peer is not judged yet."""
        return peer in self._open

    def challenge(self, peer: Peer, now: float) -> None:
        """Ping the connections of a peer. Until they have been judged, the peer comes last for offers."""
        if peer in self._open:
            return
        pinged = now
        for connection in peer.connections:
            at = self._pinged.get(connection, -inf)
            if now < at + PING_TIMEOUT:
                # One connection may have many peers, and a stranger may announce their peer_ids again and again.
                pinged = min(pinged, at)
            else:
                self._pinged.pop(connection, None)
                self._pinged[connection] = now
                connection.ping()
        self._open[peer] = now, pinged, peer.last_seen
        peer.last_seen = min(peer.last_seen, now - self._behind)
        settle(peer.swarm, peer.peer_id, False)

    def forget(self, peer: Peer) -> None:
        """Forget a peer that has left its swarm."""
        if self._open:
            self._open.pop(peer, None)

    def listen(self, now: float) -> None:
        """Judge the peers that have had time to answer: remove those of which no connection has sent anything since."""
        for peer, (began, pinged, last_seen) in list(islice(self._open.items(), MAX_JUDGED)):
            if now < began + PING_TIMEOUT:
                break
            del self._open[peer]
            if peer.last_seen >= began or any(one.last_received >= pinged for one in peer.connections):
                peer.last_seen = max(peer.last_seen, last_seen)
                settle(peer.swarm, peer.peer_id, True)
            else:
                self._counters.dropped[DropReason.TAKEN_OVER] += 1
                self._leave(peer)
        for connection, at in list(islice(self._pinged.items(), MAX_JUDGED)):
            if now < at + PING_TIMEOUT:
                break
            del self._pinged[connection]

    def check_invariants(self) -> None:
        """Raise `AssertionError` if a peer is kept that has left; for tests."""
        assert all(peer.swarm.peers.get(peer.peer_id) is peer for peer in self._open)
