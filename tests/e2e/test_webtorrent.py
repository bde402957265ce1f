"""Webtorrent in a browser: pages that share nothing but the tracker transfer files."""

import base64
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from websockets import CloseCode

from tests.client import RawClient, eventually, raw_client
from tests.conftest import StartTracker, TrackerProcess
from tests.e2e.browser import PATIENCE, Page
from tests.e2e.conftest import OpenPage
from tests.e2e.lt import PIECE_LENGTH, LibtorrentPeer, Torrent


def new_torrent(tracker: TrackerProcess, name: str = "file") -> Torrent:
    """Return a torrent of random bytes."""
    return Torrent(name, os.urandom(300_000), tracker.url)


@pytest.fixture
async def libtorrent(tmp_path: Path) -> AsyncIterator[LibtorrentPeer]:
    """Return a client outside the browser."""
    async with LibtorrentPeer(tmp_path) as peer:
        yield peer


async def seed(page: Page, torrent: Torrent) -> None:
    """Seed in a page, and wait until the tracker has replied."""
    content = base64.b64encode(torrent.content).decode()
    trackers = [torrent.tracker_url, *torrent.further_urls]
    await page.call("seed", trackers, torrent.name, PIECE_LENGTH, content)
    await page.told("announced")


async def leech(page: Page, torrent: Torrent) -> None:
    """Start a download in a page, and wait until the tracker has replied."""
    await page.call("leech", torrent.magnet)
    await page.told("announced")


async def downloaded(page: Page, torrent: Torrent) -> bytes:
    """Wait until the download of a page is complete. Return the content of the file."""
    return base64.b64decode(await page.told(f"done {torrent.info_hash}"))


async def counts_become(watcher: RawClient, torrent: Torrent, *, complete: int, incomplete: int) -> None:
    """Scrape until the tracker has these counts: it does not announce changes by itself."""
    swarm = bytes.fromhex(torrent.info_hash).decode("latin-1")
    expected = {"complete": complete, "incomplete": incomplete}
    counts: dict[str, int] = {}

    async def counted() -> bool:
        await watcher.send({"action": "scrape", "info_hash": swarm})
        counts.update((await watcher.receive())["files"][swarm])
        return expected.items() <= counts.items()

    with suppress(TimeoutError):
        await eventually(counted, PATIENCE)
    assert expected.items() <= counts.items()


async def test_the_seeder_comes_first(tracker: TrackerProcess, open_page: OpenPage) -> None:
    """The seeder answers the leecher's offers."""
    torrent = new_torrent(tracker)
    seeder, leecher = await open_page("webtorrent"), await open_page("webtorrent")
    await seed(seeder, torrent)
    await leech(leecher, torrent)
    assert await downloaded(leecher, torrent) == torrent.content


async def test_the_leecher_comes_first(tracker: TrackerProcess, open_page: OpenPage) -> None:
    """The leecher, which has announced to an empty swarm, answers the seeder's offers."""
    torrent = new_torrent(tracker)
    leecher, seeder = await open_page("webtorrent"), await open_page("webtorrent")
    await leech(leecher, torrent)
    await seed(seeder, torrent)
    assert await downloaded(leecher, torrent) == torrent.content


async def test_two_torrents_share_a_socket(tracker: TrackerProcess, open_page: OpenPage) -> None:
    """Each page seeds one torrent and downloads the other's, as one peer of two swarms on one socket."""
    first, second = new_torrent(tracker, "first"), new_torrent(tracker, "second")
    left, right = await open_page("webtorrent"), await open_page("webtorrent")
    await seed(left, first)
    await seed(right, second)
    await leech(left, second)
    await leech(right, first)
    assert await downloaded(left, second) == second.content
    assert await downloaded(right, first) == first.content
    assert [left.sockets, right.sockets] == [[tracker.url], [tracker.url]]


@pytest.mark.parametrize("leecher_comes_first", [False, True])
async def test_the_tracker_is_listed_under_two_urls(
    tracker: TrackerProcess, open_page: OpenPage, leecher_comes_first: bool
) -> None:
    """Each page opens two sockets with one peer_id, and must receive each answer on the socket of its offer."""
    torrent = replace(new_torrent(tracker), further_urls=(tracker.url + "announce",))
    seeder, leecher = await open_page("webtorrent"), await open_page("webtorrent")
    if leecher_comes_first:
        await leech(leecher, torrent)
    await seed(seeder, torrent)
    if not leecher_comes_first:
        await leech(leecher, torrent)
    assert await downloaded(leecher, torrent) == torrent.content
    assert [len(seeder.sockets), len(leecher.sockets)] == [2, 2]
    async with raw_client(tracker.url) as watcher:
        await counts_become(watcher, torrent, complete=2, incomplete=0)


async def test_one_seeder_serves_three_leechers(tracker: TrackerProcess, open_page: OpenPage) -> None:
    """One of four pages has the file, and finally all of them."""
    torrent = new_torrent(tracker)
    seeder, *leechers = [await open_page("webtorrent") for _ in range(4)]
    await seed(seeder, torrent)
    for leecher in leechers:
        await leech(leecher, torrent)
    for leecher in leechers:
        assert await downloaded(leecher, torrent) == torrent.content


async def test_a_tab_is_counted_until_it_is_closed(tracker: TrackerProcess, open_page: OpenPage) -> None:
    """A page with only a magnet link is a leecher, after the download a seeder, and gone with its tab."""
    torrent = new_torrent(tracker)
    leecher, seeder = await open_page("webtorrent"), await open_page("webtorrent")
    async with raw_client(tracker.url) as watcher:
        await leech(leecher, torrent)
        await counts_become(watcher, torrent, complete=0, incomplete=1)
        await seed(seeder, torrent)
        assert await downloaded(leecher, torrent) == torrent.content
        await counts_become(watcher, torrent, complete=2, incomplete=0)
        await seeder.close()
        await counts_become(watcher, torrent, complete=1, incomplete=0)
        await leecher.close()
        await counts_become(watcher, torrent, complete=0, incomplete=0)


async def test_the_tracker_restarts(start_tracker: StartTracker, open_page: OpenPage) -> None:
    """Pages get close code 1001 when the tracker stops. Pages that reconnect meet later ones."""
    seeder, leecher = await open_page("webtorrent"), await open_page("webtorrent")
    before = await start_tracker()
    torrent = new_torrent(before)
    await seed(seeder, torrent)
    await seeder.call("reconnectSoon")
    await before.stop()
    assert await seeder.told("closed") == CloseCode.GOING_AWAY
    await start_tracker(port=before.port)
    await leech(leecher, torrent)
    assert await downloaded(leecher, torrent) == torrent.content


async def test_a_page_downloads_from_libtorrent(
    tracker: TrackerProcess, open_page: OpenPage, libtorrent: LibtorrentPeer
) -> None:
    """The seeder is an independent implementation, outside the browser."""
    torrent = await libtorrent.seed("file", os.urandom(300_000), tracker.url)
    leecher = await open_page("webtorrent")
    await leech(leecher, torrent)
    assert await downloaded(leecher, torrent) == torrent.content


async def test_libtorrent_downloads_from_a_page(
    tracker: TrackerProcess, open_page: OpenPage, libtorrent: LibtorrentPeer
) -> None:
    """The leecher is an independent implementation, outside the browser."""
    torrent = new_torrent(tracker)
    await seed(await open_page("webtorrent"), torrent)
    assert await libtorrent.leech(torrent) == torrent.content
