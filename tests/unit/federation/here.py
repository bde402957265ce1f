"""A tracker without sockets and its exchange, and neighbours without connections."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from prometheus_client import CollectorRegistry

from extensions.federation import wire
from extensions.federation.events import Interest
from extensions.federation.exchange import Exchange
from extensions.federation.filters import OwnSwarms, tag_of
from extensions.federation.neighbour import Account, Neighbour
from extensions.federation.presence import is_empty
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
    """Another tracker without a connection: records the calls, and lets a test send messages.

    Like a real one, it replies with its numbers when it is told those of a swarm that it has: when `Here.settle` is
    called.
    """

    def __init__(self, here: "Here", number: int) -> None:
        self.account = Account(time.monotonic())
        self.takes_offers = True
        self.claims_all = False
        """Whether its filter claims all swarms."""
        self.is_new = False
        """Whether it knows marks."""
        self.reads_slowly = False
        self.shown: list[bytes] = []
        """Filters and tags."""
        self.told: list[tuple[str, int, int]] = []
        self.told_present: list[tuple[str, list[str], list[str]]] = []
        self.replies: list[str] = []
        """Infohashes that it was told in reply."""
        self.given: list[str] = []
        """offer_ids."""
        self.refused: list[str] = []
        self.said_known: list[bool] = []
        """With each refusal, whether it said that it gets the peer's offers otherwise."""
        self.answers: list[Answer] = []
        self.owes: dict[str, None] = {}
        """Infohashes of swarms for which it has not replied yet."""
        self._here = here
        self._id = tracker_id(number)
        self._has: dict[str, Interest] = {}
        """Its numbers, in swarms that are open here or not."""
        self._said: set[str] = set()
        """Infohashes of the open swarms for which it has told its numbers."""

    @property
    def tracker_id(self) -> str:
        return self._id

    @property
    def knows_marks(self) -> bool:
        return self.is_new

    @property
    def is_slow(self) -> bool:
        return self.reads_slowly

    def may_have(self, tag: int) -> bool:
        return self.claims_all or tag in map(tag_of, self._has)

    def show(self, messages: Iterable[bytes]) -> None:
        self.shown += messages

    def leave_swarm(self, info_hash: str) -> None:
        self._said.discard(info_hash)
        self.told.append((info_hash, 0, 0))

    def forget_swarm(self, info_hash: str) -> None:
        self._said.discard(info_hash)

    def tell(self, counts: Iterable[tuple[str, int, int]], reply: bool) -> None:
        for one in counts:
            self.told.append(one)
            self._was_told(one[0], reply)

    def tell_present(self, swarms: Iterable[tuple[str, list[str], list[str]]], reply: bool) -> None:
        for one in swarms:
            self.told_present.append(one)
            self._was_told(one[0], reply)

    def counts(self, info_hash: str) -> tuple[int, int]:
        has = self._has.get(info_hash) if info_hash in self._said else None
        return (has.complete, has.incomplete) if has else (0, 0)

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
        """It has so many peers, and tells so if the swarm is open here; by default nothing else is in the frame."""
        self._now_has(Interest(info_hash, complete, incomplete), frame_ends)

    def would_have(self, complete: int, incomplete: int, info_hash: str = HASH) -> None:
        """It has so many peers, and tells so only in reply."""
        self._has[info_hash] = Interest(info_hash, complete, incomplete)

    def has_peers(self, *peer_ids: str, seeders: Iterable[str] = (), frame_ends: bool = True) -> None:
        """It has these peers in the swarm, and tells so if that is open here."""
        marks = marks_of(HASH, seeders), marks_of(HASH, peer_ids)
        self._now_has(Interest(HASH, len(marks[0]), len(marks[1]), marks), frame_ends)

    def reply(self) -> None:
        """It replies to the numbers that it was told."""
        while self.owes:
            info_hash = next(iter(self.owes))
            del self.owes[info_hash]
            if info_hash in self._has and info_hash not in self._said:
                self._tell_interest(self._has[info_hash], True)
                self._here.exchange.on_frame_end(self)

    def makes_offers(self, offers: list[Offer], maker: str = B, frame_ends: bool = True) -> None:
        self._here.exchange.on_offers(self, HASH, maker, offers)
        if frame_ends:
            self._here.exchange.on_frame_end(self)

    def refuses(self, *offer_ids: str, known: bool = False) -> None:
        """It refuses offers of A."""
        self._here.exchange.on_refused(self, HASH, A, list(offer_ids), known)

    def answers_for_b(self, *offer_ids: str) -> None:
        """B, a peer of this neighbour, answers offers of A."""
        for offer_id in offer_ids:
            self._here.exchange.on_answer(self, codec.make_answer(HASH, B, A, offer_id, "v=0"))

    def _now_has(self, interest: Interest, frame_ends: bool) -> None:
        if interest.complete or interest.incomplete:
            self._has[interest.info_hash] = interest
        else:
            self._has.pop(interest.info_hash, None)
        if interest.info_hash in self._here.swarms:
            self._tell_interest(interest, False)
        if frame_ends:
            self._here.exchange.on_frame_end(self)

    def _tell_interest(self, interest: Interest, reply: bool) -> None:
        is_new = interest.info_hash not in self._said
        if interest.complete or interest.incomplete:
            self._said.add(interest.info_hash)
        else:
            self._said.discard(interest.info_hash)
        self._here.exchange.on_counts(self, replace(interest, is_new=is_new, reply=reply))

    def _was_told(self, info_hash: str, reply: bool) -> None:
        if reply:
            self.replies.append(info_hash)
        elif info_hash in self._has and info_hash not in self._said:
            self.owes[info_hash] = None


class Here(HubHarness):
    """A tracker without sockets and its exchange, which learns of events when `settle` is called."""

    def __init__(self) -> None:
        super().__init__(self)
        self.clock = time.monotonic
        self.now = self.clock()
        self.later = 0.0
        """Seconds by which the exchange's clock is ahead."""
        self.events: list[tuple[Any, ...]] = []
        self.trusted: set[Neighbour] = set()
        self.parked_for: list[float] = []
        self.timers: list[tuple[float, Callable[[], None]]] | None = None
        """If this is a list, it keeps the calls that are due later."""
        endpoint: Any = FakeEndpoint()
        self.handle = TrackerHandle(
            "federation",
            Settings(),
            self.hub,
            self.remote,
            endpoint,
            CollectorRegistry(),
            clock=lambda: self.clock(),
        )
        self.swarms = OwnSwarms()
        self.neighbours: list[FakeNeighbour] = []
        self.exchange = self.exchange_of(OURS)

    def exchange_of(self, own_id: str) -> Exchange:
        """Return an exchange for a tracker with this id."""
        self.swarms = OwnSwarms()
        return Exchange(
            self.handle,
            own_id,
            self.trusted.__contains__,
            self.swarms,
            lambda: self.clock() + self.later,
            call_later=self._call_later,
        )

    def park(self) -> None:
        """Keep offers that no peer could be given from now on."""
        self.handle.park_offers(self.parked_for.append)

    async def settle(self) -> None:
        """Have the exchange learn of everything that has happened."""
        for _ in range(1000):
            for neighbour in self.neighbours:
                neighbour.reply()
            if not self.events:
                return
            name, *content = self.events.pop(0)
            if name == "swarm_changed":
                self._change(*content)
            else:
                getattr(self.exchange, name)(*content)
        raise AssertionError("each event causes the next one, without end")

    def _change(self, swarm: Swarm) -> None:
        # As the extension does.
        if is_empty(swarm):
            self.exchange.swarm_closed(swarm)
        else:
            if not self.exchange.has(swarm):
                self.exchange.swarm_opened(swarm)
            self.exchange.swarm_changed(swarm)

    async def neighbour(self, number: int) -> FakeNeighbour:
        """Add a neighbour."""
        neighbour = FakeNeighbour(self, number)
        self.exchange.add(neighbour)
        self.neighbours.append(neighbour)
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

    def _call_later(self, seconds: float, function: Callable[[], None]) -> None:
        if self.timers is None:
            asyncio.get_running_loop().call_later(seconds, function)
        else:
            self.timers.append((seconds, function))

    def swarm_opened(self, swarm: Swarm) -> None:
        """An opening is followed by the counts."""

    def swarm_changed(self, swarm: Swarm) -> None:
        self.events.append(("swarm_changed", swarm))

    def swarm_closed(self, swarm: Swarm) -> None:
        self.events.append(("swarm_closed", swarm))

    def offers_placed(self, member: RemoteMember, peer_id: str, offers: list[Offer]) -> None:
        self.events.append(("offers_placed", member, peer_id, [offer.detached() for offer in offers]))

    def offers_unplaced(self, swarm: Swarm, peer: Peer, offers: list[Offer]) -> None:
        pass

    def offers_returned(self, swarm: Swarm, peer_id: str, offers: list[Offer]) -> bool:
        self.events.append(("offers_returned", swarm, peer_id, [offer.detached() for offer in offers]))
        return True

    def answer_unplaced(self, answer: Answer) -> bool:
        self.events.append(("answer_unplaced", answer))
        return True
