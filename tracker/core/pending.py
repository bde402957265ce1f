"""Peers that wait for admission to a swarm, and the announces that they make in the meantime (sans I/O)."""

from collections.abc import Callable
from math import inf
from typing import Final

from tracker.core.swarm import Connection, Peer
from tracker.protocol.errors import RequestError
from tracker.protocol.messages import Announce
from tracker.reasons import DropReason

MAX_BYTES: Final = 64 << 20
MAX_BYTES_OF_ONE: Final = 4 << 20
"""Bytes of memory for all pending joins, and for the pending joins of one client (`Connection.client`)."""

OVERHEAD: Final = 4096
"""Bytes that an announce takes besides its message, including the task that asks the extensions."""


class PendingJoin:
    """A peer that waits to join a swarm, or to be present on one more connection."""

    __slots__ = ("announces", "connection", "info_hash", "peer_id", "size")

    def __init__(self, connection: Connection, info_hash: str, peer_id: str) -> None:
        self.connection = connection
        self.info_hash = info_hash
        self.peer_id = peer_id
        self.announces: list[Announce] = []
        self.size = 0

    @property
    def client(self) -> object:
        """The client to whose memory limit the join counts."""
        return self.connection.client


class PendingJoins:
    """All joins that wait for a verdict. Before `require` is called, peers join without a verdict."""

    def __init__(self) -> None:
        self.required = False
        """Whether a peer needs a verdict before it joins."""
        self._ask: Callable[[PendingJoin], None] = _ignore
        self._withdraw: Callable[[PendingJoin], None] = _ignore
        # The joins of one peer_id in one swarm, on different connections.
        self._joins: dict[tuple[str, str], list[PendingJoin]] = {}
        self._of: dict[Connection, set[PendingJoin]] = {}
        self._bytes = 0
        self._bytes_of: dict[object, int] = {}
        self._ends: dict[Peer, float] = {}
        """The times at which the admissions of members end, if they do."""

    def require(self, ask: Callable[[PendingJoin], None], withdraw: Callable[[PendingJoin], None]) -> None:
        """Require a verdict for every join from now on.

        `ask` is called with each new join, and `withdraw` with each join that no longer needs a verdict.
        """
        self.required = True
        self._ask, self._withdraw = ask, withdraw

    def __len__(self) -> int:
        return sum(len(joins) for joins in self._of.values())

    def add(self, connection: Connection, announce: Announce) -> None:
        """Keep an announce until its peer has a verdict.

        Raises:
            RequestError: if the pending joins would take too much memory.
        """
        # The message is kept as it came, because the extensions may read it, and its offers point into it.
        size = OVERHEAD + len(announce.payload)
        joins = self._joins.get((announce.info_hash, announce.peer_id), [])
        known = next((join for join in joins if join.connection is connection), None)
        join = known or PendingJoin(connection, announce.info_hash, announce.peer_id)
        client = join.client
        if self._bytes + size > MAX_BYTES or self._bytes_of.get(client, 0) + size > MAX_BYTES_OF_ONE:
            text = "too many peers wait for admission, try again later"
            raise RequestError(DropReason.ADMISSION_QUEUE_FULL, text, announce.info_hash)
        joins = self._joins.setdefault((announce.info_hash, announce.peer_id), joins)
        if not known:
            joins.append(join)
        join.announces.append(announce)
        join.size += size
        self._bytes += size
        self._bytes_of[client] = self._bytes_of.get(client, 0) + size
        if not known:
            self._of.setdefault(connection, set()).add(join)
            self._ask(join)

    def take(self, join: PendingJoin) -> list[Announce]:
        """End a join that has a verdict. Return its announces in order, or an empty list if it is no longer pending."""
        if join not in self._of.get(join.connection, ()):
            return []
        self._remove(join)
        return join.announces

    def stop(self, connection: Connection, info_hash: str, peer_id: str) -> None:
        """Cancel the join of a peer that has stopped."""
        for join in self._joins.get((info_hash, peer_id), ()):
            if join.connection is connection:
                self.cancel(join)
                return

    def close(self, connection: Connection) -> None:
        """Cancel the joins of a connection that has ended."""
        for join in list(self._of.get(connection, ())):
            self.cancel(join)

    def cancel(self, join: PendingJoin) -> None:
        """End a join that no longer needs a verdict."""
        self._remove(join)
        self._withdraw(join)

    def limit(self, peer: Peer, until: float) -> None:
        """Let the admission of a member end at a time; `inf` for none."""
        if until < inf:
            self._ends[peer] = until
        else:
            self._ends.pop(peer, None)

    def has_ended(self, peer: Peer, now: float) -> bool:
        """Return whether the admission of a member has ended."""
        return now >= self._ends.get(peer, inf)

    def forget(self, peer: Peer) -> None:
        """Forget a peer that has left its swarm."""
        self._ends.pop(peer, None)

    def check_invariants(self) -> None:
        """Raise `AssertionError` if the sums are wrong; for tests."""
        joins = [join for joins in self._joins.values() for join in joins]
        assert len(joins) == len(self)
        assert all(join.announces and join in self._of[join.connection] for join in joins)
        assert self._bytes == sum(join.size for join in joins) == sum(self._bytes_of.values())
        assert self._bytes_of.keys() == {join.client for join in joins}
        assert all(peer.swarm.peers.get(peer.peer_id) is peer for peer in self._ends)

    def _remove(self, join: PendingJoin) -> None:
        key = join.info_hash, join.peer_id
        joins = self._joins[key]
        joins.remove(join)
        if not joins:
            del self._joins[key]
        own = self._of[join.connection]
        own.remove(join)
        if not own:
            del self._of[join.connection]
        self._bytes -= join.size
        client = join.client
        self._bytes_of[client] -= join.size
        if not self._bytes_of[client]:
            del self._bytes_of[client]


def _ignore(_join: PendingJoin) -> None:
    """Do nothing."""
