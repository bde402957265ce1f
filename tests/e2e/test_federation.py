"""Clients at different trackers find each other and transfer files; each knows only its own tracker."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path

import pytest

from tests.client import eventually
from tests.conftest import TrackerProcess
from tests.e2e.browser import meet_and_part
from tests.e2e.conftest import OpenPage, Pair
from tests.e2e.lt import LibtorrentPeer, Torrent
from tests.e2e.node import node_script
from tests.e2e.test_webtorrent import downloaded, leech, seed
from tests.federated import PATIENCE, federation
from tests.integration.hostile import at_least, ended

GetTracker = Callable[[], Awaitable[TrackerProcess]]


@pytest.fixture(scope="module")
async def linked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[TrackerProcess]]:
    """Two trackers that have found each other in the DHT."""
    async with federation(tmp_path_factory.mktemp("federation")) as trackers:
        yield await trackers.start_linked(2)


@pytest.fixture(params=["warm", "cold"])
async def two(
    request: pytest.FixtureRequest, linked: list[TrackerProcess], tmp_path: Path
) -> AsyncIterator[list[GetTracker]]:
    """The seeder's and the leecher's: linked already, or started when they are asked for, without a word of another."""

    def get(tracker: TrackerProcess) -> GetTracker:
        async def get() -> TrackerProcess:
            return tracker

        return get

    if request.param == "warm":
        yield [get(tracker) for tracker in linked]
    else:
        async with federation(tmp_path) as trackers:
            yield [trackers.start] * 2


def new_torrent(tracker: TrackerProcess, size: int = 300_000) -> Torrent:
    """A torrent of random bytes."""
    return Torrent("file", os.urandom(size), tracker.url)


def at(tracker: TrackerProcess, torrent: Torrent) -> Torrent:
    """The same torrent, to be found through another tracker."""
    return replace(torrent, tracker_url=tracker.url)


async def test_the_seeder_comes_first(two: list[GetTracker], pair: Pair) -> None:
    (here, there), (seeder, leecher) = two, pair
    torrent = new_torrent(await here())
    await seeder.seed(torrent.name, torrent.content, torrent.tracker_url)
    assert await leecher.leech(at(await there(), torrent)) == torrent.content


async def test_the_leecher_comes_first(two: list[GetTracker], pair: Pair) -> None:
    (here, there), (seeder, leecher) = two, pair
    torrent = new_torrent(await there())
    answered = leecher.answered(torrent)
    leeching = asyncio.create_task(leecher.leech(torrent))
    await answered
    await seeder.seed(torrent.name, torrent.content, (await here()).url)
    assert await leeching == torrent.content


async def test_both_come_at_once(two: list[GetTracker], pair: Pair) -> None:
    (here, there), (seeder, leecher) = two, pair
    trackers = await asyncio.gather(here(), there())
    torrent = new_torrent(trackers[0])
    _, content = await asyncio.gather(
        seeder.seed(torrent.name, torrent.content, torrent.tracker_url), leecher.leech(at(trackers[1], torrent))
    )
    assert content == torrent.content


async def test_a_page_downloads_from_libtorrent(linked: list[TrackerProcess], open_page: OpenPage, pair: Pair) -> None:
    here, there = linked
    torrent = await pair[0].seed("file", os.urandom(300_000), here.url)
    leecher = await open_page("webtorrent")
    await leech(leecher, at(there, torrent))
    assert await downloaded(leecher, torrent) == torrent.content
    assert leecher.sockets == [there.url]


async def test_libtorrent_downloads_from_a_page(linked: list[TrackerProcess], open_page: OpenPage, pair: Pair) -> None:
    here, there = linked
    torrent = new_torrent(here)
    seeder = await open_page("webtorrent")
    await seed(seeder, torrent)
    assert await pair[1].leech(at(there, torrent)) == torrent.content
    assert seeder.sockets == [here.url]


@pytest.mark.parametrize("client", ["trystero", "p2pt"])
async def test_a_room_has_doors_at_two_trackers(client: str, linked: list[TrackerProcess], open_page: OpenPage) -> None:
    stays, leaves = await open_page(client), await open_page(client)
    await meet_and_part(stays, leaves, *(tracker.url for tracker in linked))


async def test_each_end_names_the_other_by_its_published_url(linked: list[TrackerProcess]) -> None:
    """The tracker that was dialed has found the URL of the other one in the DHT."""
    for here, there in (linked, linked[::-1]):
        await eventually(partial(is_named, here, there.url.rstrip("/")), PATIENCE)


async def is_named(tracker: TrackerProcess, url: str) -> bool:
    """Return whether a tracker's only link has this URL as its name."""
    return [link["url"] for link in (await tracker.stats())["federation"]] == [url]


async def test_an_ordinary_tracker_is_told_so(tmp_path: Path) -> None:
    """npm's tracker chooses any subprotocol, and answers the first message with a failure."""
    async with node_script("server.mjs") as script, federation(tmp_path) as trackers:
        port = (await script.event(lambda event: event["event"] == "listening"))["port"]
        tracker = await trackers.start(in_dht=False, peers=[f"ws://127.0.0.1:{port}"])
        line = await tracker.logged("listed_tracker_down")
        assert (line["reason"], line["text"]) == ("refused", "a tracker without federation")
        (row,) = (await tracker.stats())["unlinked"]
        assert row["reason"] == "refused: a tracker without federation"
        await eventually(lambda: at_least(ended(tracker, "refused"), 2), PATIENCE)
        assert [one for one in tracker.log if one["event"] == "link_ended"] == []


async def test_twenty_peers_at_five_trackers_mix(tmp_path: Path) -> None:
    """All get the file, and peers are connected as if there were only one tracker."""
    async with federation(tmp_path) as trackers, AsyncExitStack() as stack:
        five = await trackers.start_linked(5)
        peers: dict[bytes, LibtorrentPeer] = {}
        for number in range(20):
            fingerprint = f"-{number:02}-"
            directory = tmp_path / fingerprint
            directory.mkdir()
            # Also of two that have the whole file, neither hangs up.
            peer = LibtorrentPeer(directory, peer_fingerprint=fingerprint, close_redundant_connections=False)
            peers[fingerprint.encode()] = await stack.enter_async_context(peer)
        home = {mark: five[number % 5] for number, mark in enumerate(peers)}

        (first, seeder), *others = peers.items()
        torrent = await seeder.seed("file", os.urandom(1_000_000), home[first].url)
        downloads = []
        for mark, peer in others:
            answered = peer.answered(torrent)
            downloads.append(asyncio.create_task(peer.leech(at(home[mark], torrent))))
            await answered
        assert all(content == torrent.content for content in await asyncio.gather(*downloads))

        met = {
            frozenset({mark, other[: len(mark)]})
            for mark, peer in peers.items()
            for other in peer.neighbours(torrent)
            if other[: len(mark)] in peers
        }
        crossing = sum(len({home[mark] for mark in two}) == 2 for two in met)
        possible = [home[one] is not home[other] for one, other in combinations(peers, 2)]
        expected = sum(possible) / len(possible)
        assert len(met) >= 20
        # The first comers have met at their own tracker before they are heard of elsewhere.
        assert expected - 0.3 < crossing / len(met) < 1
