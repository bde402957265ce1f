"""A naive model of a peer and its connections, all of which come from one network."""

from tests.unit.fakes import FakeConnection
from tracker.core.presence import MAX_CONNECTIONS

Key = tuple[str, str]
"""An info_hash and a peer_id."""


class Member:
    """A peer. Its connections are in the order of their last announces."""

    def __init__(self) -> None:
        self.connections: list[FakeConnection] = []
        self.before: FakeConnection | None = None
        """The connection on which it was alone before there were several."""
        self.complete = False

    @property
    def current(self) -> FakeConnection:
        """The connection that receives offers."""
        return self.connections[-1]

    @property
    def receiver(self) -> FakeConnection:
        """The connection that receives an answer to an offer which is not remembered."""
        return self.before or self.current

    def announce(self, connection: FakeConnection, complete: bool) -> None:
        """Note an announce."""
        if connection in self.connections:
            self.connections.remove(connection)
        elif len(self.connections) == 1:
            self.before = self.current
        self.connections.append(connection)
        if len(self.connections) > MAX_CONNECTIONS:
            self.leave(self.connections[0])
        self.complete |= complete

    def leave(self, connection: FakeConnection) -> None:
        """Note the end of a connection, or that the peer has stopped on it."""
        self.connections.remove(connection)
        if connection is self.before or len(self.connections) == 1:
            self.before = None


class Members(dict[Key, Member]):
    """The peers of all swarms."""

    def announce(self, key: Key, connection: FakeConnection, complete: bool) -> None:
        """Note an announce."""
        self.setdefault(key, Member()).announce(connection, complete)

    def leave(self, key: Key, connection: FakeConnection) -> None:
        """Note that a peer has left a connection, if it was there."""
        if self.has(key, connection):
            self[key].leave(connection)
            if not self[key].connections:
                del self[key]

    def close(self, connection: FakeConnection) -> None:
        """Note the end of a connection."""
        for key in list(self):
            self.leave(key, connection)

    def has(self, key: Key, connection: FakeConnection) -> bool:
        """Return whether a peer is present on a connection."""
        return key in self and connection in self[key].connections
