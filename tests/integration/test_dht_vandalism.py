"""Whoever knows an infohash can write to its record. Trackers are found again all the same."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.directory import Directory
from extensions.dht.krpc.client import Client
from extensions.dht.krpc.traversal import CLOSEST
from extensions.dht.records import descriptor
from extensions.dht.records.entry import sign_entry
from extensions.dht.records.keys import day_of
from extensions.dht.records.slots import encode_slot
from extensions.dht.service import Service
from extensions.dht.tracked import REFRESH
from tests.client import eventually
from tests.integration.dht import (
    LOCK,
    RUBBISH,
    Members,
    Vandal,
    client_of,
    forged,
    members_of,
    published,
    seen_by,
    urls_of,
)
from tests.private_dht import PrivateDht

LAST_FREE = LOCK - 1
EMPTY = encode_slot([])


class Network(NamedTuple):
    """Members of a DHT, and it."""

    members: Members
    trackers: list[Service]
    reader: Service
    client: Client
    """The vandal's."""


@pytest.fixture(scope="module")
async def network() -> AsyncIterator[Network]:
    # One for all tests: what they write belongs to different infohashes. With the members' own it has eight nodes, so
    # that all store every record, and the vandal misses none.
    async with PrivateDht(CLOSEST - 3) as dht, members_of(dht) as members, client_of(members) as client:
        yield Network(members, *await members.start_with_reader(2), client)


@asynccontextmanager
async def record_of(
    network: Network, info_hash: bytes, number: int = 2
) -> AsyncIterator[tuple[Members, list[Service], Service, Vandal]]:
    """Trackers that serve an infohash, somebody who looks for them, and the vandal."""
    members, trackers = network.members, network.trackers[:number]
    members.avoid_midnight()
    try:
        for tracker in trackers:
            tracker.directory.swarm(info_hash, peers=5, linked=False)
            await published(tracker, info_hash)
        vandal = Vandal(network.client, info_hash, day_of(members.clock()))
        yield members, trackers, network.reader, vandal
    finally:
        for tracker in trackers:
            tracker.directory.swarm_closed(info_hash)


async def refresh(members: Members, trackers: list[Service]) -> None:
    """Let all trackers refresh their entries: minute by minute, or they would always be in each other's way."""
    before = [sum(tracker.directory.tally.lookups.values()) for tracker in trackers]

    def are_idle() -> bool:
        directories = [tracker.directory for tracker in trackers]
        return not any(one.overdue or any(topic.visit for topic in one._topics.values()) for one in directories)

    minutes = int(REFRESH[1] - REFRESH[0]) // 60
    for step in [REFRESH[0], *[60.0] * minutes]:
        members.advance(step)
        await eventually(are_idle, 30)
    assert all(sum(one.directory.tally.lookups.values()) > count for one, count in zip(trackers, before, strict=True))


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("kind", ["erased", "emptied", "forged", "last_free"])
async def test_after_overwriting_they_are_found_with_the_next_refresh(network: Network, kind: str, slots: int) -> None:
    info_hash = os.urandom(20)
    async with record_of(network, info_hash) as (members, trackers, reader, vandal):
        for slot in range(slots):
            value = {"erased": RUBBISH, "emptied": EMPTY, "forged": forged(info_hash, members.clock())}.get(kind, EMPTY)
            assert (await vandal.write(slot, value, LAST_FREE if kind == "last_free" else None)).taken > 0
        assert await seen_by(reader, info_hash) == {}
        await refresh(members, trackers)
        if kind == "last_free" and slots == 3:
            # As good as locked.
            assert await seen_by(reader, info_hash) == {}
        else:
            assert set(await seen_by(reader, info_hash)) == urls_of(trackers)


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("value", [RUBBISH, EMPTY], ids=["rubbish", "empty"])
async def test_after_locking_they_are_found_in_the_next_slot_or_by_bep5(
    network: Network, slots: int, value: bytes
) -> None:
    info_hash = os.urandom(20)
    async with record_of(network, info_hash) as (members, trackers, reader, vandal), descriptors(trackers):
        for slot in range(slots):
            assert (await vandal.write(slot, value, LOCK)).taken > 0
        assert await seen_by(reader, info_hash) == {}
        await refresh(members, trackers)
        found = await seen_by(reader, info_hash)
        assert set(found) == urls_of(trackers)
        assert {sighting.where for sighting in found.values()} == {"bep5" if slots == 3 else f"r{slots}"}


async def test_nodes_refuse_what_is_too_long(network: Network) -> None:
    info_hash = os.urandom(20)
    async with record_of(network, info_hash) as (_, trackers, reader, vandal):
        for size in (997, 1100, 3000):
            stored = await vandal.write(0, b"x" * size)
            assert stored.taken == 0
        # They do not even answer to the longest, and would not be asked again for a while.
        vandal.client._messenger._shunned.clear()
        assert set(await seen_by(reader, info_hash)) == urls_of(trackers)


async def test_a_mix_of_it_all(network: Network) -> None:
    info_hash = os.urandom(20)
    async with record_of(network, info_hash) as (members, trackers, reader, vandal):
        await vandal.write(0, RUBBISH, LOCK)
        await vandal.write(1, forged(info_hash, members.clock()))
        await refresh(members, trackers)
        found = await seen_by(reader, info_hash)
        assert set(found) == urls_of(trackers)
        assert {sighting.where for sighting in found.values()} == {"r1"}


async def test_valid_entries_of_strangers_keep_nobody_out(network: Network) -> None:
    info_hash = os.urandom(20)
    async with record_of(network, info_hash, number=1) as (members, trackers, reader, vandal):
        crowd = [
            sign_entry(Ed25519PrivateKey.generate(), info_hash, f"wss://{number}.example.org", members.clock())
            for number in range(21)
        ]
        for slot in range(3):
            await vandal.write(slot, encode_slot(crowd[slot * 7 : slot * 7 + 7]))
        assert urls_of(trackers).isdisjoint(await seen_by(reader, info_hash))
        await refresh(members, trackers)
        assert urls_of(trackers) <= set(await seen_by(reader, info_hash))


@asynccontextmanager
async def descriptors(trackers: list[Service]) -> AsyncIterator[None]:
    """Serve the trackers' descriptors where they announce that they do."""
    servers = []
    for tracker in trackers:
        directory = tracker.directory

        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, directory: Directory = directory
        ) -> None:
            await reader.readuntil(b"\r\n\r\n")
            body = descriptor.write(directory._publisher._key, directory._publisher.url, directory._clock())
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
            writer.close()

        servers.append(await asyncio.start_server(serve, "127.0.0.1", 0))
        directory._second_path.port = servers[-1].sockets[0].getsockname()[1]
    try:
        yield
    finally:
        for server in servers:
            server.close()
            await server.wait_closed()
