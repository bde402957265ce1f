"""Peers of several workers, which the extension `cluster` makes one tracker."""

import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.client import HASH, RawClient, answer, eventually, offers, raw_client
from tests.conftest import StartTracker, TrackerProcess, environment
from tests.integration.workers import processes_of
from tests.unit.fakes import peer_id

PEERS = 12
"""Of so many peers, all are on one of two workers once in two thousand times."""


async def start(start_tracker: StartTracker, directory: Path, group_swarms: bool = False) -> TrackerProcess:
    env = environment("server", state_dir=str(directory), restart_spread=0.5, group_swarms=group_swarms)
    return await start_tracker("--workers", "2", env=env | environment("server", swarm_counts=True))


@asynccontextmanager
async def connected(tracker: TrackerProcess) -> AsyncIterator[list[RawClient]]:
    """Connect clients, each with a peer in one swarm, which has its place in the list as its number."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(raw_client(tracker.url)) for _ in range(PEERS)]
        for number, client in enumerate(clients):
            await client.announce(peer_id(number))
        yield clients


async def all_count_all(clients: list[RawClient]) -> bool:
    replies = [await client.announce(peer_id(number)) for number, client in enumerate(clients)]
    return all(reply["incomplete"] == PEERS for reply in replies)


async def check_meetings(clients: list[RawClient]) -> None:
    """Check that the offers of a peer reach each other one, and that each answer comes back."""
    await eventually(lambda: all_count_all(clients))
    first, *others = clients
    await first.announce(peer_id(0), offers=offers(PEERS - 1), numwant=PEERS - 1)
    for number, client in enumerate(others, 1):
        offer = await client.receive_until(lambda message: "offer" in message)
        await client.send(answer(peer_id(number), peer_id(0), offer["offer_id"]))
    answers = [await first.receive_until(lambda message: "answer" in message) for _ in others]
    assert {message["peer_id"] for message in answers} == {peer_id(number) for number in range(1, PEERS)}


@pytest.mark.parametrize("group_swarms", [False, True])
async def test_peers_of_all_workers_meet(start_tracker: StartTracker, tmp_path: Path, group_swarms: bool) -> None:
    tracker = await start(start_tracker, tmp_path, group_swarms)
    async with connected(tracker) as clients:
        await check_meetings(clients)
        await eventually(lambda: all_are_shown(tracker))
        handed = await tracker.metric("peerservers_connections_handed_total", direction="in")
        assert bool(handed) is group_swarms


@pytest.mark.parametrize("group_swarms", [False, True])
async def test_every_worker_knows_the_counts_of_all(
    start_tracker: StartTracker, tmp_path: Path, group_swarms: bool
) -> None:
    tracker = await start(start_tracker, tmp_path, group_swarms)

    async def scraped() -> bool:
        async with raw_client(tracker.url) as client:
            await client.send({"action": "scrape", "info_hash": [HASH, "x" * 20]})
            reply = await client.receive()
        assert reply["files"]["x" * 20]["incomplete"] == 0
        return bool(reply["files"][HASH]["incomplete"] == 1)

    async def shown() -> bool:
        status, body = await tracker.get(f"/swarms/{HASH.encode().hex()}.json")
        return status == 200 and json.loads(body)["local"] == {"seeders": 0, "leechers": 1}

    async with raw_client(tracker.url) as client:
        await client.announce(peer_id(0))
        await eventually(lambda: always(scraped))
        await eventually(lambda: always(shown))


async def always(is_so: Callable[[], Awaitable[bool]]) -> bool:
    """Return whether something is so at all workers: each connection may be at either of them."""
    return all([await is_so() for _ in range(PEERS)])


async def all_are_shown(tracker: TrackerProcess) -> bool:
    """Return whether all workers have answered in time, and the swarm counts once."""
    is_complete = await tracker.metric("peerservers_workers_missing") == 0
    stats = await tracker.stats()
    connections = await tracker.metric("peerservers_connections")
    return is_complete and connections == PEERS and (stats["torrents"], stats["peersAll"]) == (1, PEERS)


async def test_peers_meet_again_after_a_rolling_restart(start_tracker: StartTracker, tmp_path: Path) -> None:
    tracker = await start(start_tracker, tmp_path)
    async with connected(tracker) as clients:
        tracker.tell(signal.SIGUSR2)
        assert {await client.closed() for client in clients} == {(1012, "restart")}
    await tracker.logged("restarted")
    async with connected(tracker) as clients:
        await check_meetings(clients)


async def test_peers_meet_again_after_the_death_of_a_worker(start_tracker: StartTracker, tmp_path: Path) -> None:
    tracker = await start(start_tracker, tmp_path)
    async with connected(tracker) as clients:
        await eventually(lambda: all_count_all(clients))
        os.kill(processes_of(tracker)[0].pid, signal.SIGKILL)
        (await tracker.logged("worker_ended"))["level"] = "expected"
        for client in clients:
            client.socket.transport.abort()
    await tracker.logged("worker_started")
    async with connected(tracker) as clients:
        await check_meetings(clients)
