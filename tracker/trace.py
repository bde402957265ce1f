"""Logs joins, leaves and failures at the level debug, within the limit of lines that each event has."""

from typing import Final

import structlog

from tracker.core.observers import Trace
from tracker.core.swarm import Connection, Peer
from tracker.protocol.errors import RequestError
from tracker.protocol.ids import is_id
from tracker.protocol.messages import NO_INFO_HASH

_LEVEL: Final = "debug"


def trace_for(level: str) -> Trace | None:
    """Return the trace for the hub at a level of the log."""
    return LogTrace() if level == _LEVEL else None


class LogTrace:
    """The hub's `Trace`: writes one line for each event. Binary ids are in hexadecimal."""

    def joined(self, peer: Peer) -> None:
        """Log that a peer has joined its swarm."""
        role = "seeder" if peer.complete else "leecher"
        self._log("peer_joined", peer.connection, peer.swarm.info_hash, peer_id=_id(peer.peer_id), role=role)

    def left(self, peer: Peer) -> None:
        """Log that a peer has left its swarm."""
        self._log("peer_left", peer.connection, peer.swarm.info_hash, peer_id=_id(peer.peer_id))

    def failed(self, connection: Connection, error: RequestError) -> None:
        """Log a failure that is sent to a client."""
        self._log("failure_sent", connection, error.info_hash, reason=error.reason.value, text=error.text)

    def _log(self, event: str, connection: Connection, info_hash: str, **values: str) -> None:
        structlog.get_logger().debug(event, address=connection.address, info_hash=_id(info_hash), **values)


def _id(text: str) -> str:
    if text == NO_INFO_HASH:
        return ""
    return text.encode("latin-1").hex() if is_id(text) else text
