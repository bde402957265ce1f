"""Trackers that send too much or read nothing: their cost is bounded, and the tracker's own peers are served."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from statistics import median
from time import perf_counter

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.exceptions import ConnectionClosed

from extensions.federation import wire
from tests.client import HASH, RawClient, eventually, offers, raw_client
from tests.conftest import StartTracker, TrackerProcess
from tests.integration.hostile import (
    LINKS,
    A,
    B,
    HostileLink,
    as_json,
    at_least,
    dropped,
    ended,
    equals,
    link_to,
    memory,
    refusal,
    start_target,
)
from tests.unit.fakes import peer_id

STRANGER = peer_id(7)
MIB = 1 << 20


@pytest.fixture
async def target(start_tracker: StartTracker, tmp_path: Path) -> TrackerProcess:
    return await start_target(start_tracker, tmp_path, max_links=10)


def names(number: int) -> Iterator[bytes]:
    """Messages that name so many swarms."""
    for _ in range(0, number, wire.MAX_SWARMS):
        digits = os.urandom(12 * wire.MAX_SWARMS).hex()
        yield wire.encode(wire.Have([(digits[at : at + 24], 0, 1) for at in range(0, len(digits), 24)]))


async def latencies(client: RawClient, enough: asyncio.Event) -> list[float]:
    """Seconds that each of a hundred announces takes, and of more until there were enough."""
    taken: list[float] = []
    while len(taken) < 100 or not enough.is_set():
        began = perf_counter()
        await client.announce(A)
        taken.append(perf_counter() - began)
        await asyncio.sleep(0.001)
    return taken


async def ask_for_refusals(link: HostileLink) -> None:
    """Send offers for which there is no receiver, without end."""
    while True:
        await link.send(link.offers(HASH, A, [f"{number:020}" for number in range(100)], sdp=""))


async def test_a_million_swarms_are_too_many(target: TrackerProcess, local: RawClient) -> None:
    before = memory(target)
    key = Ed25519PrivateKey.generate()
    async with link_to(target.url, key) as link:
        with suppress(ConnectionClosed):
            for message in names(1_000_000):
                await link.send(message)
        assert await link.ended() == "flood"
    assert await refusal(target.url, key) == "not_allowed"
    async with AsyncExitStack() as stack:
        for _ in range(7):
            link = await stack.enter_async_context(link_to(target.url))
            for message in names(90_000):
                await link.send(message)
            await local.announce(A)
        await eventually(lambda: at_least(dropped(target, "too_many_swarms"), 1))
        await eventually(lambda: equals(target.metric(LINKS), 7))
    await eventually(lambda: equals(target.metric(LINKS), 0))
    assert memory(target) - before < 250 * MIB
    # There is room again.
    async with link_to(target.url) as link:
        await link.send(link.have((HASH, 2, 3)))
        await eventually(lambda: _counts(local, (2, 4)))
    await eventually(lambda: _counts(local, (0, 1)))


async def test_messages_without_a_reason_go_nowhere(target: TrackerProcess, local: RawClient) -> None:
    async with link_to(target.url) as link:
        ids = [f"{number:020}" for number in range(100)]
        await link.until(wire.Have)
        await link.send(
            link.offers(HASH, STRANGER, ids),  # Offers of a tracker that says it has no peers there.
            link.answer(HASH, STRANGER, A, ids[0]),
            link.answer(HASH, STRANGER, B, ids[0]),
            as_json(type="refused", swarm=link.name(HASH), peer_id=A, offer_ids=ids),
            as_json(type="have", swarms=[]),
        )
        await eventually(lambda: equals(dropped(target, "not_asked_for"), 202))
        unknown = "u" * 20
        await link.send(link.offers(unknown, STRANGER, ids), link.answer(unknown, STRANGER, A, ids[0]))
        await eventually(lambda: equals(dropped(target, "unknown_swarm"), 2))
        await link.send(link.have((HASH, 0, 1)))
        await link.send(link.offers(HASH, A, ids))
        refused = await link.until(wire.Refused)
        assert (refused.peer_id, refused.offer_ids) == (A, ids), "no peer is given its own offers"
        assert await local.nothing_came()
        assert await target.metric(LINKS) == 1


async def test_100000_offers_do_not_slow_down_local_peers(target: TrackerProcess, local: RawClient) -> None:
    over = asyncio.Event()
    over.set()
    before = median(await latencies(local, over))
    size = memory(target)
    over.clear()

    async def flood() -> None:
        async with link_to(target.url) as link:
            await link.until(wire.Have)
            await link.send(link.have((HASH, 0, 5)))
            for start in range(0, 100_000, 100):
                await link.send(link.offers(HASH, STRANGER, [f"{start + number:020}" for number in range(100)]))
            answered = 0
            while answered < 100_000 - 1000:
                answered += len((await link.until(wire.Refused)).offer_ids)
            assert await target.metric(LINKS) == 1
            assert await dropped(target, "too_fast") > 50_000

    task = asyncio.ensure_future(flood())
    task.add_done_callback(lambda _: over.set())
    during = median(await latencies(local, over))
    await task
    assert during < 100 * before
    assert memory(target) - size < 50 * MIB
    # Only a limited number of them reaches the local peer.
    assert await target.metric("peerservers_responses_total", type="offer") <= 120


async def test_a_link_that_is_never_read_costs_little(target: TrackerProcess, local: RawClient) -> None:
    async with raw_client(target.url) as other:
        await other.announce(B)
        before = memory(target)
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.setblocking(False)
            await asyncio.get_running_loop().sock_connect(slow, (target.host, target.port))
            async with link_to(target.url, sock=slow) as link:
                await link.send(link.have((HASH, 0, 20)))
                await eventually(lambda: _counts(local, (0, 22)))
                link.socket.transport.pause_reading()
                for start in range(0, 1000, 20):
                    await local.announce(A, numwant=20, offers=offers(20, "x" * 10_000, start))
                    await other.announce(B)
                await eventually(lambda: at_least(dropped(target, "slow_link"), 1))
                assert memory(target) - before < 40 * MIB
                # Replies to it wait too, up to a limit.
                flood = asyncio.ensure_future(ask_for_refusals(link))
                await eventually(lambda: equals(ended(target, "stuck"), 1), 30)
                flood.cancel()
                assert memory(target) - before < 60 * MIB
                link.socket.transport.abort()
    await eventually(lambda: _counts(local, (0, 1)))


async def test_ids_without_end_do_not_keep_out_a_tracker_with_a_common_swarm(
    target: TrackerProcess, local: RawClient
) -> None:
    async with AsyncExitStack() as stack:
        sybils = [await stack.enter_async_context(link_to(target.url)) for _ in range(10)]
        honest = await stack.enter_async_context(link_to(target.url))
        assert await sybils[0].ended() == "idle"
        await honest.until(wire.Have)
        await honest.send(honest.have((HASH, 0, 3)))
        await eventually(lambda: _counts(local, (0, 4)))
        for _ in range(15):
            await stack.enter_async_context(link_to(target.url))
        await local.send({"action": "scrape", "info_hash": HASH})
        await honest.is_there()
        assert await _counts(local, (0, 4))
        await honest.send(honest.offers(HASH, STRANGER, ["o" * 20]))
        offered = await local.receive_until(lambda message: "offer" in message)
        assert offered["peer_id"] == STRANGER
        assert await target.metric(LINKS) <= 10


async def _counts(client: RawClient, wanted: tuple[int, int]) -> bool:
    reply = await client.announce(A)
    return (reply["complete"], reply["incomplete"]) == wanted
