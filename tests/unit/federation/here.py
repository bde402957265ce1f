"""A tracker without sockets and its exchange, and neighbours without connections."""

import time
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry

from extensions.federation import wire
from extensions.federation.exchange import Exchange
from extensions.federation.neighbour import Account, Neighbour
from tests.client import HASH, announce
from tests.unit.fakes import FakeConnection, HubHarness
from tests.unit.federation.links import A, B, ids_of, tracker_id
from tracker.core.overlap import marks_of
from tracker.core.swarm import Peer, RemoteMember, Swarm
from tracker.extension.api import TrackerHandle
from tracker.protocol import codec
from tracker.protocol.messages import Answer, Offer
from tracker.settings import Settings

OTHER = "i" * 20
MILLION = wire.MAX_COUNT

# The least id of these trackers, so that this one does not delay its parked offers.
OURS = "0" * 64


class FakeEndpoint:
    """A port that serves nothing."""


class FakeNeighbour(Neighbour):
    """Another tracker without a connection: records the calls, and lets a test send messages."""

    def __init__(self, exchange: Exchange, number: int) -> None:
        self.account = Account(time.monotonic())
        self.takes_offers = True
        self.is_new = False
        """Whether it knows marks."""
        self.told: list[tuple[str, int, int]] = []
        self.told_present: list[tuple[str, list[str], list[str]]] = []
        self.given: list[str] = []
        """offer_ids."""
        self.refused: list[str] = []
        self.said_known: list[bool] = []
        """With each refusal, whether it said that it gets the peer's offers otherwise."""
        self.answers: list[Answer] = []
        self._exchange = exchange
        self._id = tracker_id(number)
        self._open: set[str] = set()
        self._theirs: dict[str, tuple[int, int]] = {}

    @property
    def tracker_id(self) -> str:
        return self._id

    @property
    def knows_marks(self) -> bool:
        return self.is_new

    def open_swarm(self, info_hash: str) -> None:
        self._open.add(info_hash)

    def close_swarm(self, info_hash: str) -> None:
        self._open.remove(info_hash)
        self.told.append((info_hash, 0, 0))

    def tell(self, counts: Iterable[tuple[str, int, int]]) -> None:
        self.told += counts

    def tell_present(self, swarms: Iterable[tuple[str, list[str], list[str]]]) -> None:
        self.told_present += swarms

    def counts(self, info_hash: str) -> tuple[int, int]:
        return self._theirs.get(info_hash, (0, 0)) if info_hash in self._open else (0, 0)

    def offer(self, info_hash: str, peer_id: str, offers: list[Offer]) -> list[Offer]:
        assert any(self.counts(info_hash))
        sent = offers if self.takes_offers else []
        self.given += ids_of(sent)
        return sent

    def refuse(self, info_hash: str, peer_id: str, offer_ids: list[str], known: bool) -> None:
        self.refused += offer_ids
        self.said_known.append(known)

    def answer(self, answer: Answer) -> None:
        self.answers.append(answer)

    def take(self) -> list[str]:
        """Return the offers that it was given since the last time."""
        given, self.given = self.given, []
        return given

    def has(self, complete: int, incomplete: int, info_hash: str = HASH, frame_ends: bool = True) -> None:
        """It tells its counts; by default nothing else is in the frame."""
        self._theirs[info_hash] = complete, incomplete
        if info_hash in self._open:
            self._exchange.on_counts(self, info_hash, complete, incomplete)
        if frame_ends:
            self._exchange.on_frame_end(self)

    def has_peers(self, *peer_ids: str, seeders: Iterable[str] = (), frame_ends: bool = True) -> None:
        """It tells which peers it has in the swarm."""
        marks = marks_of(HASH, seeders), marks_of(HASH, peer_ids)
        counts = self._theirs[HASH] = len(marks[0]), len(marks[1])
        if HASH in self._open:
            self._exchange.on_counts(self, HASH, *counts, marks)
        if frame_ends:
            self._exchange.on_frame_end(self)

    def makes_offers(self, offers: list[Offer], maker: str = B, frame_ends: bool = True) -> None:
        self._exchange.on_offers(self, HASH, maker, offers)
        if frame_ends:
            self._exchange.on_frame_end(self)

    def refuses(self, *offer_ids: str, known: bool = False) -> None:
        """It refuses offers of A."""
        self._exchange.on_refused(self, HASH, A, list(offer_ids), known)

    def answers_for_b(self, *offer_ids: str) -> None:
        """B, a peer of this neighbour, answers offers of A."""
        for offer_id in offer_ids:
            self._exchange.on_answer(self, codec.make_answer(HASH, B, A, offer_id, "v=0"))


class Here(HubHarness):
    """A tracker without sockets and its exchange, which learns of events when `settle` is called."""

    def __init__(self) -> None:
        super().__init__(self)
        self.now = time.monotonic()
        self.later = 0.0
        """Seconds by which the exchange's clock is ahead."""
        self.events: list[tuple[Any, ...]] = []
        self.trusted: set[Neighbour] = set()
        self.parked_for: list[float] = []
        endpoint: Any = FakeEndpoint()
        self.handle = TrackerHandle("federation", Settings(), self.hub, self.remote, endpoint, CollectorRegistry())
        self.exchange = self.exchange_of(OURS)

    def exchange_of(self, own_id: str) -> Exchange:
        """Return an exchange for a tracker with this id."""
        return Exchange(self.handle, own_id, self.trusted.__contains__, lambda: time.monotonic() + self.later)

    def park(self) -> None:
        """Keep offers that no peer could be given from now on."""
        self.handle.park_offers(self.parked_for.append)

    async def settle(self) -> None:
        """Have the exchange learn of everything that has happened."""
        for _ in range(100):
            if not self.events:
                return
            name, *content = self.events.pop(0)
            getattr(self.exchange, name)(*content)
        raise AssertionError("each event causes the next one, without end")

    async def neighbour(self, number: int) -> FakeNeighbour:
        """Add a neighbour, and tell it of all swarms."""
        neighbour = FakeNeighbour(self.exchange, number)
        self.exchange.add(neighbour)
        await self.exchange.introduce(neighbour)
        return neighbour

    async def peer(self, peer_id: str, info_hash: str = HASH, **fields: Any) -> FakeConnection:
        """Have a local peer join."""
        connection = self.join(peer_id, info_hash, **fields)
        await self.settle()
        return connection

    async def make_offers(self, connection: FakeConnection, made: list[dict[str, Any]], **fields: Any) -> None:
        """Have A make offers."""
        self.send(connection, announce(A, offers=made, numwant=len(made), **fields))
        await self.settle()

    def swarm_opened(self, swarm: Swarm) -> None:
        # As the extension host does: an opening is followed by the counts.
        self.events += [("swarm_opened", swarm), ("swarm_changed", swarm)]

    def swarm_changed(self, swarm: Swarm) -> None:
        self.events.append(("swarm_changed", swarm))

    def swarm_closed(self, swarm: Swarm) -> None:
        self.events.append(("swarm_closed", swarm))

    def offers_placed(self, member: RemoteMember, peer: Peer, offers: list[Offer]) -> None:
        self.events.append(("offers_placed", member, peer.peer_id, [offer.detached() for offer in offers]))

    def offers_unplaced(self, swarm: Swarm, peer: Peer, offers: list[Offer]) -> None:
        pass

    def answer_unplaced(self, answer: Answer) -> bool:
        self.events.append(("answer_unplaced", answer))
        return True
