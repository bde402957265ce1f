"""libtorrent sessions that share nothing but the tracker transfer files over WebRTC."""

import asyncio
import random
import time
from pathlib import Path

from extensions.tokens.token import make_token
from tests.client import eventually
from tests.conftest import StartTracker, TrackerProcess, environment
from tests.e2e.conftest import Pair
from tests.e2e.lt import LibtorrentPeer, Torrent
from tracker.web.announces import INTERVAL, REASON

FILE = random.Random(1).randbytes(1_000_000)
SECRET = "a secret of an operator"


async def test_leecher_finds_seeder(tracker: TrackerProcess, pair: Pair) -> None:
    seeder, leecher = pair
    torrent = await seeder.seed("one", FILE, tracker.url)
    assert await leecher.leech(torrent) == FILE


async def test_seeder_finds_waiting_leecher(tracker: TrackerProcess, pair: Pair) -> None:
    seeder, leecher = pair
    torrent = Torrent("one", FILE, tracker.url)
    answered = leecher.answered(torrent)
    leeching = asyncio.create_task(leecher.leech(torrent))
    await answered
    await seeder.seed(torrent.name, torrent.content, tracker.url)
    assert await leeching == FILE


async def test_two_torrents_over_one_socket(tracker: TrackerProcess, pair: Pair) -> None:
    seeder, leecher = pair
    contents = FILE[:500_000], FILE[500_000:]
    torrents = [await seeder.seed(f"part {n}", content, tracker.url) for n, content in enumerate(contents)]
    assert await asyncio.gather(*map(leecher.leech, torrents)) == list(contents)
    assert await tracker.metric("peerservers_connections") == 2


async def test_a_client_that_announces_over_http_is_told_so_and_stays_away(tracker: TrackerProcess, pair: Pair) -> None:
    url = tracker.url.replace("ws://", "http://") + "announce"
    reason, seconds = await pair[0].told_off(Torrent("one", FILE, url))
    assert reason == REASON
    assert seconds > INTERVAL / 2


async def test_a_peer_with_many_torrents_over_the_limits_of_its_address(
    start_tracker: StartTracker, tmp_path: Path
) -> None:
    tracker = await start_tracker(env=environment("limits", announces_per_second=5, exempt=[]))
    # With more offers, each torrent would take several sockets.
    async with LibtorrentPeer(tmp_path, num_want=1) as peer:
        peer.announce_many(tracker.url, 1500)

        async def all_are_members() -> bool:
            return await tracker.metric("peerservers_peers", role="leecher") == 1500

        await eventually(all_are_members)
        assert await tracker.metric("peerservers_connections") == 1
        # Its announces are still answered, so that libtorrent makes further ones.
        torrent = await peer.seed("one more", FILE, tracker.url)
        await peer.announce_again(torrent)
        assert await tracker.metric("peerservers_connections_closed_total", reason="garbage") == 0
    assert await tracker.metric("peerservers_dropped_total", reason="too_many_announces") > 0


async def test_peers_meet_again_after_the_tracker_was_restarted(start_tracker: StartTracker, pair: Pair) -> None:
    seeder, leecher = pair
    tracker = await start_tracker()
    torrent = await seeder.seed("one", FILE, tracker.url)
    assert await leecher.leech(torrent) == FILE

    await tracker.stop()
    await start_tracker(port=tracker.port)
    await leecher.forget(torrent)
    # Without this, the seeder returns with its next announce, two minutes later.
    await seeder.announce_again(torrent)
    assert await leecher.leech(torrent) == FILE


async def test_peers_with_tokens_in_their_urls_meet(start_tracker: StartTracker, pair: Pair) -> None:
    seeder, leecher = pair
    tracker = await start_tracker(env=environment("extensions.tokens", enabled=True, secrets=[SECRET]))
    expires = int(time.time()) + 3600
    torrent = await seeder.seed("one", FILE, tracker.url + make_token(SECRET, expires))
    scoped = make_token(SECRET, expires, torrent.info_hash)
    assert await leecher.leech(Torrent("one", FILE, f"{tracker.url}announce?token={scoped}")) == FILE
    assert await tracker.metric("peerservers_tokens_total", result="valid") >= 2
