"""The exchange between the swarms of a tracker and its neighbours: which counts are believed, and where offers go."""

import asyncio
import gc
import json
import time
import weakref
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from extensions.federation import exchange as module
from extensions.federation import wire
from extensions.federation.exchange import CHUNK, CREDIT, CREDIT_PER_ANSWER, MAX_REFUSALS, Account, Exchange, Neighbour
from extensions.federation.ledger import ANSWER_TIMEOUT, REFUSAL_TIMEOUT
from extensions.federation.reasons import Dropped
from tests.client import HASH, announce, answer, offers
from tests.unit.fakes import FakeConnection, HubHarness, peer_id
from tests.unit.federation.links import A, B, ids_of, some_offers, tracker_id
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
    """Delivers to fake connections."""

    def send(self, out: list[tuple[FakeConnection, bytes]]) -> None:
        for connection, data in out:
            connection.inbox.append(json.loads(data))


class FakeNeighbour(Neighbour):
    """Another tracker without a connection: records the calls, and lets a test send messages."""

    def __init__(self, exchange: Exchange, number: int) -> None:
        self.account = Account(time.monotonic())
        self.takes_offers = True
        self.told: list[tuple[str, int, int]] = []
        self.given: list[str] = []
        """offer_ids."""
        self.refused: list[str] = []
        self.answers: list[Answer] = []
        self._exchange = exchange
        self._id = tracker_id(number)
        self._open: set[str] = set()
        self._theirs: dict[str, tuple[int, int]] = {}

    @property
    def tracker_id(self) -> str:
        return self._id

    def open_swarm(self, info_hash: str, complete: int, incomplete: int) -> None:
        self._open.add(info_hash)
        self.told.append((info_hash, complete, incomplete))

    def close_swarm(self, info_hash: str) -> None:
        self._open.remove(info_hash)
        self.told.append((info_hash, 0, 0))

    def tell(self, counts: Iterable[tuple[str, int, int]]) -> None:
        self.told += counts

    def counts(self, info_hash: str) -> tuple[int, int]:
        return self._theirs.get(info_hash, (0, 0)) if info_hash in self._open else (0, 0)

    def offer(self, info_hash: str, peer_id: str, offers: list[Offer]) -> list[Offer]:
        assert any(self.counts(info_hash))
        sent = offers if self.takes_offers else []
        self.given += ids_of(sent)
        return sent

    def refuse(self, info_hash: str, peer_id: str, offer_ids: list[str]) -> None:
        self.refused += offer_ids

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

    def makes_offers(self, offers: list[Offer], maker: str = B, frame_ends: bool = True) -> None:
        self._exchange.on_offers(self, HASH, maker, offers)
        if frame_ends:
            self._exchange.on_frame_end(self)

    def refuses(self, *offer_ids: str) -> None:
        """It refuses offers of A."""
        self._exchange.on_refused(self, HASH, A, list(offer_ids))

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


@pytest.fixture
async def here() -> Here:
    return Here()


# Counts that are told


async def test_a_swarm_that_opens_is_told_once(here: Here) -> None:
    neighbour = await here.neighbour(1)
    await here.peer(A)
    assert neighbour.told == [(HASH, 0, 1)]
    await here.exchange.tell_changes()
    assert neighbour.told == [(HASH, 0, 1)]
    await here.peer(B)
    assert neighbour.told == [(HASH, 0, 1)]
    await here.exchange.tell_changes()
    assert neighbour.told == [(HASH, 0, 1), (HASH, 0, 2)]
    await here.exchange.tell_changes()
    assert len(neighbour.told) == 2


async def test_counts_that_change_after_the_opening_are_told_again(here: Here) -> None:
    neighbour = await here.neighbour(1)
    await here.peer(A)
    await here.peer(B)
    await here.exchange.tell_changes()
    assert neighbour.told == [(HASH, 0, 1), (HASH, 0, 2)]


async def test_a_neighbour_that_comes_between_two_changes_ends_up_with_the_right_counts(here: Here) -> None:
    """The counts change and change back, and only in between they are told to a new neighbour."""
    await here.peer(A)
    b = here.join(B)
    neighbour = await here.neighbour(1)
    here.hub.close(b)
    await here.settle()
    await here.exchange.tell_changes()
    assert neighbour.told == [(HASH, 0, 2), (HASH, 0, 1)]


async def test_a_swarm_that_closes_is_told_at_once_and_no_more_after_that(here: Here) -> None:
    neighbour = await here.neighbour(1)
    a = await here.peer(A)
    await here.peer(B, OTHER)
    neighbour.told.clear()
    here.hub.close(a)
    await here.settle()
    await here.exchange.tell_changes()
    assert neighbour.told == [(HASH, 0, 0)]


async def test_a_swarm_that_reopens_is_told_with_its_new_counts_only(here: Here) -> None:
    neighbour = await here.neighbour(1)
    connections = [await here.peer(peer_id(number)) for number in range(5)]
    for connection in connections:
        here.hub.close(connection)
    await here.peer(A)
    await here.exchange.tell_changes()
    assert neighbour.told == [(HASH, 0, 1), (HASH, 0, 0), (HASH, 0, 1)]


async def test_a_swarm_that_reopens_while_changes_are_told_is_not_told_with_its_old_counts(here: Here) -> None:
    neighbours = [await here.neighbour(number) for number in (1, 3)]
    a, b = await here.peer(A), await here.peer(B)
    telling = asyncio.ensure_future(here.exchange.tell_changes())
    await asyncio.sleep(0)
    assert [neighbour.told[-1] for neighbour in neighbours] == [(HASH, 0, 2), (HASH, 0, 1)]
    for connection in (a, b):
        here.hub.close(connection)
    await here.peer(A)
    await telling
    assert [neighbour.told[-1] for neighbour in neighbours] == [(HASH, 0, 1)] * 2


async def test_a_swarm_that_reopens_stays_open_although_the_closing_is_reported_later(here: Here) -> None:
    """The extension host reports an opening early if offers of that swarm wait for it."""
    neighbour = await here.neighbour(1)
    here.hub.close(await here.peer(A))
    here.join(A)
    closing, *later = here.events
    assert closing[0] == "swarm_closed"
    here.events = [*later, closing]
    await here.settle()
    assert neighbour.told == [(HASH, 0, 1)] * 2
    neighbour.has(0, 1)
    assert here.counts() == (0, 2)


async def test_a_swarm_that_opens_and_closes_unreported_leaves_no_remote_member(here: Here) -> None:
    """The extension host does not report a swarm that has closed again before its opening could be reported."""
    neighbour = await here.neighbour(1)
    neighbour.has(0, 1)
    here.hub.close(await here.peer(A))
    closing = here.events[0]
    again = here.join(A)
    neighbour.has(0, 2)
    here.hub.close(again)
    here.events = [closing]
    await here.settle()
    assert neighbour.account.members == {}
    assert neighbour.told == [(HASH, 0, 1), (HASH, 0, 0)]


async def test_a_new_neighbour_is_told_of_the_swarms_that_the_exchange_knows(here: Here) -> None:
    hashes = [f"{n:020}" for n in range(CHUNK + 1)]
    for info_hash in hashes:
        await here.peer(A, info_hash)
    here.join(A, HASH)
    neighbour = await here.neighbour(1)
    assert neighbour.told == [(info_hash, 0, 1) for info_hash in hashes]
    await here.settle()
    assert neighbour.told[len(hashes) :] == [(HASH, 0, 1)]


async def test_a_swarm_that_opens_before_a_new_neighbour_is_introduced_is_told_once(here: Here) -> None:
    await here.peer(A)
    neighbour = FakeNeighbour(here.exchange, 1)
    here.exchange.add(neighbour)
    introduction = here.exchange.introduce(neighbour)
    await here.peer(A, OTHER)
    await introduction
    assert neighbour.told == [(OTHER, 0, 1), (HASH, 0, 1)]


async def test_a_swarm_that_closes_while_a_new_neighbour_is_introduced_is_not_told(here: Here) -> None:
    for n in range(CHUNK):
        await here.peer(A, f"{n:020}")
    last = await here.peer(A, HASH)
    neighbour = FakeNeighbour(here.exchange, 1)
    neighbour.open_swarm(HASH, 0, 0)
    here.exchange.add(neighbour)
    introduction = asyncio.ensure_future(here.exchange.introduce(neighbour))
    await asyncio.sleep(0)
    here.hub.close(last)
    await here.settle()
    await introduction
    assert [counts for info_hash, *counts in neighbour.told if info_hash == HASH] == [[0, 0], [0, 0]]


# Counts that are believed


@pytest.mark.parametrize(
    ("told", "believed"),
    [
        ((0, 1), (0, 1)),
        ((20, 30), (20, 30)),
        ((CREDIT, 1), (49, 1)),
        ((0, MILLION), (0, CREDIT)),
        ((MILLION, 0), (CREDIT, 0)),
        ((MILLION, MILLION), (25, 25)),
        ((1, MILLION), (0, CREDIT)),
        ((100, 300), (12, 38)),
    ],
)
async def test_a_neighbour_is_believed_to_have_some_peers_of_each_kind_in_proportion(
    here: Here, told: tuple[int, int], believed: tuple[int, int]
) -> None:
    assert CREDIT == 50
    await here.peer(A)
    (await here.neighbour(1)).has(*told)
    assert here.counts() == (believed[0], believed[1] + 1)


async def test_each_answered_offer_gives_credit(here: Here) -> None:
    a = await here.peer(A)
    neighbour = await here.neighbour(1)
    neighbour.has(0, 85)
    await here.make_offers(a, offers(3))
    assert here.counts() == (0, 51)
    first, second, third = neighbour.take()
    neighbour.answers_for_b(first)
    assert here.counts() == (0, 51 + CREDIT_PER_ANSWER)
    neighbour.answers_for_b(second)
    assert here.counts() == (0, 86), "it does not claim more"
    neighbour.answers_for_b(third)
    neighbour.has(0, MILLION)
    assert here.counts() == (0, 51 + 3 * CREDIT_PER_ANSWER)
    assert len([message for message in a.take() if "answer" in message]) == 3


async def test_many_answers_to_one_offer_give_credit_once(here: Here) -> None:
    a = await here.peer(A)
    neighbour = await here.neighbour(1)
    neighbour.has(0, MILLION)
    await here.make_offers(a, offers(1))
    neighbour.answers_for_b(*neighbour.take() * 1000)
    neighbour.has(0, MILLION)
    assert here.counts() == (0, 51 + CREDIT_PER_ANSWER)


async def test_a_late_answer_is_delivered_and_gives_no_credit(here: Here) -> None:
    a = await here.peer(A)
    neighbour = await here.neighbour(1)
    neighbour.has(0, MILLION)
    await here.make_offers(a, offers(1))
    here.later = REFUSAL_TIMEOUT + 1
    neighbour.answers_for_b(*neighbour.take())
    assert here.counts() == (0, 51)
    assert a.inbox[-1]["answer"]


async def test_answers_to_no_offer_give_no_credit(here: Here) -> None:
    a = await here.peer(A)
    neighbour, other = await here.neighbour(1), await here.neighbour(3)
    neighbour.has(0, MILLION)
    neighbour.answers_for_b("x" * 20)
    await here.make_offers(a, offers(1))
    (offer_id,) = neighbour.take()
    neighbour.answers_for_b("x" * 20)
    other.has(0, MILLION)
    other.answers_for_b(offer_id)
    assert here.counts() == (0, 1 + 2 * CREDIT)
    assert neighbour.account.dropped == {Dropped.NOT_ASKED_FOR: 2}
    assert other.account.dropped == {Dropped.NOT_ASKED_FOR: 1}


async def test_credit_belongs_to_one_neighbour_and_counts_in_all_of_its_swarms(here: Here) -> None:
    a = await here.peer(A)
    await here.peer(B, OTHER)
    neighbour = await here.neighbour(1)
    neighbour.has(0, MILLION)
    await here.make_offers(a, offers(1))
    neighbour.answers_for_b(*neighbour.take())
    neighbour.has(0, MILLION, OTHER)
    assert here.counts() == here.counts(OTHER) == (0, 71)
    (await here.neighbour(3)).has(0, MILLION)
    assert here.counts() == (0, 121)


async def test_a_trusted_neighbour_is_believed(here: Here) -> None:
    await here.peer(A)
    neighbour = await here.neighbour(1)
    here.trusted.add(neighbour)
    neighbour.has(3, MILLION)
    assert here.counts() == (3, MILLION + 1)


async def test_a_neighbour_that_claims_a_million_peers_gets_its_share_of_the_offers(here: Here) -> None:
    a = await here.peer(A)
    local = [await here.peer(peer_id(100 + number)) for number in range(25)]
    neighbour = await here.neighbour(1)
    neighbour.has(0, MILLION)
    for start in range(0, 1000, 5):
        await here.make_offers(a, offers(5, start=start))
    there = len(neighbour.take())
    assert there + sum(len(connection.take()) for connection in local) == 1000
    assert 600 < there < 730, "of 75 peers it seems to have 50"


# Parked offers


async def test_parked_offers_go_to_as_many_newcomers_as_are_believed(here: Here) -> None:
    here.park()
    a = await here.peer(A)
    await here.make_offers(a, offers(20))
    neighbour = await here.neighbour(1)
    for now, more in ((3, 3), (5, 2), (4, 0)):
        neighbour.has(0, now)
        await here.settle()
        assert len(neighbour.take()) == more


async def test_no_parked_offers_go_to_peers_that_are_not_believed(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CREDIT", 5)
    here.park()
    a = await here.peer(A)
    neighbour = await here.neighbour(1)
    await here.make_offers(a, offers(20))
    neighbour.has(0, MILLION - 1)
    neighbour.has(0, MILLION)
    await here.settle()
    assert len(neighbour.take()) == 5


@pytest.mark.parametrize("waits", [False, True])
async def test_a_peer_with_an_offer_from_one_neighbour_still_makes_one_to_another(
    here: Here, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three peers that join three trackers at the same time, each must meet both others."""
    monkeypatch.setattr(module, "YIELD_TO", 0.0)
    here.exchange = here.exchange_of(("f" if waits else "0") * 64)
    here.park()
    a = await here.peer(A)
    await here.make_offers(a, offers(5))
    one, other = await here.neighbour(1), await here.neighbour(3)
    if waits:
        other.has(0, 1)
    one.has(0, 1)
    given = one.take()
    one.makes_offers(some_offers(1, start=9))
    assert a.inbox[-1]["peer_id"] == B
    if not waits:
        other.has(0, 1)
    await asyncio.sleep(0.01)
    await here.settle()
    assert (len(given + one.take()), len(other.take())) == (0 if waits else 1, 1)


async def test_offers_in_the_same_frame_come_before_parked_offers_are_placed(here: Here) -> None:
    """Otherwise both peers would make an offer, and each would give up its own when it is answered."""
    here.park()
    a = await here.peer(A)
    await here.make_offers(a, offers(5))
    neighbour = await here.neighbour(1)
    neighbour.has(0, 1, frame_ends=False)
    neighbour.makes_offers(some_offers(1, start=9))
    await here.settle()
    assert a.inbox[-1]["peer_id"] == B
    assert neighbour.take() == []
    neighbour.has(0, 2)
    await here.settle()
    assert len(neighbour.take()) == 1, "the next newcomer is given one"


async def test_peers_that_are_there_already_when_a_swarm_opens_are_given_parked_offers(here: Here) -> None:
    here.park()
    neighbour = await here.neighbour(1)
    neighbour.has(0, 1)
    a = here.join(A)
    here.send(a, announce(A, offers=offers(5), numwant=5))
    await here.settle()
    assert len(neighbour.take()) == 1


# Offers, refusals and answers


async def test_offers_that_are_too_long_for_a_neighbour_are_not_placed_again(here: Here) -> None:
    a = await here.peer(A)
    neighbours = [await here.neighbour(number) for number in (1, 3)]
    for neighbour in neighbours:
        neighbour.takes_offers = False
        neighbour.has(0, 1)
    await here.make_offers(a, offers(2))
    assert [neighbour.account.counters["offers_out"] for neighbour in neighbours] == [0, 0]
    assert [neighbour.account.ledger.refusable for neighbour in neighbours] == [0, 0]


async def test_a_neighbour_that_is_gone_is_not_kept_in_memory_for_the_answers_to_its_offers(here: Here) -> None:
    await here.peer(A)
    neighbour = await here.neighbour(1)
    neighbour.has(0, 1)
    neighbour.makes_offers(some_offers(1))
    assert neighbour.refused == []
    here.exchange.remove(neighbour)
    gone = weakref.ref(neighbour)
    del neighbour
    gc.collect()
    assert gone() is None


async def test_offers_that_can_neither_be_refused_nor_answered_any_more_are_forgotten(here: Here) -> None:
    a = await here.peer(A)
    neighbour = await here.neighbour(1)
    neighbour.has(0, 1)
    await here.make_offers(a, offers(1))
    ledger = neighbour.account.ledger
    await here.exchange.tell_changes()
    assert (ledger.refusable, ledger.awaited) == (1, 1)
    here.later = REFUSAL_TIMEOUT + 1
    await here.exchange.tell_changes()
    assert (ledger.refusable, ledger.awaited) == (0, 1)
    here.later = ANSWER_TIMEOUT + 1
    await here.exchange.tell_changes()
    assert (ledger.refusable, ledger.awaited) == (0, 0)


async def test_offers_for_a_neighbour_that_is_just_gone_go_elsewhere(here: Here) -> None:
    a = await here.peer(A)
    ending, other = await here.neighbour(1), await here.neighbour(3)
    ending.has(0, 1)
    here.send(a, announce(A, offers=offers(1)))
    other.has(0, 1)
    here.exchange.remove(ending)
    await here.settle()
    assert (ending.take(), len(other.take())) == ([], 1)


async def test_offers_for_peers_that_have_just_left_go_elsewhere(here: Here) -> None:
    a = await here.peer(A)
    neighbour, other = await here.neighbour(1), await here.neighbour(3)
    neighbour.has(0, 1)
    here.send(a, announce(A, offers=offers(1)))
    neighbour.has(0, 0)
    other.has(0, 1)
    await here.settle()
    assert (neighbour.take(), len(other.take())) == ([], 1)


async def test_a_refused_offer_is_placed_elsewhere_a_few_times(here: Here) -> None:
    a = await here.peer(A)
    neighbours = [await here.neighbour(number) for number in (1, 3)]
    for neighbour in neighbours:
        neighbour.has(0, 1)
    await here.make_offers(a, offers(1))
    placed: list[FakeNeighbour] = []
    for _ in range(MAX_REFUSALS + 2):
        for neighbour in neighbours:
            given = neighbour.take()
            if given:
                placed.append(neighbour)
                neighbour.refuses(*given)
                await here.settle()
                break
    assert len(placed) == 1 + MAX_REFUSALS
    assert all(one is not next_one for one, next_one in pairwise(placed))


async def test_a_late_refusal_is_ignored(here: Here) -> None:
    a = await here.peer(A)
    neighbour, other = await here.neighbour(1), await here.neighbour(3)
    neighbour.has(0, 1)
    await here.make_offers(a, offers(2))
    given = neighbour.take()
    other.has(0, 2)
    here.later = REFUSAL_TIMEOUT - 1
    neighbour.refuses(given[0])
    await here.settle()
    assert other.take() == given[:1]
    here.later = REFUSAL_TIMEOUT + 1
    neighbour.refuses(given[0])
    await here.settle()
    assert other.take() == []
    assert neighbour.account.counters["refused_in"] == 1
    assert neighbour.account.dropped == {Dropped.NOT_ASKED_FOR: 1}


async def test_a_refused_offer_is_as_old_as_when_it_was_sent(here: Here) -> None:
    here.park()
    a = await here.peer(A)
    neighbour, other = await here.neighbour(1), await here.neighbour(3)
    neighbour.has(0, 1)
    await here.make_offers(a, offers(1))
    here.later = 5
    neighbour.refuses(*neighbour.take())
    await here.settle()
    other.has(0, 1)
    await here.settle()
    assert len(other.take()) == 1
    assert here.parked_for == [pytest.approx(5, abs=0.5)]


async def test_offers_without_a_receiver_are_refused(here: Here) -> None:
    await here.peer(A)
    neighbour = await here.neighbour(1)
    neighbour.makes_offers(some_offers(2))
    assert neighbour.account.dropped == {Dropped.NOT_ASKED_FOR: 2}, "it has told of no peers"
    neighbour.has(0, 1)
    neighbour.makes_offers(some_offers(2))
    assert neighbour.refused == ids_of(some_offers(2))[1:]
    neighbour.makes_offers(some_offers(1, start=5), maker=A)
    assert neighbour.refused[1:] == ids_of(some_offers(1, start=5)), "its maker is a local peer"


async def test_offers_that_come_too_fast_are_refused(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OFFERS_BURST", 1.0)
    a = await here.peer(A)
    neighbour = await here.neighbour(1)
    neighbour.has(0, 1)
    neighbour.makes_offers(some_offers(2))
    assert (neighbour.refused, neighbour.account.dropped) == (ids_of(some_offers(2)), {Dropped.TOO_FAST: 2})
    assert a.take() == []


async def test_an_answer_goes_to_the_neighbour_that_the_offer_came_from(here: Here) -> None:
    a = await here.peer(A)
    one, other = await here.neighbour(1), await here.neighbour(3)
    for number, neighbour in enumerate((one, other)):
        neighbour.has(0, 1)
        neighbour.makes_offers(some_offers(1, start=number))
    here.send(a, answer(A, B, f"{0:020}"))
    await here.settle()
    assert [len(neighbour.answers) for neighbour in (one, other)] == [1, 0]
    here.exchange.remove(other)
    here.send(a, answer(A, B, f"{1:020}"))
    await here.settle()
    assert other.answers == []
    assert here.exchange.dropped == {Dropped.LINK_GONE: 1}


async def test_an_answer_that_is_too_late_goes_nowhere(here: Here) -> None:
    a = await here.peer(A)
    neighbour = await here.neighbour(1)
    neighbour.has(0, 1)
    neighbour.makes_offers(some_offers(1))
    here.later = module.ROUTE_LIFETIME + 1
    here.send(a, answer(A, B, f"{0:020}"))
    await here.settle()
    assert neighbour.answers == []
    assert here.exchange.dropped == {Dropped.LINK_GONE: 1}


async def test_parked_offers_are_placed_in_a_limited_number_of_swarms_at_once(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_GROWN", 2)
    here.park()
    neighbour = await here.neighbour(1)
    hashes = [f"{n:020}" for n in range(5)]
    for info_hash in hashes:
        here.send(await here.peer(A, info_hash), announce(A, info_hash, offers=offers(1)))
    for info_hash in hashes:
        neighbour.has(0, 1, info_hash, frame_ends=False)
    placed = []
    while neighbour.account.grown:
        here.exchange.on_frame_end(neighbour)
        await here.settle()
        placed.append(len(neighbour.take()))
    assert placed == [2, 2, 1]


# Neighbours that are gone


async def test_messages_of_a_neighbour_that_was_removed_are_ignored(here: Here) -> None:
    a = await here.peer(A)
    neighbour = await here.neighbour(1)
    neighbour.has(0, 1)
    await here.make_offers(a, offers(1))
    here.exchange.remove(neighbour)
    assert here.counts() == (0, 1)
    neighbour.has(0, 2)
    neighbour.makes_offers(some_offers(1))
    neighbour.refuses(*neighbour.given)
    neighbour.answers_for_b(*neighbour.take())
    told = len(neighbour.told)
    await here.exchange.introduce(neighbour)
    assert (here.counts(), neighbour.account.members, len(neighbour.told)) == ((0, 1), {}, told)
    assert [message for message in a.take() if "offer" in message or "answer" in message] == []
