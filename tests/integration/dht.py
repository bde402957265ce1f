"""Members of a private DHT, and somebody who means them ill."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht import record
from extensions.dht.cache import Sighting
from extensions.dht.client import Client, Stored
from extensions.dht.krpc import Item
from extensions.dht.service import Service
from extensions.dht.settings import DhtSettings
from tests.client import PATIENCE, eventually
from tests.private_dht import PrivateDht


class Clock:
    """The time of day, which tests can set ahead."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Members:
    """Starts members of a DHT, and stops them at the end."""

    def __init__(self, dht: PrivateDht) -> None:
        self.dht = dht
        self.clock = Clock()
        self.all: list[Service] = []

    async def start(self, url: str = "", state_dir: Path | None = None, **settings: Any) -> Service:
        """One that publishes `url`, or only looks."""
        service = Service(
            DhtSettings(**{"listen": "127.0.0.1:0", "bootstrap": self.dht.bootstrap[:3], "private": True} | settings),
            Ed25519PrivateKey.generate(),
            url,
            state_dir,
            self.clock,
            node_rate=1000,
        )
        self.all.append(service)
        await service.start()
        async with asyncio.timeout(PATIENCE):
            await service.reachable.wait()
        return service

    async def start_trackers(self, number: int, **settings: Any) -> list[Service]:
        """Some that publish URLs of their own."""
        urls = [f"wss://tracker{number}.example.org" for number in range(number)]
        return await asyncio.gather(*(self.start(url, **settings) for url in urls))

    async def stop(self) -> None:
        """Stop them all."""
        await asyncio.gather(*(service.stop() for service in self.all))


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
    assert topic is None or not topic.visit
    return {found.entry.url: found async for found in service.directory.trackers(info_hash, thorough)}


async def published(service: Service) -> None:
    """Wait until it has published something."""
    await eventually(lambda: service.directory.tally.publications["stored"] > 0, 20)


def urls_of(services: Iterable[Service]) -> set[str]:
    """What they publish."""
    return {service.directory._url for service in services}


class Vandal:
    """Knows an infohash, and so has the key of its record as everybody has."""

    def __init__(self, dht: PrivateDht, info_hash: bytes, day: int) -> None:
        self.key = record.record_key(info_hash, day)
        self.client = Client(dht.contacts, private=True, node_rate=1000)

    async def __aenter__(self) -> "Vandal":
        await self.client.start(["127.0.0.1"])
        return self

    async def __aexit__(self, *_: object) -> None:
        self.client.close()

    async def write(self, slot: int, value: bytes, seq: int | None = None) -> Stored:
        """Put a value into a slot, with the next sequence number if none is given."""
        items: list[Item] = []
        public_key = self.key.public_key().public_bytes_raw()
        found = await self.client.get(public_key, record.SALTS[slot], 0, items.append)
        next_seq = max((item.seq for item in items), default=0) + 1
        return await self.client.put(found, self.key, record.SALTS[slot], seq or next_seq, value)
