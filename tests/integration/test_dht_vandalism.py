"""Anyone who knows an infohash can write to its record. Trackers are found again nevertheless."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc.traversal import CLOSEST
from extensions.dht.records import descriptor
from extensions.dht.records.keys import MAX_DEPTH, SALTS, day_of, shard_path, shard_salt
from extensions.dht.records.slots import encode_slot
from extensions.dht.refresh import REFRESH
from extensions.dht.service import Service
from extensions.entries import sign_entry
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


class DescriptorServer:
    """Serves the descriptor of a tracker, once it is allowed to."""

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.url = url
        self.may_serve = False
        self._clock = clock

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Listen no more."""
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if self.may_serve:
                await reader.readuntil(b"\r\n\r\n")
                body = descriptor.write(sign_entry(self.key, b"", self.url, self._clock()))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        writer.close()


class Network(NamedTuple):
    """A private DHT with its members."""

    members: Members
    trackers: list[Service]
    servers: list[DescriptorServer]
    reader: Service


@pytest.fixture(scope="module")
async def network() -> AsyncIterator[Network]:
    # One network for all tests, as they write records of different infohashes. With those of the members it has eight
    # nodes, so that all of them store every record, and the attacker reaches them all.
    async with PrivateDht(CLOSEST - 3) as dht, members_of(dht) as members:
        servers = [DescriptorServer(f"wss://tracker{number}.example.org", members.clock) for number in range(2)]
        for server in servers:
            await server.start()
        reader, *trackers = await asyncio.gather(
            members.start(), *(members.start(one.url, key=one.key, announce_port=one.port) for one in servers)
        )
        yield Network(members, trackers, servers, reader)
        for server in servers:
            await server.stop()


@asynccontextmanager
async def descriptors_of(network: Network) -> AsyncIterator[None]:
    """Serve the descriptors of all trackers."""
    for server in network.servers:
        server.may_serve = True
    try:
        yield
    finally:
        for server in network.servers:
            server.may_serve = False


@asynccontextmanager
async def record_of(
    network: Network, info_hash: bytes, number: int = 2
) -> AsyncIterator[tuple[Members, list[Service], Service, Vandal]]:
    """Provide trackers that serve an infohash, a member that looks for them, and the attacker."""
    members, trackers = network.members, network.trackers[:number]
    members.avoid_midnight()
    try:
        for tracker in trackers:
            tracker.directory.swarm(info_hash, peers=5, linked=False)
            await published(tracker, info_hash)
        # Its own client for each: it would avoid nodes that have refused the invalid values of another test.
        async with client_of(members) as client:
            yield members, trackers, network.reader, Vandal(client, info_hash, day_of(members.clock()))
    finally:
        for tracker in trackers:
            tracker.directory.swarm_closed(info_hash)


async def refresh(members: Members, trackers: list[Service]) -> None:
    """Let all trackers refresh their entries, minute by minute: all at once, their writes would conflict."""
    before = [sum(tracker.directory.counters.lookups.values()) for tracker in trackers]

    def are_idle() -> bool:
        directories = [tracker.directory for tracker in trackers]
        return not any(one.overdue or one.visits for one in directories)

    minutes = int(REFRESH[1] - REFRESH[0]) // 60
    for step in [REFRESH[0], *[60.0] * minutes]:
        members.advance(step)
        await eventually(are_idle, 30)
    assert all(
        sum(one.directory.counters.lookups.values()) > count for one, count in zip(trackers, before, strict=True)
    )


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
        assert set(await seen_by(reader, info_hash)) == urls_of(trackers)


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("value", [RUBBISH, EMPTY], ids=["rubbish", "empty"])
async def test_after_locking_they_are_found_in_the_next_slot_or_in_a_shard(
    network: Network, slots: int, value: bytes
) -> None:
    info_hash = os.urandom(20)
    async with record_of(network, info_hash) as (members, trackers, reader, vandal), descriptors_of(network):
        for slot in range(slots):
            assert (await vandal.write(slot, value, LOCK)).taken > 0
        assert await seen_by(reader, info_hash) == {}
        await refresh(members, trackers)
        found = await seen_by(reader, info_hash)
        assert set(found) == urls_of(trackers)
        # In the window and in the shard there are both of them.
        assert {sighting.where for sighting in found.values()} <= ({"r1"} if slots == 1 else {"r2", "s"})


async def test_after_locking_all_slots_and_shards_they_are_found_by_bep5(network: Network) -> None:
    info_hash = os.urandom(20)
    async with record_of(network, info_hash) as (members, trackers, reader, vandal), descriptors_of(network):
        for slot in range(3):
            await vandal.write(slot, RUBBISH, LOCK)
        paths = [shard_path(info_hash, one.directory.sightings.own_id) for one in trackers]
        # Their search for a place doubles its steps.
        for salt in {shard_salt(path[:depth]) for path in paths for depth in (0, 1, 3, 7, 15, MAX_DEPTH)}:
            await vandal.write(salt, RUBBISH, LOCK)
        assert await seen_by(reader, info_hash) == {}
        await refresh(members, trackers)
        found = await seen_by(reader, info_hash)
        assert set(found) == urls_of(trackers)
        assert {sighting.where for sighting in found.values()} == {"bep5"}


async def test_valid_entries_in_all_shards_keep_no_tracker_out(network: Network) -> None:
    info_hash = os.urandom(20)
    async with record_of(network, info_hash, number=1) as (members, trackers, reader, vandal):
        for slot in (*SALTS, b"s"):
            value = encode_slot(
                sign_entry(Ed25519PrivateKey.generate(), info_hash, f"wss://{n}.example.org", members.clock())
                for n in range(7)
            )
            await vandal.write(slot if slot == b"s" else SALTS.index(slot), value)
        assert urls_of(trackers).isdisjoint(await seen_by(reader, info_hash))
        await refresh(members, trackers)
        found = await seen_by(reader, info_hash)
        assert urls_of(trackers) <= set(found)
        assert found[trackers[0].directory.url].where in ("r2", "s0", "s1")


async def test_nodes_refuse_values_that_are_too_long(network: Network) -> None:
    info_hash = os.urandom(20)
    async with record_of(network, info_hash) as (_, trackers, reader, vandal):
        for size in (997, 1100, 3000):
            stored = await vandal.write(0, b"x" * size)
            assert stored.taken == 0
        # They do not even answer the longest, and without this they would not be queried again for a while.
        vandal.client.forget_timeouts()
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


async def test_valid_entries_of_strangers_keep_no_tracker_out(network: Network) -> None:
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
