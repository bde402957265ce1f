"""Trackers that send too much or read nothing: their cost is bounded, and the tracker's own peers are served."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from statistics import median
from time import perf_counter

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.exceptions import ConnectionClosed

from extensions.federation import mesh as mesh_module
from extensions.federation import wire
from extensions.federation.filters import MAX_BYTES, MAX_PARTS
from tests.client import HASH, RawClient, eventually, offers, raw_client
from tests.conftest import StartTracker, TrackerProcess
from tests.integration.conftest import Federate
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


def names(_link: HostileLink, number: int) -> Iterator[bytes]:
    """Messages with the numbers of so many swarms that do not exist."""
    for _ in range(0, number, wire.MAX_SWARMS):
        digits = os.urandom(wire.MAX_SWARMS * wire.NAME_LENGTH // 2).hex()
        rows = [digits[at : at + wire.NAME_LENGTH] for at in range(0, len(digits), wire.NAME_LENGTH)]
        yield wire.encode(wire.Have([(name, 0, 1) for name in rows]))


def forged(link: HostileLink, number: int) -> Iterator[bytes]:
    """Messages with the tag of an open swarm and wrong proofs."""
    tag = link.name(HASH)[: wire.TAG_LENGTH]
    for _ in range(0, number, wire.MAX_SWARMS):
        yield wire.encode(wire.Have([(tag + os.urandom(8).hex(), 0, 1) for _ in range(wire.MAX_SWARMS)]))


def toggled(link: HostileLink, number: int) -> Iterator[bytes]:
    """Messages that an open swarm has a peer and has none, again and again."""
    for _ in range(0, number, wire.MAX_SWARMS):
        yield link.have(*[(HASH, 0, 1), (HASH, 0, 0)] * (wire.MAX_SWARMS // 2))


def tags(link: HostileLink, number: int) -> Iterator[bytes]:
    """Messages that so many swarms have opened: one that is open, and others."""
    for _ in range(0, number, wire.MAX_TAGS):
        yield link.opened(HASH)[:-2] + os.urandom(8 * (wire.MAX_TAGS - 1)).hex().encode() + b'"}'


def filters(number: int, length: int, parts: int = 1) -> Iterator[bytes]:
    """Random filters that have about half of their bits set."""
    for _ in range(number):
        for part in range(parts):
            yield wire.encode(wire.Filter(part, parts, os.urandom(length)))


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


@pytest.mark.parametrize("flood", [names, forged, toggled, tags])
async def test_a_million_swarms_are_too_many(
    target: TrackerProcess, local: RawClient, flood: Callable[[HostileLink, int], Iterator[bytes]]
) -> None:
    before = memory(target)
    key = Ed25519PrivateKey.generate()
    async with link_to(target.url, key) as link:
        reading = asyncio.ensure_future(link.ended())
        with suppress(ConnectionClosed):
            for message in flood(link, 1_000_000):
                await link.send(message)
                await asyncio.sleep(0)
        assert await reading == "flood"
    assert await refusal(target.url, key) == "not_allowed"
    await eventually(lambda: equals(target.metric(LINKS), 0))
    assert memory(target) - before < 50 * MIB
    await eventually(lambda: _counts(local, (0, 1)))


async def test_filters_without_end_are_too_many(target: TrackerProcess, local: RawClient) -> None:
    for parts in (1, 64):
        key = Ed25519PrivateKey.generate()
        async with link_to(target.url, key) as link:
            with suppress(ConnectionClosed):
                for message in filters(10, 100, parts):
                    await link.send(message)
            assert await link.ended() == "flood"
        assert await refusal(target.url, key) == "not_allowed"
    await eventually(lambda: _counts(local, (0, 1)))


async def test_the_largest_filters_of_all_links_are_bounded(target: TrackerProcess, local: RawClient) -> None:
    before = memory(target)
    async with AsyncExitStack() as stack:
        for _ in range(9):
            link = await stack.enter_async_context(link_to(target.url))
            for message in filters(1, MAX_BYTES, MAX_PARTS):
                await link.send(message)
            await link.is_there()
            await local.announce(A)
        await eventually(lambda: equals(target.metric(LINKS), 9))
        assert memory(target) - before < 9 * 6 * MIB
        # They harm no other links.
        honest = await stack.enter_async_context(link_to(target.url))
        await honest.send(honest.opened(HASH))
        await honest.until(wire.Have)
        await honest.send(honest.have((HASH, 2, 3)))
        await eventually(lambda: _counts(local, (2, 4)))
    await eventually(lambda: _counts(local, (0, 1)))


async def test_filters_beyond_the_memory_for_them_are_ignored(
    federate: Federate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh_module, "MAX_FILTERS", 400)
    tracker = await federate(max_links=10)
    async with AsyncExitStack() as stack:
        local = await stack.enter_async_context(raw_client(tracker.url))
        await local.announce(A)
        links = [await stack.enter_async_context(link_to(tracker.url)) for _ in range(4)]
        for link in links:
            await link.send(*filters(1, 100))
            await link.is_there()
        ends = tracker.extension("federation").links
        assert [one.dropped["too_many_swarms"] for one in ends] == [0, 0, 1, 1]
        # Its swarms are noticed nevertheless.
        await links[3].send(links[3].opened(HASH))
        await links[3].until(wire.Have)
        await links[0].socket.close()
        await eventually(lambda: len(tracker.extension("federation").links) == 3)
        await links[3].send(*filters(1, 100))
        await links[3].is_there()
        assert tracker.extension("federation").dropped["too_many_swarms"] == 2, "there is room again"


async def test_a_filter_tells_numbers_of_few_swarms_that_its_sender_does_not_know(
    target: TrackerProcess, local: RawClient
) -> None:
    swarms = 1000
    for number in range(swarms):
        await local.announce(A, f"{number:020}")
    async with link_to(target.url) as link:
        own = link.name(HASH)[: wire.TAG_LENGTH]
        (message,) = filters(1, 4 * swarms)
        told: list[str] = []
        for _ in range(3):
            await link.send(message)
            await link.send(link.have((HASH, 0, 1), (HASH, 0, 0)))
            names_told = [""]
            while names_told[0][: wire.TAG_LENGTH] != own:
                names_told = [name for name, *_ in (await link.until(wire.Have)).swarms]
                told += names_told
            told.pop()
        assert len(set(told)) == len(told), "each is told once"
        assert 0 < len(told) < 0.05 * swarms


async def test_messages_without_a_reason_go_nowhere(target: TrackerProcess, local: RawClient) -> None:
    async with link_to(target.url) as link:
        ids = [f"{number:020}" for number in range(100)]
        await link.send(link.opened(HASH))
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
        assert (refused.peer_id, refused.offer_ids) == (STRANGER, ids), "of a swarm that is not common"
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
        await honest.send(honest.have((HASH, 0, 3)))
        await honest.until(wire.Have)
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
