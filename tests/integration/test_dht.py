"""Trackers find each other in a private DHT of libtorrent nodes."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from extensions.dht.krpc import bencode
from extensions.dht.krpc.client import Client
from extensions.dht.krpc.messages import Address, Contact, Item
from extensions.dht.krpc.messenger import MAX_IN_FLIGHT
from extensions.dht.krpc.schedule import Job
from extensions.dht.records.keys import DAY, SALTS, day_of, days_to_read, record_key
from extensions.dht.records.slots import decode_slot
from extensions.dht.refresh import REFRESH
from extensions.dht.tracked import RETRY
from extensions.dht.visits import MAX_ERASURES
from extensions.entries import LIFETIME, Rejected
from tests.client import eventually
from tests.integration.dht import Members, Vandal, client_of, members_of, published, seen_by, urls_of
from tests.private_dht import PrivateDht


@pytest.fixture
async def dht() -> AsyncIterator[PrivateDht]:
    async with PrivateDht(12) as dht:
        yield dht


@pytest.fixture
def info_hash() -> bytes:
    return os.urandom(20)


async def test_an_item_stored_by_one_client_is_read_by_another(members: Members, info_hash: bytes) -> None:
    async with client_of(members) as one, client_of(members) as other:
        writer, reader = Vandal(one, info_hash, 1), Vandal(other, info_hash, 1)
        assert (await writer.write(0, b"first")).taken == 8
        assert (await writer.write(0, b"second")).taken == 8
        items: list[Item] = []
        await reader.client.get(writer.key.public_key().public_bytes_raw(), b"r0", Job(), items.append)
        assert {(item.seq, item.value) for item in items} == {(2, b"second")}


async def test_an_item_never_replaces_a_newer_one(members: Members, info_hash: bytes) -> None:
    async with client_of(members) as one, client_of(members) as other:
        slow, quick = Vandal(one, info_hash, 1), Vandal(other, info_hash, 1)
        public_key = slow.key.public_key().public_bytes_raw()
        for _ in range(2):
            found = await slow.client.get(public_key, b"r0", Job(), lambda _: None)
            await quick.write(0, b"quick")
            stored = await slow.client.put(found, slow.key, b"r0", 100, b"slow")
            assert (stored.taken, stored.conflicts) == (0, 8)


async def test_six_trackers_that_publish_at_once_are_all_found_by_a_seventh(members: Members, info_hash: bytes) -> None:
    trackers, seventh = await members.start_with_reader(6)
    for tracker in trackers:
        tracker.directory.swarm(info_hash, peers=1, linked=False)

    async def have_stored(times: int) -> None:
        await eventually(
            lambda: all(
                tracker.directory.counters.publications["stored"] >= times and not tracker.directory.visits
                for tracker in trackers
            ),
            60,
        )

    # Wait for no more than their first visits: a tracker that met a conflict writes once more.
    await have_stored(1)
    if set(await seen_by(seventh, info_hash)) != urls_of(trackers):
        # On a busy machine, a tracker may not notice a conflict until its next refresh.
        members.advance(REFRESH[1])
        await have_stored(2)
    assert set(await seen_by(seventh, info_hash)) == urls_of(trackers)


async def test_more_trackers_than_the_slots_hold_are_found_in_a_shard(members: Members, info_hash: bytes) -> None:
    trackers, reader = await members.start_with_reader(15)
    for tracker in trackers:
        tracker.directory.swarm(info_hash, peers=5, linked=False)
        await published(tracker, info_hash)
    found = await seen_by(reader, info_hash)
    assert set(found) == urls_of(trackers)
    places = Counter(sighting.where for sighting in found.values())
    assert places["r0"] == places["r1"] == 6
    # The others are in the root of the shards, and in the window too.
    assert places["r2"] + places["s"] == 3
    assert sum(tracker.directory.counters.publications["conflict"] for tracker in trackers) == 0
    # A tracker that comes later sees all of them, too.
    late = await members.start("wss://late.example.org")
    late.directory.swarm(info_hash, peers=5, linked=False)
    await published(late, info_hash)
    assert len(late.directory.sightings.known(info_hash)) == 15


async def test_for_peers_that_are_alone_trackers_that_come_later_are_found(members: Members, info_hash: bytes) -> None:
    first, second = await members.start_trackers(2)
    told: list[tuple[bytes, str]] = []
    first.directory.sightings.listeners.append(lambda about, sighting: told.append((about, sighting.entry.url)))
    first.directory.swarm(info_hash, peers=1, linked=False)
    await published(first)
    second.directory.swarm(info_hash, peers=1, linked=False)
    await published(second)
    members.advance(15)
    await eventually(lambda: bool(told))
    assert told == [(info_hash, second.directory.url)]


async def test_a_lookup_is_shared(members: Members, info_hash: bytes) -> None:
    (tracker,), reader = await members.start_with_reader(1)
    tracker.directory.swarm(info_hash, peers=1, linked=False)
    await published(tracker)

    async def look() -> list[str]:
        return [found.entry.url async for found in reader.directory.trackers(info_hash)]

    before = reader.client.counters.queries["get"]
    assert await asyncio.gather(*(look() for _ in range(5))) == [["wss://tracker0.example.org"]] * 5
    once = reader.client.counters.queries["get"] - before
    # Now the result is known.
    assert await look() == ["wss://tracker0.example.org"]
    assert sum(reader.directory.counters.lookups.values()) == 1
    assert reader.client.counters.queries["get"] - before == once


async def test_two_lookups_of_two_infohashes_are_two(members: Members) -> None:
    reader = await members.start()
    await asyncio.gather(seen_by(reader, b"1" * 20), seen_by(reader, b"2" * 20))
    assert reader.directory.counters.lookups["none"] == 2


async def test_entries_are_refreshed_and_end_with_their_swarm(members: Members, info_hash: bytes) -> None:
    (tracker,), reader = await members.start_with_reader(1)
    directory = tracker.directory
    directory.swarm(info_hash, peers=5, linked=False)
    await eventually(lambda: directory.counters.publications["stored"] == 1)
    first = (await seen_by(reader, info_hash))["wss://tracker0.example.org"]

    members.advance(REFRESH[1])
    await eventually(lambda: directory.counters.publications["stored"] == 2)
    second = (await seen_by(reader, info_hash))["wss://tracker0.example.org"]
    assert second.entry.expires >= first.entry.expires + REFRESH[1]

    directory.swarm_closed(info_hash)
    assert directory.published == 0
    members.advance(LIFETIME)
    assert await seen_by(reader, info_hash) == {}
    assert set(reader.directory.counters.rejected) == {Rejected.EXPIRED}


async def test_an_extension_can_withdraw_a_publication(members: Members, info_hash: bytes) -> None:
    (tracker, other), reader = await members.start_with_reader(2)
    for one in (tracker, other):
        one.directory.publish(info_hash)
        await published(one)
    assert set(await seen_by(reader, info_hash)) == urls_of([tracker, other])
    # If it refreshed its own entry meanwhile, it could write the withdrawn one again, which it had just read.
    members.all.remove(other)
    await other.stop()
    tracker.directory.withdraw(info_hash)
    tracked = tracker.directory.tracked

    def is_visited(times: int) -> bool:
        return info_hash not in tracked or tracked[info_hash].failures >= times

    # A visit that finds the entry removes it and looks again: a node that was too busy to answer may still have it.
    for visits in range(1, MAX_ERASURES):
        await eventually(partial(is_visited, visits))
        members.advance(RETRY[1] * 2**visits)
    await eventually(lambda: not tracked)
    # A reader may still see it, in an older value that a busy node has kept.
    async with client_of(members) as client:
        key = record_key(info_hash, day_of(members.clock())).public_key().public_bytes_raw()
        items: list[Item] = []
        await client.get(key, SALTS[0], Job(), items.append)
    newest = max(items, key=lambda item: item.seq)
    entries, _ = decode_slot(newest.value, SALTS[0], info_hash, members.clock(), Counter())
    assert {entry.url for entry in entries} == urls_of([other])


async def test_yesterdays_record_is_read_for_two_hours(members: Members, info_hash: bytes) -> None:
    reader = await members.start()
    midnight = (day_of(members.clock()) + 1) * DAY
    members.advance(midnight - members.clock() - 60)
    tracker, *_ = await members.start_trackers(1)
    tracker.directory.swarm(info_hash, peers=5, linked=True)
    await published(tracker)
    members.advance(120)
    assert set(await seen_by(reader, info_hash)) == urls_of([tracker])
    # It was read from both, and the tracker moves to the new day with its next refresh.
    members.advance(REFRESH[1])
    await eventually(lambda: tracker.directory.counters.publications["stored"] == 2)
    members.advance(LIFETIME - REFRESH[1])
    assert days_to_read(members.clock()) == [day_of(midnight)]
    assert set(await seen_by(reader, info_hash)) == urls_of([tracker])


async def test_only_the_largest_and_newest_are_published(members: Members) -> None:
    tracker, *_ = await members.start_trackers(1, max_published=2)
    for number, peers in ((1, 1), (2, 50), (3, 1), (4, 1)):
        tracker.directory.swarm(bytes([number]) * 20, peers, linked=False)
    await eventually(lambda: tracker.directory.published == 2)
    assert tracker.directory.publish_set.left_out == 2
    await eventually(lambda: sum(tracker.directory.counters.lookups.values()) == 4)
    assert [bytes([number]) * 20 in tracker.directory.publish_set for number in (1, 2, 3, 4)] == [
        False,
        True,
        False,
        True,
    ]


@pytest.mark.parametrize(("policy", "published"), [("all", {1, 2}), ("listed", {1}), ("none", set())])
async def test_the_policy_says_what_is_published(members: Members, policy: str, published: set[int]) -> None:
    hashes = {number: os.urandom(20) for number in (1, 2)}
    tracker, *_ = await members.start_trackers(1, publish=policy, listed=[hashes[1].hex()])
    for info_hash in hashes.values():
        tracker.directory.swarm(info_hash, peers=1, linked=False)
    await eventually(lambda: tracker.directory.published == len(published))
    await eventually(lambda: sum(tracker.directory.counters.lookups.values()) == 2)
    reader = await members.start()
    assert {number for number, info_hash in hashes.items() if await seen_by(reader, info_hash)} == published


async def test_with_a_third_of_the_nodes_dead(info_hash: bytes) -> None:
    async with PrivateDht(15) as dht, members_of(dht) as members:
        (tracker,), reader = await members.start_with_reader(1)
        await dht.kill(5)
        tracker.directory.swarm(info_hash, peers=1, linked=False)
        await published(tracker)
        assert set(await seen_by(reader, info_hash)) == urls_of([tracker])
        # It did query dead nodes, and went on without them.
        await eventually(lambda: tracker.client.counters.timeouts > 0)


async def test_trackers_found_are_known_after_a_restart(members: Members, info_hash: bytes, tmp_path: Path) -> None:
    tracker, *_ = await members.start_trackers(1)
    tracker.directory.swarm(info_hash, peers=1, linked=False)
    await published(tracker)
    reader = await members.start(state_dir=tmp_path)
    assert set(await seen_by(reader, info_hash)) == urls_of([tracker])
    node_ids = reader.node.ids
    address = reader.node.addresses[0]
    await reader.stop()
    members.all.remove(reader)

    again = await members.start(state_dir=tmp_path, listen=f"127.0.0.1:{address[1]}")
    assert again.node.ids == node_ids
    sightings = [found async for found in again.directory.trackers(info_hash)]
    assert [found.where for found in sightings] == ["cache"]
    # The last lookup is recent, so this one took not a single query.
    assert again.client.counters.queries["get"] == 0


async def test_a_node_restored_from_its_state_needs_no_bootstrap_node(members: Members, tmp_path: Path) -> None:
    first = await members.start(state_dir=tmp_path)
    await first.stop()
    members.all.remove(first)
    again = await members.start(state_dir=tmp_path, bootstrap=[])
    assert again.node.has_contacts


async def test_in_ipv6(info_hash: bytes) -> None:
    async with PrivateDht(6, host="::1") as dht, members_of(dht) as members:
        tracker, *_ = await members.start_trackers(1, listen="[::1]:0,127.0.0.1:0")
        reader = await members.start(listen="[::1]:0")
        tracker.directory.swarm(info_hash, peers=1, linked=False)
        await published(tracker)
        assert set(await seen_by(reader, info_hash)) == urls_of([tracker])


async def test_an_unreachable_dht_is_no_error(members: Members, info_hash: bytes) -> None:
    members.dht = PrivateDht(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await members.start("wss://tracker.example.org", bootstrap=["127.0.0.1:9"])
    directory = members.all[0].directory
    directory.swarm(info_hash, peers=1, linked=False)
    assert [found async for found in directory.trackers(info_hash)] == []
    assert directory.counters.lookups == {"unreachable": 1}


class Node(asyncio.DatagramProtocol):
    """A node that records when packets arrive, and answers as one that knows no other node."""

    def __init__(self, node_id: bytes) -> None:
        self.node_id = node_id
        self.times: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: Address) -> None:
        self.times.append(asyncio.get_running_loop().time())
        transaction = bencode.decode(data)[b"t"]
        self.transport.sendto(bencode.encode({b"r": {b"id": self.node_id}, b"t": transaction, b"y": b"r"}), address)


async def test_no_node_is_sent_more_packets_than_allowed() -> None:
    loop = asyncio.get_running_loop()
    nodes = []
    for _ in range(12):
        _, node = await loop.create_datagram_endpoint(lambda: Node(os.urandom(20)), ("127.0.0.1", 0))
        nodes.append(node)
    contacts = [Contact(node.node_id, node.transport.get_extra_info("sockname")) for node in nodes]
    client = Client(lambda _family: contacts, private=True, node_rate=4)
    await client.start(["127.0.0.1"])
    key = record_key(b"p" * 20, 1).public_key().public_bytes_raw()
    lookups = asyncio.gather(*(client.get(key, bytes([salt]), Job(), lambda _: None) for salt in range(10)))
    while not lookups.done():
        assert client.in_flight <= MAX_IN_FLIGHT
        await asyncio.sleep(0.001)
    client.close()
    assert client.counters.delayed > 0
    assert sum(len(node.times) for node in nodes) == client.counters.queries["get"]
    for node in nodes:
        node.transport.close()
        # A timer may be a little late, and the next one not.
        assert all(later - earlier > 0.9 for earlier, later in zip(node.times, node.times[4:], strict=False))
