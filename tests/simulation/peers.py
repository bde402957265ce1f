"""Clients of the trackers: peers that announce with offers, answer offers, and note whom they have met."""

import asyncio
import random
import time
from collections.abc import Callable
from math import inf
from typing import Final

from msgspec import Raw

from tracker.core.swarm import Connection, Peer
from tracker.protocol.errors import RequestError
from tracker.protocol.messages import Announce, Answer, Offer, OfferDescription

OFFERS: Final = 5
"""Offers of one announce, as webtorrent makes them."""

SDP: Final = Raw(b'"v=0' + b"\\r\\na=candidate" * 30 + b'"')
"""A description of the usual length."""

RETURNS: Final = (3.0, 12.0)
"""Seconds until a peer connects again that has lost its tracker."""

ANSWERS: Final = (0.1, 0.4)
"""Seconds that a peer takes to answer an offer."""

WAY: Final = 0.05
"""Seconds from a peer to its tracker."""


class Client:
    """The other side of a connection. By itself it answers nothing."""

    address = "192.0.2.1"
    """Its numeric IP address."""

    def on_reply(self, interval: int) -> None:
        """Take the reply to an announce."""

    def on_offer(self, connection: "PeerConnection", peer_id: str, offer: Offer) -> None:
        """Take an offer."""

    def on_answer(self, answer: Answer) -> None:
        """Take an answer."""

    def lose(self) -> None:
        """Take notice that the connection has ended."""


class PeerConnection:
    """The connection of one client with one tracker: a `tracker.core.swarm.Connection`."""

    def __init__(self, owner: Client) -> None:
        self.owner = owner
        self.peers: set[Peer] = set()
        self.address = owner.address
        self.last_received = inf
        self.handshake = b""

    @property
    def network(self) -> str:
        return self.address

    @property
    def client(self) -> object:
        return self

    @property
    def is_full(self) -> bool:
        return False

    def ping(self) -> None: ...


class PeerOutbox:
    """Gives the hub's messages to the simulated peers: a `tracker.core.outbox.Outbox`."""

    def reply(self, connection: Connection, info_hash: str, interval: int, complete: int, incomplete: int) -> None:
        assert isinstance(connection, PeerConnection)
        connection.owner.on_reply(interval)

    def offers(self, info_hash: str, peer_id: str, receivers: list[Peer], offers: list[Offer]) -> None:
        for receiver, offer in zip(receivers, offers, strict=False):
            connection = receiver.connection
            assert isinstance(connection, PeerConnection)
            connection.owner.on_offer(connection, peer_id, offer)

    def answer(self, connection: Connection, answer: Answer) -> None:
        assert isinstance(connection, PeerConnection)
        connection.owner.on_answer(answer)

    def scrape(self, connection: Connection, counts: list[tuple[str, int, int]]) -> None: ...

    def failure(self, connection: Connection, error: RequestError) -> None: ...


class Home:
    """The tracker of a peer, as the peer sees it."""

    is_up = False

    def apply(self, connection: PeerConnection, message: Announce | Answer) -> None:
        """Apply a message of the peer."""
        raise NotImplementedError

    def disconnect(self, connection: PeerConnection) -> None:
        """End a connection of the peer."""
        raise NotImplementedError


class SimulatedPeer(Client):
    """A peer of one swarm at one tracker. `on_meeting` is called with both peer_ids at each answer that arrives."""

    def __init__(
        self,
        number: int,
        info_hash: str,
        home: Home,
        complete: bool,
        on_meeting: Callable[["SimulatedPeer", str], None],
    ) -> None:
        self.peer_id = f"-SM0001-{number:012}"
        self.address = f"{64 + number // 16777216}.{number // 65536 % 256}.{number // 256 % 256}.{number % 256}"
        self.info_hash = info_hash
        self.home = home
        self.complete = complete
        self.joined = inf
        """When it announced first (monotonic seconds)."""
        self.present_since = inf
        """When it connected to its tracker; infinite while it is not connected."""
        self.left = inf
        """When it left for good."""
        self.met_at = inf
        """When it met the first other peer."""
        self.met: dict[str, None] = {}
        """The peer_ids that it has met."""
        self._number = number
        self._made = 0
        self._has_left = False
        self._connection: PeerConnection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._on_meeting = on_meeting

    @property
    def is_present(self) -> bool:
        """Whether it is connected to its tracker."""
        return self._connection is not None

    def join(self) -> None:
        """Connect to the tracker and announce; later, if the tracker is not up."""
        if self._connection or self._has_left:
            return
        if self.home.is_up:
            self.joined = min(self.joined, time.monotonic())
            self._connection = PeerConnection(self)
            self.present_since = time.monotonic()
            self._announce()
        else:
            self._again(random.uniform(*RETURNS), self.join)

    def leave(self) -> None:
        """Leave the tracker for good."""
        self._has_left = True
        self.left = time.monotonic()
        if self._connection:
            self.home.disconnect(self._connection)
            self.lose()

    def forget(self) -> None:
        """Do nothing from now on."""
        self._has_left = True
        if self._timer:
            self._timer.cancel()

    def lose(self) -> None:
        """Take notice that the connection has ended; come back later."""
        self._connection = None
        self.present_since = inf
        self._again(random.uniform(*RETURNS), self.join)

    def meet(self, peer_id: str) -> None:
        """Note a peer that it is connected with."""
        self.met_at = min(self.met_at, time.monotonic())
        self.met[peer_id] = None

    def on_reply(self, interval: int) -> None:
        """Announce again after the interval that the tracker wants."""
        self._again(float(interval), self._announce)

    def on_offer(self, connection: PeerConnection, peer_id: str, offer: Offer) -> None:
        """Answer an offer, a moment later."""
        answer = Answer(self.info_hash, self.peer_id, peer_id, SDP, offer.offer_id.copy())
        asyncio.get_running_loop().call_later(WAY + random.uniform(*ANSWERS), self._answer, connection, answer)

    def on_answer(self, answer: Answer) -> None:
        """Connect with the peer that has answered."""
        self._on_meeting(self, answer.peer_id)

    def _announce(self) -> None:
        if self._connection and self.home.is_up:
            offers = [self._offer() for _ in range(OFFERS)]
            announce = Announce(self.info_hash, self.peer_id, False, self.complete, offers)
            self.home.apply(self._connection, announce)

    def _answer(self, connection: PeerConnection, answer: Answer) -> None:
        if connection is self._connection and self.home.is_up:
            self.home.apply(connection, answer)

    def _offer(self) -> Offer:
        self._made += 1
        return Offer(OfferDescription("offer", SDP), Raw(b'"%010d%010d"' % (self._number, self._made)))

    def _again(self, seconds: float, what: Callable[[], None]) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, what)
