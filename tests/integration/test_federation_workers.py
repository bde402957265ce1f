"""Several workers are one tracker for others: one link, one entry in the DHT, and their peers meet those of others."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from tests.client import HASH, Json, RawClient, answer, eventually, offers, raw_client
from tests.conftest import TrackerProcess
from tests.federated import PATIENCE, Federation, counted, federation, links
from tests.integration.test_dht_tracker import lookup
from tests.integration.workers import processes_of
from tests.unit.fakes import peer_id

INSIDE = 8
"""Peers of the tracker with two workers. With a chance of 1 in 128 each time, all of them are at one worker."""

OUTSIDER = peer_id(99)


@pytest.fixture
async def trackers(tmp_path: Path) -> AsyncIterator[Federation]:
    async with federation(tmp_path) as trackers:
        yield trackers


async def rows(tracker: TrackerProcess) -> list[Json]:
    """Return the nodes of a tracker, as any worker shows them."""
    found: list[Json] = (await tracker.stats())["cluster"]
    return found


async def connect(stack: AsyncExitStack, tracker: TrackerProcess) -> dict[str, RawClient]:
    """Connect peers to a tracker, so that each of its workers has some."""
    for _ in range(5):
        clients = {
            peer_id(number): await stack.enter_async_context(raw_client(tracker.url)) for number in range(INSIDE)
        }

        async def all_counted() -> bool:
            # Other workers tell their numbers once in a second.
            return sum(int(row["connections"]) for row in await rows(tracker)) >= INSIDE

        await eventually(all_counted)
        if all(row["connections"] for row in await rows(tracker)):
            return clients
        await stack.aclose()
    raise AssertionError("all connections are at one worker")


@asynccontextmanager
async def answering(receivers: dict[str, RawClient]) -> AsyncIterator[None]:
    """Let peers answer all offers that they receive."""

    async def reply(receiver_id: str, receiver: RawClient) -> None:
        while True:
            offer = await receiver.receive_until(lambda message: "offer" in message)
            await receiver.send(answer(receiver_id, offer["peer_id"], offer["offer_id"]))

    replying = [asyncio.ensure_future(reply(*receiver)) for receiver in receivers.items()]
    try:
        yield
    finally:
        for task in replying:
            task.cancel()
        await asyncio.gather(*replying, return_exceptions=True)


async def is_answered(maker_id: str, maker: RawClient, by: Iterable[str], start: int) -> None:
    """Have a peer make offers until it has an answer of each of some others."""
    waiting = set(by)
    async with asyncio.timeout(PATIENCE):
        while waiting:
            start += INSIDE
            await maker.announce(maker_id, offers=offers(INSIDE, start=start), numwant=INSIDE)
            await asyncio.sleep(0.2)
            waiting -= {message["peer_id"] for message in await maker.received() if "answer" in message}


async def test_peers_of_all_workers_meet_those_of_another_tracker_and_a_worker_takes_over(
    trackers: Federation,
) -> None:
    one = await trackers.start(workers=2)
    other = await trackers.start()
    await trackers.linked(one, other)
    own_id = trackers.id_of(one)
    async with AsyncExitStack() as stack:
        clients = await connect(stack, one)
        outsider = await stack.enter_async_context(raw_client(other.url))
        await asyncio.gather(*(client.announce(peer) for peer, client in clients.items()))
        await outsider.announce(OUTSIDER)
        for tracker in (one, other):
            await counted(tracker, HASH, complete=0, incomplete=INSIDE + 1)
        async with answering(clients):
            await is_answered(OUTSIDER, outsider, clients, 1000)
        async with answering({OUTSIDER: outsider}):
            makers = [
                is_answered(peer, client, [OUTSIDER], 10_000 * number)
                for number, (peer, client) in enumerate(clients.items(), 1)
            ]
            await asyncio.gather(*makers)
        assert (await links(other)).keys() == {own_id}

        async def is_shown() -> bool:
            return (await links(one)).keys() == {trackers.id_of(other)}

        # All workers show the one link, unless the gateway is too busy to tell them, and answer for the DHT.
        for _ in range(10):
            await eventually(is_shown, PATIENCE)
            status, descriptor = await one.get("/.well-known/peerservers")
            assert (status, own_id in descriptor) == (200, True)
        await published_once(trackers, own_id)

        # The worker at the gateway dies.
        (gateway,) = [row for row in await rows(one) if row["gateway"]]
        gone = processes_of(one)[int(gateway["label"].rpartition("-")[2])]
        os.kill(gone.pid, signal.SIGKILL)
        await one.logged("worker_ended")
        # The one complaint that is right.
        one.log[:] = [line for line in one.log if line["event"] != "worker_ended"]

        async def has_taken_over() -> bool:
            nodes = await rows(one)
            return sum(row["gateway"] for row in nodes) == 1 and all(row["node"] != gateway["node"] for row in nodes)

        await eventually(has_taken_over, PATIENCE)
        await trackers.linked(one, other)
        await counted(other, HASH, complete=0, incomplete=await living(clients) + 1)
        await published_once(trackers, own_id)
        left = [(peer, client) for peer, client in clients.items() if await is_open(client)]
        async with answering({OUTSIDER: outsider}):
            await is_answered(*left[0], [OUTSIDER], 1_000_000)


async def is_open(client: RawClient) -> bool:
    """Return whether a client's connection has not ended with its worker."""
    try:
        await client.ping()
    except ConnectionClosed:
        return False
    return True


async def living(clients: dict[str, RawClient]) -> int:
    """Return the number of clients whose connection is open."""
    return sum([await is_open(client) for client in clients.values()])


async def published_once(trackers: Federation, own_id: str) -> None:
    """Wait until the record of the swarm has one entry of the tracker."""

    async def is_published() -> bool:
        ended = await lookup(trackers.dht, "--json", HASH.encode().hex())
        return ended.out.count(own_id) == 1

    await eventually(is_published, PATIENCE)
