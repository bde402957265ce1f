"""Members of a private DHT, and an attacker."""

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

from extensions.dht.krpc.client import Client, Stored
from extensions.dht.krpc.messages import Address, Contact, Item
from extensions.dht.krpc.schedule import Job, LookupLimits
from extensions.dht.krpc.scheduler import Scheduler
from extensions.dht.records.keys import DAY, SALTS, announce_hash, days_to_read, record_key
from extensions.dht.records.record import Record
from extensions.dht.service import Service
from extensions.dht.settings import DhtSettings
from extensions.entries import sign_entry
from extensions.trackers import Sighting
from tests.client import PATIENCE, eventually
from tests.conftest import TrackerProcess
from tests.private_dht import PrivateDht

LOCK = 2**63 - 1
"""The greatest sequence number: no write can follow it."""

QUICK = LookupLimits(rate=1000.0, burst=1000.0)
"""Tests do little else than lookups, so they may begin as many per second as they like."""

RUBBISH = b"rubbish"


class Clock:
    """The time of day, which tests can also set back, and a monotonic clock."""

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
        self.all: list[Service] = []
        self.avoid_midnight()

    async def start(
        self,
        url: str = "",
        state_dir: Path | None = None,
        key: Ed25519PrivateKey | None = None,
        **settings: Any,
    ) -> Service:
        """Start a member that publishes `url`, or only reads."""
        service = Service(
            DhtSettings(**self.dht.settings | settings),
            key or Ed25519PrivateKey.generate(),
            url,
            state_dir,
            self.clock,
            node_rate=1000,
            monotonic=self.clock.monotonic,
            limits=QUICK,
        )
        self.all.append(service)
        await service.start()
        async with asyncio.timeout(PATIENCE):
            await service.reachable.wait()
        return service

    def advance(self, seconds: float) -> None:
        """Let so much time pass."""
        self.clock.passed += seconds
        for service in self.all:
            # Its timers do not notice that the clock has been advanced.
            service.client.scheduler.wake()

    def avoid_midnight(self) -> None:
        """Make it such a time of day that there is only one day's record to read for some hours."""
        morning = 6 * 3600
        if not morning <= self.clock() % DAY <= 3 * morning:
            wait = (morning - self.clock()) % DAY
            if self.all:
                # Members would visit all records again if their clock was set.
                self.advance(wait)
            else:
                self.clock.ahead += wait

    async def start_trackers(self, number: int, **settings: Any) -> list[Service]:
        """Start members that publish different URLs."""
        urls = [f"wss://tracker{number}.example.org" for number in range(number)]
        return await asyncio.gather(*(self.start(url, **settings) for url in urls))

    async def start_with_reader(self, number: int, **settings: Any) -> tuple[list[Service], Service]:
        """Start the same, and a member that only reads."""
        return await asyncio.gather(self.start_trackers(number, **settings), self.start())

    async def stop(self) -> None:
        """Stop them all."""
        await asyncio.gather(*(service.stop() for service in self.all))


@asynccontextmanager
async def members_of(dht: PrivateDht) -> AsyncIterator[Members]:
    """Provide members, and stop them at the end."""
    members = Members(dht)
    try:
        yield members
    finally:
        await members.stop()


async def seen_by(service: Service, info_hash: bytes, thorough: bool = False) -> dict[str, Sighting]:
    """Return the result of one new lookup: sightings by URL."""
    await service.directory.forget(info_hash)
    return {found.entry.url: found async for found in service.directory.trackers(info_hash, thorough)}


async def published(service: Service, info_hash: bytes | None = None) -> None:
    """Wait until a member has published an infohash, or any if none is given."""
    directory = service.directory
    await eventually(lambda: directory.is_published(info_hash) if info_hash else directory.published > 0, 20)


async def publishes(tracker: TrackerProcess, number: int) -> None:
    """Wait until a tracker in a process of its own has published so many infohashes."""

    async def is_so() -> bool:
        return await tracker.metric("peerservers_dht_published") == number

    await eventually(is_so, 20)


def urls_of(services: Iterable[Service]) -> set[str]:
    """Return the URLs that members publish."""
    return {service.directory.url for service in services}


@asynccontextmanager
async def client_of(members: Members) -> AsyncIterator[Client]:
    """Provide a client that knows all nodes. They may take it for a node, and query it for a while after its end."""

    def contacts(family: int) -> list[Contact]:
        own = [Contact(service.node.ids[0], service.node.addresses[0]) for service in members.all]
        return [*members.dht.contacts(), *own] if family == 4 else []

    async with client_that_knows(contacts) as client:
        yield client


@asynccontextmanager
async def client_that_knows(contacts: Callable[[int], list[Contact]]) -> AsyncIterator[Client]:
    """Provide a client that starts its lookups with these nodes, by address family."""
    client = Client(contacts, private=True, node_rate=1000, scheduler=Scheduler(QUICK))
    await client.start(["127.0.0.1"])
    try:
        yield client
    finally:
        client.close()


class Vandal:
    """An attacker. It knows the infohash, and therefore the key of its record."""

    def __init__(self, client: Client, info_hash: bytes, day: int) -> None:
        self.key = record_key(info_hash, day)
        self.client = client

    async def write(self, slot: int | bytes, value: bytes, seq: int | None = None) -> Stored:
        """Put a value into a slot, or into a shard by its salt, with the next sequence number if none is given."""
        salt = SALTS[slot] if isinstance(slot, int) else slot
        items: list[Item] = []
        public_key = self.key.public_key().public_bytes_raw()
        found = await self.client.get(public_key, salt, Job(), items.append)
        next_seq = max((item.seq for item in items), default=0) + 1
        return await self.client.put(found, self.key, salt, seq or next_seq, value)


def forged(info_hash: bytes, now: float, tracker_ids: Iterable[bytes] = ()) -> bytes:
    """Return the value of a slot full of entries with invalid signatures, by default of trackers that do not exist."""
    key = Ed25519PrivateKey.generate()
    table = []
    for number, tracker_id in enumerate(tracker_ids or [os.urandom(32) for _ in range(3)]):
        entry = sign_entry(key, info_hash, f"wss://forged{number}.example", now + number)
        table.append([tracker_id, entry.expires, entry.url.encode(), entry.signature])
    value: bytes = bencodepy.encode({b"e": table, b"v": 1})
    return value


async def written_in(client: Client, info_hash: bytes) -> dict[str, str]:
    """Read a record. Return the slot of each URL in it."""
    found: dict[str, str] = {}
    for day in days_to_read(time.time()):
        record = Record(
            client, info_hash, day, Job(), time.time, Counter(), lambda entry, where: found.update({entry.url: where})
        )
        await record.read_slots()
    return found


async def announced(client: Client, info_hash: bytes) -> set[Address]:
    """Return the addresses announced for a record (BEP 5)."""
    found: set[Address] = set()
    for day in days_to_read(time.time()):
        await client.get_peers(announce_hash(info_hash, day), Job(), lambda _node, peers: found.update(peers))
    return found
