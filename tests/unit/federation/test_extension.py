"""What the extension makes of what comes over links: whom it believes, and to whom offers go."""

import asyncio
import json
import time
from typing import Any

import pytest
from msgspec import Raw
from prometheus_client import CollectorRegistry

from extensions.federation import extension as module
from extensions.federation import wire
from extensions.federation.extension import CHUNK, CREDIT, CREDIT_PER_ANSWER, Federation
from extensions.federation.link import Link
from extensions.federation.mesh import Mesh
from extensions.federation.reasons import Dropped
from extensions.federation.session import Event, Offered, Opened, Session
from extensions.federation.settings import FederationSettings
from tests.client import HASH, announce, offers
from tests.unit.fakes import FakeConnection, Room, peer_id
from tests.unit.federation.links import URL, A, B, give, ids_of, key, shake_hands, some_offers
from tracker.core.offers import Parking
from tracker.core.swarm import Peer, RemoteMember, Swarm
from tracker.extension.api import TrackerHandle
from tracker.protocol import codec
from tracker.protocol.messages import Answer, Offer, OfferDescription
from tracker.settings import Settings

OTHER = "i" * 20
MILLION = wire.MAX_COUNT

# Its id is the least of these trackers', so that it does not wait for others with its parked offers.
OURS = 2


class Silent:
    """A transport over which nothing goes: what is posted stays in the queue, what comes is handed over."""

    async def receive(self) -> bytes:
        raise NotImplementedError

    async def send(self, frame: bytes) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


class FakeEndpoint:
    """Delivers to fake connections."""

    def send(self, out: list[tuple[FakeConnection, bytes]]) -> None:
        for connection, data in out:
            connection.inbox.append(json.loads(data))

    def add_subprotocol(self, name: str, make: object) -> None:
        pass


class Far:
    """Another tracker, with its end of a link."""

    def __init__(self, here: "Here", number: int) -> None:
        self.session = Session(key(number), bytes([number]) * 32, url=URL)
        end = Session(key(OURS), bytes([100 + number]) * 32, accepts=lambda _: True)
        shake_hands(self.session, end)
        self.link = Link(end, Silent(), "", here.federation._on_event)
        here.mesh.links[self.link.tracker_id] = self.link

    def have(self, complete: int, incomplete: int, info_hash: str = HASH) -> None:
        """It tells how many peers it has."""
        self.session.open_swarm(info_hash)
        self.say(self.session.tell([(info_hash, complete, incomplete)]))

    def say(self, messages: list[bytes]) -> None:
        for message in messages:
            self.link._take_message(message)

    def hear(self) -> list[Event]:
        """What has come since the last time."""
        messages = [*self.link._others, *self.link._offers]
        self.link._others.clear()
        self.link._offers.clear()
        return give(self.session, messages)

    def offered(self) -> list[str]:
        """The offers among it, by offer_id."""
        return [offer_id for event in self.hear() if isinstance(event, Offered) for offer_id in ids_of(event.offers)]

    def answer(self, *offer_ids: str) -> None:
        """B, who is there, answers A's offers."""
        for offer_id in offer_ids:
            self.say(self.session.answer(codec.make_answer(HASH, B, A, offer_id, "v=0")))


class Here(Room):
    """The extension in a tracker, without sockets; it hears of events when `settle` is called."""

    def __init__(self) -> None:
        super().__init__(self)
        self.now = time.monotonic()
        self.events: list[tuple[Any, ...]] = []
        endpoint: Any = FakeEndpoint()
        handle = TrackerHandle("federation", Settings(), self.hub, self.foreign, endpoint, CollectorRegistry())
        self.federation = Federation(handle, FederationSettings())
        federation = self.federation
        self.mesh = Mesh(federation.settings, key(OURS), URL, federation._on_event, federation._on_end)
        federation.mesh = self.mesh

    async def settle(self) -> None:
        """Have the extension hear of all that has happened."""
        for _ in range(100):
            if not self.events:
                return
            name, *content = self.events.pop(0)
            await getattr(self.federation, name)(*content)
        raise AssertionError("one thing leads to the next without end")

    async def link(self, number: int) -> Far:
        """A link opens."""
        far = Far(self, number)
        self.federation._on_event(far.link, Opened(far.link.tracker_id))
        await asyncio.gather(*self.federation._tasks)
        return far

    async def peer(self, who: str, info_hash: str = HASH, **fields: Any) -> FakeConnection:
        """A local peer joins."""
        connection = self.join(who, info_hash, **fields)
        await self.settle()
        return connection

    async def make_offers(self, connection: FakeConnection, made: list[dict[str, Any]], **fields: Any) -> None:
        """A makes offers."""
        self.send(connection, announce(A, offers=made, numwant=len(made), **fields))
        await self.settle()

    def swarm_opened(self, swarm: Swarm) -> None:
        self.events.append(("swarm_opened", swarm))

    def swarm_changed(self, swarm: Swarm) -> None:
        self.events.append(("swarm_changed", swarm))

    def swarm_closed(self, swarm: Swarm) -> None:
        self.events.append(("swarm_closed", swarm))

    def offers_placed(self, member: RemoteMember, peer: Peer, offers: list[Offer]) -> None:
        self.events.append(("offers_placed", member, peer.peer_id, codec.detached(offers)))

    def offers_unplaced(self, swarm: Swarm, peer: Peer, offers: list[Offer]) -> None:
        pass

    def answer_unplaced(self, answer: Answer) -> bool:
        self.events.append(("answer_unplaced", answer))
        return True


@pytest.fixture
async def here() -> Here:
    return Here()


# Who claims how many peers


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
async def test_a_tracker_is_believed_to_have_some_peers_of_each_kind_in_proportion(
    here: Here, told: tuple[int, int], believed: tuple[int, int]
) -> None:
    assert CREDIT == 50
    await here.peer(A)
    (await here.link(1)).have(*told)
    assert here.counts() == (believed[0], believed[1] + 1)


async def test_it_is_believed_to_have_more_for_each_offer_that_was_answered_there(here: Here) -> None:
    a = await here.peer(A)
    far = await here.link(1)
    far.have(0, 85)
    await here.make_offers(a, offers(3))
    assert here.counts() == (0, 51)
    first, second, third = far.offered()
    far.answer(first)
    assert here.counts() == (0, 51 + CREDIT_PER_ANSWER)
    far.answer(second)
    assert here.counts() == (0, 86), "it does not say that it has more"
    far.answer(third)
    far.have(0, MILLION)
    assert here.counts() == (0, 51 + 3 * CREDIT_PER_ANSWER)
    assert len([message for message in a.take() if "answer" in message]) == 3


async def test_many_answers_to_one_offer_earn_no_more_than_one(here: Here) -> None:
    a = await here.peer(A)
    far = await here.link(1)
    far.have(0, MILLION)
    await here.make_offers(a, offers(1))
    far.answer(*far.offered() * 1000)
    far.have(0, MILLION)
    assert here.counts() == (0, 51 + CREDIT_PER_ANSWER)


async def test_answers_to_no_offer_earn_nothing(here: Here) -> None:
    a = await here.peer(A)
    far, other = await here.link(1), await here.link(3)
    far.have(0, MILLION)
    far.answer("x" * 20)
    await here.make_offers(a, offers(1))
    (offer_id,) = far.offered()
    far.answer("x" * 20)
    other.have(0, MILLION)
    other.answer(offer_id)
    assert here.counts() == (0, 1 + 2 * CREDIT)
    assert (far.link.dropped, other.link.dropped) == ({Dropped.NOT_ASKED_FOR: 2}, {Dropped.NOT_ASKED_FOR: 1})


async def test_credit_is_a_links_own_and_good_for_each_of_its_swarms(here: Here) -> None:
    a = await here.peer(A)
    await here.peer(B, OTHER)
    far = await here.link(1)
    far.have(0, MILLION)
    await here.make_offers(a, offers(1))
    far.answer(*far.offered())
    far.have(0, MILLION, OTHER)
    assert here.counts() == here.counts(OTHER) == (0, 71)
    (await here.link(3)).have(0, MILLION)
    assert here.counts() == (0, 121)


async def test_a_listed_tracker_is_believed(here: Here) -> None:
    await here.peer(A)
    far = await here.link(1)
    here.mesh._trusted[URL] = far.link.tracker_id
    far.have(3, MILLION)
    assert here.counts() == (3, MILLION + 1)


async def test_who_claims_a_million_peers_gets_its_share_and_no_more(here: Here) -> None:
    a = await here.peer(A)
    for number in range(25):
        await here.peer(peer_id(100 + number))
    far = await here.link(1)
    far.have(0, MILLION)
    for start in range(0, 1000, 5):
        await here.make_offers(a, offers(5, start=start))
    there = len(far.offered())
    assert there + here.hub.tally.offers_relayed == 1000
    assert 600 < there < 730, "of 75 peers it seems to have 50"


async def test_parked_offers_go_to_as_many_as_are_believed_to_have_come(here: Here) -> None:
    here.hub.parking = Parking(lambda _: None)
    a = await here.peer(A)
    await here.make_offers(a, offers(20))
    far = await here.link(1)
    far.have(0, 3)
    await here.settle()
    assert len(far.offered()) == 3
    far.have(0, 5)
    await here.settle()
    assert len(far.offered()) == 2
    far.have(0, 4)
    await here.settle()
    assert far.offered() == []


@pytest.mark.parametrize("waits", [False, True])
async def test_who_was_offered_something_by_one_tracker_still_makes_an_offer_to_another(
    here: Here, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three that come at once to three trackers, each must get to know each."""
    monkeypatch.setattr(module, "YIELD_TO", 0.0)
    monkeypatch.setattr(here.mesh, "id", ("f" if waits else "0") * 64)
    here.federation._loop = asyncio.get_running_loop()
    here.hub.parking = Parking(lambda _: None)
    a = await here.peer(A)
    await here.make_offers(a, offers(5))
    one, other = await here.link(1), await here.link(3)
    if waits:
        other.have(0, 1)
    one.have(0, 1)
    one.hear()
    one.say(one.session.offer(HASH, B, some_offers(1, start=9)))
    assert a.inbox[-1]["peer_id"] == B
    if not waits:
        other.have(0, 1)
    await asyncio.sleep(0.01)
    await here.settle()
    assert (len(one.offered()), len(other.offered())) == (0 if waits else 1, 1)


async def test_it_is_not_given_parked_offers_for_those_that_it_is_not_believed_to_have(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CREDIT", 5)
    here.hub.parking = Parking(lambda _: None)
    a = await here.peer(A)
    far = await here.link(1)
    await here.make_offers(a, offers(20))
    far.have(0, MILLION - 1)
    far.have(0, MILLION)
    await here.settle()
    assert len(far.offered()) == 5


# Offers


async def test_offers_that_fit_no_frame_come_to_nothing_and_are_not_placed_again_and_again(here: Here) -> None:
    await here.peer(A)
    far, other = await here.link(1), await here.link(3)
    far.have(0, 1)
    other.have(0, 1)
    sdp = Raw(b'"' + b"\\u0061" * 50_000 + b'"')
    long = [Offer(OfferDescription("offer", sdp), Raw(codec.to_json(f"{n:020}"))) for n in range(2)]
    swarm = here.hub.swarms[HASH]
    here.hub.place(swarm, swarm.peers[A], long, here.now, [])
    await here.settle()
    assert [link.session.dropped for link in (far.link, other.link)] == [{Dropped.TOO_LONG: 1}] * 2
    assert (far.offered(), other.offered()) == ([], [])


async def test_offers_for_a_link_that_has_just_ended_go_elsewhere(here: Here) -> None:
    a = await here.peer(A)
    ending, other = await here.link(1), await here.link(3)
    ending.have(0, 1)
    here.send(a, announce(A, offers=offers(1)))
    other.have(0, 1)
    del here.mesh.links[ending.link.tracker_id]
    here.federation._on_end(ending.link)
    await here.settle()
    assert (ending.offered(), len(other.offered())) == ([], 1)


async def test_offers_for_those_who_have_just_left_go_elsewhere(here: Here) -> None:
    a = await here.peer(A)
    far, other = await here.link(1), await here.link(3)
    far.have(0, 1)
    here.send(a, announce(A, offers=offers(1)))
    far.say(far.session.close_swarm(HASH))
    other.have(0, 1)
    await here.settle()
    assert (far.offered(), len(other.offered())) == ([], 1)


async def test_a_refused_offer_is_as_old_as_when_it_was_sent(here: Here) -> None:
    here.hub.parking = Parking(lambda _: None)
    a = await here.peer(A)
    far = await here.link(1)
    far.have(0, 1)
    await here.make_offers(a, offers(1))
    sent, then = far.link._sent.popitem()[1]
    far.link.remember_offers(HASH, A, [(f"{0:020}", sent)], then - 5)
    far.say(far.session.refuse(HASH, A, far.offered()))
    (parked,) = here.hub.parking.of(here.hub.swarms[HASH], time.monotonic())
    assert then - 5.1 < parked.since < then - 4


# Links that begin and end


async def test_what_still_comes_over_a_link_that_is_to_end_leaves_nobody_behind(here: Here) -> None:
    await here.peer(A)
    far = await here.link(1)
    far.have(0, 1)
    del here.mesh.links[far.link.tracker_id]
    here.federation._on_end(far.link)
    far.have(0, 2)
    await here.federation._introduce(far.link)
    assert (here.counts(), far.link.members) == ((0, 1), {})


async def test_a_new_link_is_told_of_the_swarms_that_the_extension_was_told_of(here: Here) -> None:
    hashes = [f"{n:020}" for n in range(CHUNK + 1)]
    for info_hash in hashes:
        await here.peer(A, info_hash)
    here.join(A, HASH)
    far = Far(here, 1)
    for info_hash in (*hashes, HASH):
        far.session.open_swarm(info_hash)
    here.federation._on_event(far.link, Opened(far.link.tracker_id))
    await asyncio.gather(*here.federation._tasks)
    assert [getattr(event, "info_hash", None) for event in far.hear()] == hashes
    await here.settle()
    assert [getattr(event, "info_hash", None) for event in far.hear()] == [HASH]


async def test_a_swarm_that_closes_while_a_new_link_is_told_is_not_told(here: Here) -> None:
    for n in range(CHUNK):
        await here.peer(A, f"{n:020}")
    last = await here.peer(A, HASH)
    far = Far(here, 1)
    far.session.open_swarm(HASH)
    introduction = asyncio.ensure_future(here.federation._introduce(far.link))
    await asyncio.sleep(0)
    here.hub.close(last)
    await here.settle()
    await introduction
    assert far.hear() == []
    assert far.link.session.tell([(HASH, 1, 1)]) == [], "it is not open on this link"
