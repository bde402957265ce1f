"""Offers, counts and intervals when the peers of one swarm are connected to two linked trackers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.client import RawClient, answer, offers, raw_client, soon
from tests.conftest import TrackerProcess
from tests.e2e.rtc import connect, echo, random_id, rtc_peer
from tests.federated import counted, federation, links

pytestmark = pytest.mark.usefixtures("on_loopback")

LONELY = soon(30)
"""Seconds between the announces of peers that are alone, and of those in small swarms."""


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
        assert (counts["complete"], counts["incomplete"], counts["interval"] in LONELY) == (0, 1, True)
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
async def member(trackers: list[TrackerProcess], swarm: str) -> AsyncIterator[tuple[str, list[RawClient]]]:
    """A peer that has announced to some trackers: its id, and its sockets."""
    peer_id = random_id()
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(raw_client(tracker.url)) for tracker in trackers]
        for socket in sockets:
            await socket.announce(peer_id, swarm)
        yield peer_id, sockets


async def sent_over(trackers: list[TrackerProcess]) -> int:
    """Return the number of offers that these trackers have sent over links."""
    tables = await asyncio.gather(*map(links, trackers))
    return sum(link["offers_out"] for table in tables for link in table.values())


async def test_a_peer_at_both_trackers_is_not_offered_to_itself(pair: list[TrackerProcess], swarm: str) -> None:
    here, there = pair
    before = await sent_over(pair)
    async with member([there, here], swarm) as (both, (at_there, at_here)):
        for tracker in pair:
            await counted(tracker, swarm, complete=0, incomplete=1)
        await at_here.announce(both, swarm, offers=offers(3))
        assert await at_there.nothing_came()
        assert await sent_over(pair) == before
        # They are parked, like those of any peer that is alone.
        async with raw_client(here.url) as client:
            for number in range(3):
                await client.announce(random_id(), swarm)
                assert (await client.receive())["peer_id"] == both, f"{number} of 3 were there"


async def test_a_peer_at_both_trackers_is_answered_where_it_has_offered(pair: list[TrackerProcess], swarm: str) -> None:
    """Clients know an offer only on the socket that they have made it on."""
    here, there = pair
    async with member([there], swarm) as (other, (client,)), member([there, here], swarm) as (both, at):
        await counted(here, swarm, complete=0, incomplete=2)
        await at[1].announce(both, swarm, offers=offers(2))
        await at[0].announce(both, swarm, offers=offers(1, start=100))
        message = await client.receive()
        assert int(message["offer_id"]) == 100
        await client.send(answer(other, both, message["offer_id"], swarm))
        assert "answer" in await at[0].receive()
        for socket in (client, *at):
            assert await socket.nothing_came()


async def test_a_room_at_both_trackers_is_introduced_as_if_they_were_not_linked(
    pair: list[TrackerProcess], swarm: str
) -> None:
    """Each of four members makes the same offers on both trackers. The two others are on one tracker only."""
    here, there = pair
    async with AsyncExitStack() as stack:
        room = [await stack.enter_async_context(member(pair, swarm)) for _ in range(4)]
        before = await sent_over(pair)
        for number, (maker, sockets) in enumerate(room):
            for socket in sockets:
                await socket.announce(maker, swarm, offers=offers(3, start=10 * number))
            for receiver, others in room:
                if receiver != maker:
                    received = [await socket.receive() for socket in others]
                    assert {message["peer_id"] for message in received} == {maker}
                    assert received[0]["offer_id"] == received[1]["offer_id"], "only one of two could be answered"
        assert await sent_over(pair) == before

        near, (at_here,) = await stack.enter_async_context(member([here], swarm))
        far, (at_there,) = await stack.enter_async_context(member([there], swarm))
        for tracker in pair:
            await counted(tracker, swarm, complete=0, incomplete=6)
        for maker, socket, other, side in ((near, at_here, at_there, 0), (far, at_there, at_here, 1)):
            await socket.announce(maker, swarm, offers=offers(9, start=100 * (side + 1)))
            assert (await other.receive())["peer_id"] == maker
            for _, sockets in room:
                assert (await sockets[side].receive())["peer_id"] == maker
        assert await sent_over(pair) == before + 2
        for socket in (at_here, at_there, *(socket for _, sockets in room for socket in sockets)):
            assert await socket.nothing_came()


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


async def test_peers_of_small_swarms_announce_more_often(pair: list[TrackerProcess], swarm: str) -> None:
    here, there = pair
    async with raw_client(here.url) as first, raw_client(there.url) as second:
        early, late = random_id(), random_id()
        assert (await first.announce(early, swarm))["interval"] in LONELY
        assert (await first.announce(early, swarm))["interval"] in LONELY
        await second.announce(late, swarm)
        for tracker in pair:
            await counted(tracker, swarm, complete=0, incomplete=2)
        # Further peers may come, also when these two have met.
        for client, peer_id in ((first, early), (second, late)):
            assert (await client.announce(peer_id, swarm))["interval"] in LONELY
        await first.announce(early, swarm, offers=offers(1))
        offer = await second.receive_until(lambda message: "offer" in message)
        await second.send(answer(late, early, offer["offer_id"], swarm))
        await first.receive_until(lambda message: "answer" in message)
        for client, peer_id in ((first, early), (second, late)):
            assert (await client.announce(peer_id, swarm))["interval"] in LONELY
        await second.socket.close()
        await counted(here, swarm, complete=0, incomplete=1)
        assert (await first.announce(early, swarm))["interval"] in LONELY
