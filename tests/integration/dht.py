"""Members of a private DHT, and somebody who means them ill."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import bencodepy
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc.client import PARALLEL, Client, Stored
from extensions.dht.krpc.messages import Address, Contact, Item
from extensions.dht.krpc.pacing import Queue
from extensions.dht.records import record
from extensions.dht.records.entry import sign_entry
from extensions.dht.records.keys import DAY, SALTS, announce_hash, days_to_read, record_key
from extensions.dht.service import Service
from extensions.dht.settings import DhtSettings
from extensions.trackers import Sighting
from tests.client import PATIENCE, eventually
from tests.conftest import TrackerProcess
from tests.private_dht import PrivateDht

LOCK = 2**63 - 1
"""The greatest sequence number that there is: nobody can write after it."""

RUBBISH = b"rubbish"


class Clock:
    """The time of day, which tests can set back too, and one that only goes on."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.passed = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead + self.passed

    def monotonic(self) -> float:
        return time.monotonic() + self.passed


class Members:
    """Starts members of a DHT, and stops them at the end."""

    def __init__(self, dht: PrivateDht) -> None:
        self.dht = dht
        self.clock = Clock()
        self.avoid_midnight()
        self.all: list[Service] = []

    async def start(self, url: str = "", state_dir: Path | None = None, **settings: Any) -> Service:
        """One that publishes `url`, or only looks."""
        service = Service(
            DhtSettings(**self.dht.settings | settings),
            Ed25519PrivateKey.generate(),
            url,
            state_dir,
            self.clock,
            node_rate=1000,
            monotonic=self.clock.monotonic,
        )
        _lift(service.client)
        self.all.append(service)
        await service.start()
        async with asyncio.timeout(PATIENCE):
            await service.reachable.wait()
        return service

    def advance(self, seconds: float) -> None:
        """Let so much time pass."""
        self.clock.passed += seconds
        for service in self.all:
            # Who sleeps until something is due would not notice.
            service.directory.wake()

    def avoid_midnight(self) -> None:
        """Set the time of day so that there is only one day's record to read for some hours."""
        morning = 6 * 3600
        if not morning <= self.clock() % DAY <= 3 * morning:
            self.clock.ahead += (morning - self.clock()) % DAY

    async def start_trackers(self, number: int, **settings: Any) -> list[Service]:
        """Some that publish URLs of their own."""
        urls = [f"wss://tracker{number}.example.org" for number in range(number)]
        return await asyncio.gather(*(self.start(url, **settings) for url in urls))

    async def start_with_reader(self, number: int, **settings: Any) -> tuple[list[Service], Service]:
        """The same, and one that only looks."""
        return await asyncio.gather(self.start_trackers(number, **settings), self.start())

    async def stop(self) -> None:
        """Stop them all."""
        await asyncio.gather(*(service.stop() for service in self.all))


def _lift(client: Client) -> None:
    """Let a client begin as many lookups in a second as it likes: tests do nothing else."""
    client.queue = Queue(PARALLEL, 1000.0, 1000.0)


@asynccontextmanager
async def members_of(dht: PrivateDht) -> AsyncIterator[Members]:
    """Members that are stopped at the end."""
    members = Members(dht)
    try:
        yield members
    finally:
        await members.stop()


async def seen_by(service: Service, info_hash: bytes, thorough: bool = False) -> dict[str, Sighting]:
    """What one new lookup finds: sightings by URL."""
    service.directory._known.pop(info_hash, None)
    topic = service.directory._topics.pop(info_hash, None)
    if topic and topic.visit:
        await topic.visit
    return {found.entry.url: found async for found in service.directory.trackers(info_hash, thorough)}


async def published(service: Service, info_hash: bytes | None = None) -> None:
    """Wait until it has published this, or anything."""
    own = service.directory._own
    await eventually(lambda: info_hash in own if info_hash else bool(own), 20)


async def publishes(tracker: TrackerProcess, number: int) -> None:
    """Wait until a tracker in a process of its own is found for so many infohashes."""

    async def is_so() -> bool:
        return await tracker.metric("peerservers_dht_published") == number

    await eventually(is_so, 20)


def urls_of(services: Iterable[Service]) -> set[str]:
    """What they publish."""
    return {service.directory._publisher.url for service in services}


@asynccontextmanager
async def client_of(members: Members) -> AsyncIterator[Client]:
    """A client that knows all nodes. They may take it for one of them, and miss it for a while when it is gone."""

    def contacts(family: int) -> list[Contact]:
        own = [Contact(service.node.ids[0], service.node.addresses[0]) for service in members.all]
        return [*members.dht.contacts(), *own] if family == 4 else []

    async with client_that_knows(contacts) as client:
        yield client


@asynccontextmanager
async def client_that_knows(contacts: Callable[[int], list[Contact]]) -> AsyncIterator[Client]:
    """A client that begins with the nodes of an address family."""
    client = Client(contacts, private=True, node_rate=1000)
    _lift(client)
    await client.start(["127.0.0.1"])
    try:
        yield client
    finally:
        client.close()


class Vandal:
    """Knows an infohash, and so has the key of its record as everybody has."""

    def __init__(self, client: Client, info_hash: bytes, day: int) -> None:
        self.key = record_key(info_hash, day)
        self.client = client

    async def write(self, slot: int, value: bytes, seq: int | None = None) -> Stored:
        """Put a value into a slot, with the next sequence number if none is given."""
        items: list[Item] = []
        public_key = self.key.public_key().public_bytes_raw()
        found = await self.client.get(public_key, SALTS[slot], 0, items.append)
        next_seq = max((item.seq for item in items), default=0) + 1
        return await self.client.put(found, self.key, SALTS[slot], seq or next_seq, value)


def forged(info_hash: bytes, now: float, tracker_ids: Iterable[bytes] = ()) -> bytes:
    """A record full of entries that nobody signed; of trackers that there are not, unless some are named."""
    key = Ed25519PrivateKey.generate()
    table = []
    for number, tracker_id in enumerate(tracker_ids or [os.urandom(32) for _ in range(3)]):
        entry = sign_entry(key, info_hash, f"wss://forged{number}.example", now + number)
        table.append([tracker_id, entry.expires, entry.url.encode(), entry.signature])
    value: bytes = bencodepy.encode({b"e": table, b"v": 1})
    return value


async def written_in(client: Client, info_hash: bytes) -> dict[str, str]:
    """What readers find in a record now: the slot that each URL is in."""
    found: dict[str, str] = {}
    for day in days_to_read(time.time()):
        await record.read(
            client, info_hash, day, 0, time.time, Counter(), lambda entry, where: found.update({entry.url: where})
        )
    return found


async def announced(client: Client, info_hash: bytes) -> set[Address]:
    """Where the second path leads: the addresses that are announced for a record."""
    found: set[Address] = set()
    for day in days_to_read(time.time()):
        await client.get_peers(announce_hash(info_hash, day), 0, found.add)
    return found
