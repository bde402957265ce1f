"""A connection, a clock's worth of time, and a hub that checks itself after every step."""

import json
import random
from typing import Any

from tests.client import HASH, announce
from tracker.access.addresses import Quota
from tracker.core.hub import Hub, Observer, Outgoing
from tracker.core.remote import RemotePeers
from tracker.core.rules import Rules
from tracker.core.swarm import Peer

Json = dict[str, Any]


class FakeConnection:
    """Remembers what was sent to it."""

    def __init__(self) -> None:
        self.peers: set[Peer] = set()
        self.strikes = 0
        self.quota: Quota | None = None
        self.address = "192.0.2.1"
        self.inbox: list[Json] = []

    def take(self) -> list[Json]:
        """What was sent since the last time."""
        taken, self.inbox = self.inbox, []
        return taken


class Room:
    """A hub and its connections; time passes only when told to."""

    def __init__(self, observer: Observer | None = None, seed: int = 1, **rules: Any) -> None:
        self.hub = Hub(Rules(**rules), random.Random(seed).random, observer)
        self.foreign = RemotePeers(self.hub)
        self.now = 1000.0

    def send(self, connection: FakeConnection, message: object) -> list[Json]:
        """Apply a message and deliver what comes of it; returns what came back to the sender."""
        payload = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.deliver(self.hub.receive(connection, payload, self.now))
        return connection.inbox

    def deliver(self, out: Outgoing) -> None:
        """Deliver what the hub says."""
        for receiver, data in out:
            receiver.inbox.append(json.loads(data))
        self.hub.check_invariants()

    def join(self, peer_id: str, info_hash: str = HASH, left: int = 1, **fields: Any) -> FakeConnection:
        """A new connection with one peer; its reply is taken already."""
        connection = FakeConnection()
        self.send(connection, announce(peer_id, info_hash, left=left, **fields))
        connection.take()
        return connection

    def counts(self, info_hash: str = HASH) -> tuple[int, int]:
        """Complete and incomplete, as a scrape tells."""
        asker = FakeConnection()
        (reply,) = self.send(asker, {"action": "scrape", "info_hash": info_hash})
        entry = reply["files"][info_hash]
        return entry["complete"], entry["incomplete"]


def peer_id(number: int) -> str:
    """A peer_id that tells its number."""
    return f"-XX0000-{number:012}"
