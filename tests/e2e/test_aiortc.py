"""aiortc, WebRTC in Python: relayed offers and answers open data channels. The tests control each message."""

import asyncio

import pytest

from tests.conftest import TrackerProcess
from tests.e2e.rtc import connect, echo, rtc_peer

pytestmark = pytest.mark.usefixtures("on_loopback")


async def test_newcomer_offers(tracker: TrackerProcess) -> None:
    async with rtc_peer(tracker) as waiting, rtc_peer(tracker) as newcomer:
        await waiting.join()
        await connect(newcomer, waiting)


async def test_waiting_peer_offers_when_it_announces_again(tracker: TrackerProcess) -> None:
    async with rtc_peer(tracker) as waiting, rtc_peer(tracker) as newcomer:
        counts = await waiting.offer(5)
        assert (counts["complete"], counts["incomplete"]) == (0, 1)
        await newcomer.join()
        assert await newcomer.tracker.nothing_came(), "offers without a receiver are not kept"
        await connect(waiting, newcomer)


async def test_each_answer_belongs_to_the_offer_it_names(tracker: TrackerProcess) -> None:
    """Several peers answer offers of one announce. Each has the peer_id that the tracker gave."""
    async with rtc_peer(tracker) as first, rtc_peer(tracker) as second, rtc_peer(tracker) as offering:
        others = first, second
        for peer in others:
            await peer.join()
        await offering.offer(5)
        await asyncio.gather(*(peer.accept_offer() for peer in others))
        answers = [await offering.accept_answer() for _ in others]
        assert {peer_id for peer_id, _ in answers} == {peer.peer_id for peer in others}
        for peer_id, channel in answers:
            assert await echo(channel, "hello") == f"hello from {peer_id}"
        for peer in (*others, offering):
            assert await peer.tracker.nothing_came()
