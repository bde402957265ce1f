"""Offers, counts and intervals when the peers of one swarm are connected to two linked trackers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.client import RawClient, answer, eventually, offers, raw_client
from tests.conftest import TrackerProcess
from tests.e2e.rtc import connect, echo, random_id, rtc_peer
from tests.federated import counted, federation, links

pytestmark = pytest.mark.usefixtures("on_loopback")

LONELY, NOT_ALONE = 30, 120


@pytest.fixture(scope="module")
async def linked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[TrackerProcess]]:
    """Two linked trackers, that with the lesser id first."""
    async with federation(tmp_path_factory.mktemp("federation")) as trackers:
        yield sorted(await trackers.start_linked(2), key=trackers.id_of)


@pytest.fixture(params=["lesser", "greater"])
def pair(request: pytest.FixtureRequest, linked: list[TrackerProcess]) -> list[TrackerProcess]:
    """They are no equals: when both could make offers, that with the lesser id does. So everything is tried twice."""
    return linked if request.param == "lesser" else linked[::-1]


@pytest.fixture
def swarm() -> str:
    """The infohash of a swarm that is only this test's."""
    return random_id()


async def test_an_offer_is_answered_at_the_other_tracker(pair: list[TrackerProcess], swarm: str) -> None:
    here, there = pair
    async with rtc_peer(here, swarm) as offering, rtc_peer(there, swarm) as answering:
        await answering.join()
        await offering.join()
        await counted(here, swarm, complete=0, incomplete=2)
        await connect(offering, answering)


async def test_each_answer_comes_from_the_peer_that_it_names(pair: list[TrackerProcess], swarm: str) -> None:
    """Offers of one announce go to distinct peers at both trackers, and each answer opens the channel it belongs to."""
    here, there = pair
    async with (
        rtc_peer(here, swarm) as offering,
        rtc_peer(here, swarm) as near,
        rtc_peer(there, swarm) as far,
        rtc_peer(there, swarm) as farther,
    ):
        others = near, far, farther
        for peer in (offering, *others):
            await peer.join()
        await counted(here, swarm, complete=0, incomplete=4)
        await offering.offer(5)
        assert await asyncio.gather(*(peer.accept_offer() for peer in others)) == [offering.peer_id] * 3
        answers = dict([await offering.accept_answer() for _ in others])
        assert answers.keys() == {peer.peer_id for peer in others}
        for peer_id, channel in answers.items():
            assert await echo(channel, "hello") == f"hello from {peer_id}"
        for peer in (*others, offering):
            assert await peer.tracker.nothing_came()


async def test_a_peer_without_offers_is_given_a_parked_one(pair: list[TrackerProcess], swarm: str) -> None:
    here, there = pair
    async with rtc_peer(here, swarm) as early, rtc_peer(there, swarm) as late:
        counts = await early.offer(5)
        assert (counts["complete"], counts["incomplete"], counts["interval"]) == (0, 1, LONELY)
        await late.join()
        assert await late.accept_offer() == early.peer_id
        peer_id, channel = await early.accept_answer()
        assert peer_id == late.peer_id
        assert await echo(channel, "hello") == f"hello from {peer_id}"
        assert await late.tracker.nothing_came(), "one peer gets one of them"


async def test_two_that_both_make_offers_meet(pair: list[TrackerProcess], swarm: str) -> None:
    """The trackers decide which offer is used."""
    here, there = pair
    async with rtc_peer(here, swarm) as early, rtc_peer(there, swarm) as late:
        await early.offer(5)
        await late.offer(5)
        meeting = {asyncio.create_task(peer.accept_any()): other for peer, other in ((early, late), (late, early))}
        done, pending = await asyncio.wait(meeting, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            peer_id, channel = task.result()
            assert peer_id == meeting[task].peer_id
            assert await echo(channel, "hello") == f"hello from {peer_id}"


@asynccontextmanager
async def at_both(trackers: list[TrackerProcess], swarm: str) -> AsyncIterator[tuple[str, RawClient, RawClient]]:
    """A peer that has announced to both trackers: its id, and its sockets."""
    here, there = trackers
    both = random_id()
    async with raw_client(here.url) as at_here, raw_client(there.url) as at_there:
        await at_there.announce(both, swarm)
        await at_here.announce(both, swarm)
        await counted(here, swarm, complete=0, incomplete=2)
        yield both, at_here, at_there


async def test_a_peer_at_both_trackers_is_not_offered_to_itself(pair: list[TrackerProcess], swarm: str) -> None:
    here, _ = pair
    async with at_both(pair, swarm) as (both, at_here, at_there):
        await offer_in_vain(here, at_here, both, swarm, 5)
        assert await at_there.nothing_came()
        # As there is no other peer, it is parked like the others.
        async with raw_client(here.url) as client:
            await client.announce(random_id(), swarm)
            assert (await client.receive())["peer_id"] == both


async def test_a_peer_at_both_trackers_is_answered_where_it_has_offered(pair: list[TrackerProcess], swarm: str) -> None:
    """Clients know an offer only on the socket that they have made it on."""
    here, there = pair
    other = random_id()
    async with raw_client(there.url) as client, at_both(pair, swarm) as (both, at_here, at_there):
        await client.announce(other, swarm)
        await counted(here, swarm, complete=0, incomplete=3)
        await offer_in_vain(here, at_here, both, swarm, 2)
        await at_there.announce(both, swarm, offers=offers(1, start=100))
        answered_to = {here: 0, there: 0}
        while not answered_to[there]:
            message = await client.receive()
            await client.send(answer(other, both, message["offer_id"], swarm))
            answered_to[there if int(message["offer_id"]) == 100 else here] += 1
        for socket, tracker in ((at_there, there), (at_here, here)):
            for _ in range(answered_to[tracker]):
                assert (int((await socket.receive())["offer_id"]) == 100) is (tracker is there)


async def offer_in_vain(here: TrackerProcess, client: RawClient, peer_id: str, swarm: str, count: int) -> None:
    """Announce offers, and wait until they are back, refused, from the other tracker."""

    async def number() -> int:
        return sum(link["refused"] for link in (await links(here)).values())

    async def is_back() -> bool:
        return await number() > before

    before = await number()
    await client.announce(peer_id, swarm, offers=offers(count))
    await eventually(is_back)


async def test_offers_that_wait_are_not_lost_by_one_that_comes_back(pair: list[TrackerProcess], swarm: str) -> None:
    here, _ = pair
    async with at_both(pair, swarm) as (both, at_here, _):
        await offer_in_vain(here, at_here, both, swarm, 3)
        async with raw_client(here.url) as client:
            for number in range(3):
                await client.announce(random_id(), swarm)
                assert not await client.nothing_came(), f"{number} of 3 were there"


async def test_peers_elsewhere_are_counted(linked: list[TrackerProcess], swarm: str) -> None:
    here, there = linked
    async with raw_client(here.url) as seeder, raw_client(there.url) as leecher, raw_client(there.url) as third:
        seeds, leeches = random_id(), random_id()
        await seeder.announce(seeds, swarm, left=0)
        await leecher.announce(leeches, swarm)
        await third.announce(random_id(), swarm)
        for tracker in linked:
            await counted(tracker, swarm, complete=1, incomplete=2)
        for client, peer_id, left in ((seeder, seeds, 0), (leecher, leeches, 1)):
            reply = await client.announce(peer_id, swarm, left=left)
            assert (reply["complete"], reply["incomplete"]) == (1, 2)

        await leecher.announce(leeches, swarm, left=0, event="completed")
        await third.socket.close()
        for tracker in linked:
            await counted(tracker, swarm, complete=2, incomplete=0)
        await leecher.socket.close()
        await counted(here, swarm, complete=1, incomplete=0)
        # Without a peer of its own, a tracker knows nothing of a swarm.
        await counted(there, swarm, complete=0, incomplete=0)


async def test_a_lonely_peer_announces_more_often(pair: list[TrackerProcess], swarm: str) -> None:
    here, there = pair
    async with raw_client(here.url) as first, raw_client(there.url) as second:
        early, late = random_id(), random_id()
        assert (await first.announce(early, swarm))["interval"] == LONELY
        assert (await first.announce(early, swarm))["interval"] == LONELY
        await second.announce(late, swarm)
        for tracker in pair:
            await counted(tracker, swarm, complete=0, incomplete=2)
        # The peer counted there may be the same one, until one of them has answered the other.
        for client, peer_id in ((first, early), (second, late)):
            assert (await client.announce(peer_id, swarm))["interval"] == LONELY
        await first.announce(early, swarm, offers=offers(1))
        offer = await second.receive_until(lambda message: "offer" in message)
        await second.send(answer(late, early, offer["offer_id"], swarm))
        await first.receive_until(lambda message: "answer" in message)
        for client, peer_id in ((first, early), (second, late)):
            assert (await client.announce(peer_id, swarm))["interval"] == NOT_ALONE
        await second.socket.close()
        await counted(here, swarm, complete=0, incomplete=1)
        assert (await first.announce(early, swarm))["interval"] == LONELY
