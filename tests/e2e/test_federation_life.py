"""Linked trackers that die and come back, and links that fail and heal, while peers use them."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import TrackerProcess, free_port
from tests.e2e.lt import LibtorrentPeer
from tests.e2e.rtc import HASH, connect, echo, random_id, rtc_peer
from tests.federated import Federation, Wire, counted, federation

pytestmark = pytest.mark.usefixtures("on_loopback")


async def test_a_tracker_is_killed_and_comes_back(tmp_path: Path) -> None:
    async with federation(tmp_path) as trackers, AsyncExitStack() as stack:
        three = await trackers.start_linked(3)
        stays, dies, other = three
        clients = [await stack.enter_async_context(rtc_peer(tracker)) for tracker in three]
        for client in clients:
            await client.join()
        for tracker in three:
            await counted(tracker, HASH, complete=0, incomplete=3)

        seeder, *leechers = [await stack.enter_async_context(new_peer(tmp_path / name)) for name in "abc"]
        torrent = await seeder.seed("file", os.urandom(20_000_000), stays.url)
        torrents = [replace(torrent, tracker_url=tracker.url) for tracker in (dies, other)]
        downloads = [asyncio.create_task(peer.leech(one)) for peer, one in zip(leechers, torrents, strict=True)]
        await asyncio.gather(*(peer.has_begun(one) for peer, one in zip(leechers, torrents, strict=True)))
        await dies.stop(signal.SIGKILL)

        for tracker in (stays, other):
            await counted(tracker, HASH, complete=0, incomplete=2)
        await connect(clients[0], clients[2])
        await connect(clients[2], clients[0])
        assert await asyncio.gather(*downloads) == [torrent.content] * 2

        back = await trackers.start(dies.port)
        await trackers.linked(stays, back, other)
        for early, late in ((back, stays), (other, back)):
            await meet(early, late)


async def meet(early: TrackerProcess, late: TrackerProcess) -> None:
    """Two new peers of a new swarm must find each other."""
    swarm = random_id()
    async with rtc_peer(early, swarm) as offering, rtc_peer(late, swarm) as answering:
        await offering.offer(5)
        await answering.join()
        assert await answering.accept_offer() == offering.peer_id
        peer_id, channel = await offering.accept_answer()
        assert await echo(channel, "hello") == f"hello from {peer_id}"


def new_peer(directory: Path) -> LibtorrentPeer:
    """A libtorrent session."""
    directory.mkdir()
    return LibtorrentPeer(directory)


@asynccontextmanager
async def wired(trackers: Federation) -> AsyncIterator[tuple[TrackerProcess, TrackerProcess, Wire]]:
    """Two trackers whose link goes through a proxy: the dialer and the listener."""
    port = free_port()
    async with Wire(port) as wire:
        there = await trackers.start(port, in_dht=False, aliases=[wire.url])
        here = await trackers.start(in_dht=False, peers=[wire.url])
        await trackers.linked(here, there)
        yield here, there, wire


async def test_a_link_is_silent_for_a_while(tmp_path: Path) -> None:
    """Each tracker still serves its own peers, and its messages to the other arrive later."""
    async with federation(tmp_path) as trackers, wired(trackers) as (here, there, wire), AsyncExitStack() as stack:
        other = random_id()
        near, nearer, far = [await stack.enter_async_context(rtc_peer(one)) for one in (here, here, there)]
        early, late = [await stack.enter_async_context(rtc_peer(one, other)) for one in (here, there)]
        await near.join()
        await far.join()
        for tracker in (here, there):
            await counted(tracker, HASH, complete=0, incomplete=2)

        wire.stop()
        await nearer.join()
        counts = await near.offer(5)
        assert (counts["complete"], counts["incomplete"]) == (0, 3)
        assert await nearer.accept_offer() == near.peer_id
        assert (await near.accept_answer())[0] == nearer.peer_id
        await early.offer(5)
        await late.join()
        for peer in (far, late):
            assert await peer.tracker.nothing_came()

        wire.resume()
        # Of these offers one was under way, and the others were parked.
        for offering, answering in ((near, far), (early, late)):
            assert await answering.accept_offer() == offering.peer_id
            peer_id, channel = await offering.accept_answer()
            assert await echo(channel, "hello") == f"hello from {peer_id}"
        for tracker in (here, there):
            await counted(tracker, HASH, complete=0, incomplete=3)


async def test_a_link_is_cut_and_comes_back(tmp_path: Path) -> None:
    async with federation(tmp_path) as trackers, wired(trackers) as (here, there, wire), AsyncExitStack() as stack:
        near, nearer = [await stack.enter_async_context(rtc_peer(here)) for _ in range(2)]
        far = await stack.enter_async_context(rtc_peer(there))
        for peer in (near, nearer, far):
            await peer.join()
        for tracker in (here, there):
            await counted(tracker, HASH, complete=0, incomplete=3)

        wire.cut()
        await counted(here, HASH, complete=0, incomplete=2)
        await counted(there, HASH, complete=0, incomplete=1)
        await connect(near, nearer)
        assert await far.tracker.nothing_came()

        wire.mend()
        await trackers.linked(here, there)
        for tracker in (here, there):
            await counted(tracker, HASH, complete=0, incomplete=3)
        # Offers without a receiver were parked.
        assert await far.accept_offer() == near.peer_id
        peer_id, channel = await near.accept_answer()
        assert await echo(channel, "hello") == f"hello from {peer_id}"
        await meet(there, here)
