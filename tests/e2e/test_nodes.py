"""Clients at two nodes of one tracker, which talk over a real NATS server, find each other and transfer files."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.client import eventually
from tests.conftest import TrackerProcess, environment
from tests.e2e.browser import meet_and_part
from tests.e2e.conftest import OpenPage, Pair
from tests.e2e.lt import Torrent
from tests.e2e.test_webtorrent import downloaded, leech, seed
from tests.nats_server import NatsServers


@pytest.fixture(scope="module")
async def nodes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[TrackerProcess]]:
    """Start two nodes, and wait until they know each other."""
    directory = tmp_path_factory.mktemp("nodes")
    async with NatsServers() as servers:
        server = servers.make()
        server.enable_jetstream()
        await server.start()
        trackers = []
        try:
            for number in range(2):
                env = environment("server", state_dir=str(directory / str(number)))
                env |= environment("extensions.cluster", servers=[server.url])
                trackers.append(await TrackerProcess.start(env=env))
            for tracker in trackers:
                await eventually(partial(knows_both, tracker))
            yield trackers
        finally:
            for tracker in trackers:
                await tracker.stop()


async def knows_both(tracker: TrackerProcess) -> bool:
    """Return whether a node knows the other one."""
    return len((await tracker.stats())["cluster"]) == 2


def new_torrent(directory: Path, url: str) -> Torrent:
    """Return a torrent of random bytes, which has a name of its own."""
    return Torrent(directory.name, os.urandom(300_000), url)


async def test_libtorrent_downloads_from_libtorrent(nodes: list[TrackerProcess], pair: Pair, tmp_path: Path) -> None:
    (here, there), (seeder, leecher) = nodes, pair
    torrent = new_torrent(tmp_path, there.url)
    answered = leecher.answered(torrent)
    leeching = asyncio.create_task(leecher.leech(torrent))
    await answered
    await seeder.seed(torrent.name, torrent.content, here.url)
    assert await leeching == torrent.content


async def test_a_page_downloads_from_libtorrent(
    nodes: list[TrackerProcess], open_page: OpenPage, pair: Pair, tmp_path: Path
) -> None:
    here, there = nodes
    torrent = await pair[0].seed(tmp_path.name, os.urandom(300_000), here.url)
    leecher = await open_page("webtorrent")
    await leech(leecher, replace(torrent, tracker_url=there.url))
    assert await downloaded(leecher, torrent) == torrent.content
    assert leecher.sockets == [there.url]


async def test_libtorrent_downloads_from_a_page(
    nodes: list[TrackerProcess], open_page: OpenPage, pair: Pair, tmp_path: Path
) -> None:
    here, there = nodes
    torrent = new_torrent(tmp_path, here.url)
    seeder = await open_page("webtorrent")
    await seed(seeder, torrent)
    assert await pair[1].leech(replace(torrent, tracker_url=there.url)) == torrent.content
    assert seeder.sockets == [here.url]


@pytest.mark.parametrize("client", ["trystero", "p2pt"])
async def test_a_room_has_doors_at_two_nodes(client: str, nodes: list[TrackerProcess], open_page: OpenPage) -> None:
    stays, leaves = await open_page(client), await open_page(client)
    await meet_and_part(stays, leaves, *(node.url for node in nodes))
