"""Peers that wait for leave to join a swarm, and what they announce meanwhile (sans I/O)."""

from collections.abc import Callable
from typing import Final

from tracker.core.swarm import Connection
from tracker.protocol.codec import detached
from tracker.protocol.errors import RequestError
from tracker.protocol.messages import Announce
from tracker.reasons import DropReason

MAX_BYTES: Final = 64 << 20
MAX_BYTES_OF_ONE: Final = 4 << 20
"""Memory for all that wait, and for those of one address (of one connection, if its address has no limits)."""

_OVERHEAD: Final = 4096
"""Bytes that an announce takes besides its offers, with all that is at work for it."""


class PendingJoin:
    """A peer that waits to join a swarm, or to take over a member that another connection owns."""

    __slots__ = ("announces", "connection", "info_hash", "peer_id", "size")

    def __init__(self, connection: Connection, info_hash: str, peer_id: str) -> None:
        self.connection = connection
        self.info_hash = info_hash
        self.peer_id = peer_id
        self.announces: list[Announce] = []
        self.size = 0

    @property
    def client(self) -> object:
        """Whose it is: what all connections of one address share, or the connection if its address has no limits."""
        return self.connection.quota or self.connection


class PendingJoins:
    """All that wait. `ask` is told of each, and `forget` of each that needs no verdict any more."""

    def __init__(self, ask: Callable[[PendingJoin], None], forget: Callable[[PendingJoin], None]) -> None:
        self._ask = ask
        self._forget = forget
        # Those of one peer_id in one swarm, on different connections: who has announced last comes last.
        self._joins: dict[tuple[str, str], list[PendingJoin]] = {}
        self._of: dict[Connection, set[PendingJoin]] = {}
        self._bytes = 0
        self._bytes_of: dict[object, int] = {}

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(len(joins) for joins in self._of.values())

    def enter(self, connection: Connection, announce: Announce) -> None:
        """Keep an announce until it is decided whether its peer may join. Raises `RequestError` if there is no room."""
        size = _OVERHEAD + sum(memoryview(offer.description.sdp).nbytes for offer in announce.offers)
        joins = self._joins.get((announce.info_hash, announce.peer_id), [])
        known = next((join for join in joins if join.connection is connection), None)
        join = known or PendingJoin(connection, announce.info_hash, announce.peer_id)
        client = join.client
        if self._bytes + size > MAX_BYTES or self._bytes_of.get(client, 0) + size > MAX_BYTES_OF_ONE:
            text = "too many wait for admission, try again later"
            raise RequestError(DropReason.ADMISSION_QUEUE_FULL, text, announce.info_hash)
        # The frame that they came in need not stay.
        announce.offers = detached(announce.offers)
        joins = self._joins.setdefault((announce.info_hash, announce.peer_id), joins)
        if known:
            joins.remove(known)
        joins.append(join)
        join.announces.append(announce)
        join.size += size
        self._bytes += size
        self._bytes_of[client] = self._bytes_of.get(client, 0) + size
        if not known:
            self._of.setdefault(connection, set()).add(join)
            self._ask(join)

    def leave(self, join: PendingJoin) -> list[Announce]:
        """It is decided: what the peer has announced, in order; nothing if it waits no more."""
        if join not in self._of.get(join.connection, ()):
            return []
        self._remove(join)
        return join.announces

    def older(self, join: PendingJoin) -> list[PendingJoin]:
        """The same peer on other connections, where it has announced before it did on this one."""
        joins = self._joins.get((join.info_hash, join.peer_id), [])
        return joins[: joins.index(join)] if join in joins else []

    def withdraw(self, connection: Connection, info_hash: str, peer_id: str) -> None:
        """A peer wants to join no more."""
        for join in self._joins.get((info_hash, peer_id), ()):
            if join.connection is connection:
                self.cancel(join)
                return

    def close(self, connection: Connection) -> None:
        """A connection has ended."""
        for join in list(self._of.get(connection, ())):
            self.cancel(join)

    def cancel(self, join: PendingJoin) -> None:
        """A peer waits no more, and needs no verdict."""
        self._remove(join)
        self._forget(join)

    def check_invariants(self) -> None:
        """Raise `AssertionError` if the books do not balance."""
        joins = [join for joins in self._joins.values() for join in joins]
        assert len(joins) == self.waiting
        assert all(join.announces and join in self._of[join.connection] for join in joins)
        assert self._bytes == sum(join.size for join in joins) == sum(self._bytes_of.values())
        assert self._bytes_of.keys() == {join.client for join in joins}

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
