"""A hub whose time passes only when told to, which checks itself after every step, and whose connections are lists."""

import json
import random
from collections.abc import Callable
from math import inf
from typing import Any

from tests.client import HASH, announce
from tracker.access.addresses import Quota
from tracker.core.hub import Hub, serve_all
from tracker.core.observers import Observer
from tracker.core.remote import RemotePeers
from tracker.core.rules import Rules
from tracker.core.swarm import Connection, Peer
from tracker.peers import charge, serves_excess
from tracker.protocol import codec
from tracker.protocol.errors import RequestError
from tracker.protocol.messages import Answer, Offer

Json = dict[str, Any]


class FakeConnection:
    """Keeps the messages that are sent to it."""

    def __init__(self, address: str = "192.0.2.1") -> None:
        self.peers: set[Peer] = set()
        self.quota: Quota | None = None
        self.address = address
        self.last_received = inf
        """A living connection answers every ping; that of a dead one is 0."""
        self.pings = 0
        self.handshake = b""
        self.inbox: list[Json] = []

    @property
    def network(self) -> str:
        return self.address

    @property
    def client(self) -> object:
        return self.quota or self

    def ping(self) -> None:
        self.pings += 1

    @property
    def is_full(self) -> bool:
        return self.quota is not None and not self.quota.may_join(self.peers)

    def take(self) -> list[Json]:
        """Return the messages since the last call."""
        taken, self.inbox = self.inbox, []
        return taken


class FakeOutbox:
    """Puts each message into its connection's inbox, through the codec."""

    def __init__(self) -> None:
        self.on_put: Callable[[Json], object] = lambda _: None

    def reply(self, connection: Connection, info_hash: str, interval: int, complete: int, incomplete: int) -> None:
        self._put(connection, codec.encode_reply(info_hash, interval, complete, incomplete))

    def offers(self, info_hash: str, peer_id: str, receivers: list[Peer], offers: list[Offer]) -> None:
        frames = codec.encode_offers(info_hash, peer_id, offers)
        for receiver, frame in zip(receivers, frames, strict=False):
            self._put(receiver.connection, frame)

    def answer(self, connection: Connection, answer: Answer) -> None:
        self._put(connection, codec.encode_answer(answer))

    def scrape(self, connection: Connection, counts: list[tuple[str, int, int]]) -> None:
        self._put(connection, codec.encode_scrape(counts))

    def failure(self, connection: Connection, error: RequestError) -> None:
        self._put(connection, codec.encode_failure(error))

    def _put(self, connection: Connection, frame: bytes) -> None:
        assert isinstance(connection, FakeConnection)
        message = json.loads(frame)
        connection.inbox.append(message)
        self.on_put(message)


class HubHarness:
    """A hub and its connections."""

    def __init__(
        self,
        observer: Observer | None = None,
        seed: int = 1,
        serves: Any = serve_all,
        nearby: Any = None,
        **rules: Any,
    ) -> None:
        self.hub = Hub(Rules(**rules), random.Random(seed).random, serves, observer, nearby)
        self.outbox = FakeOutbox()
        self.remote = RemotePeers(self.hub, self.outbox)
        self.now = 1000.0

    def send(self, connection: FakeConnection, message: object) -> list[Json]:
        """Apply a message; return the messages in the sender's inbox."""
        payload = message if isinstance(message, bytes) else json.dumps(message).encode()
        try:
            decoded = codec.decode(payload, self.hub.rules.max_offers, self.hub.rules.max_scrape)
        except RequestError as error:
            self.hub.refuse(connection, error, self.outbox)
        else:
            exceeded = connection.quota and charge(connection.quota, decoded, self.now)
            if not exceeded or serves_excess(decoded):
                self.hub.apply(connection, decoded, self.now, self.outbox)
        self.hub.check_invariants()
        return connection.inbox

    def expire(self) -> None:
        """Let the hub look at every peer."""
        for _ in range(2):
            self.hub.expire(self.now, 1_000_000)
        self.hub.check_invariants()

    def join(self, peer_id: str, info_hash: str = HASH, left: int = 1, **fields: Any) -> FakeConnection:
        """Return a new connection with one peer, whose reply is taken already."""
        connection = FakeConnection()
        self.send(connection, announce(peer_id, info_hash, left=left, **fields))
        connection.take()
        return connection

    def counts(self, info_hash: str = HASH) -> tuple[int, int]:
        """Return complete and incomplete, as a scrape shows them."""
        client = FakeConnection()
        (reply,) = self.send(client, {"action": "scrape", "info_hash": info_hash})
        entry = reply["files"][info_hash]
        return entry["complete"], entry["incomplete"]


def peer_id(number: int) -> str:
    """Return a peer_id that contains its number."""
    return f"-XX0000-{number:012}"
