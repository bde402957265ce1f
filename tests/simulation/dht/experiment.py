"""One experiment on an emulated mainline: trackers publish and look up infohashes, and figures are taken."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from extensions.dht.krpc.messages import Address, Contact, item_target
from extensions.dht.records.keys import SALTS, announce_hash, day_of, record_key
from tests.simulation.dht.addresses import fitting_addresses
from tests.simulation.dht.liars import sybils
from tests.simulation.dht.mainline import Conditions, make_mainline
from tests.simulation.dht.nodes import Kind
from tests.simulation.dht.population import BITS, FITTING_BITS, prefix_of
from tests.simulation.dht.trackers import EmulatedTracker, Hosts
from tests.simulation.errors import Stalled

SETTLE: Final = 30.0
"""Seconds after the start of a tracker in which it measures the network."""

FIRST_TRACKER: Final = 1
"""The number of the first tracker, which is the writer in most scenarios."""

STEP: Final = 0.25
PATIENCE: Final = 120.0
"""Seconds until a publication counts as failed that has not ended."""


@dataclass
class Figures:
    """The figures of one case."""

    found: int = 0
    of: int = 0
    published: int = 0
    copies: list[int] = field(default_factory=list)
    """Of each infohash, the nodes that store a slot of its record."""
    lookups: list[int] = field(default_factory=list)
    publications: list[int] = field(default_factory=list)
    """Queries of each visit that only reads, and of each that publishes."""
    seconds: list[float] = field(default_factory=list)
    """Seconds until the tracker was found, or until the end of a lookup that did not find it."""
    where: dict[str, int] = field(default_factory=dict)
    """The number of trackers found in each slot or by another way."""


class Experiment:
    """A network and the trackers on it."""

    def __init__(self, conditions: Conditions, seed: int) -> None:
        self.network = make_mainline(conditions, seed)
        self.hosts = Hosts()
        self.trackers: list[EmulatedTracker] = []
        self._next = FIRST_TRACKER
        loop: Any = asyncio.get_running_loop()
        loop.open_udp = self.network.open_socket

    def make(self, is_published: bool = True, **options: Any) -> EmulatedTracker:
        """Return a new tracker, which must still be started."""
        options.setdefault("families", self.network.conditions.families)
        tracker = EmulatedTracker(self.network, self._next, self.hosts.fetch, is_published, **options)
        self._next += 1
        self.trackers.append(tracker)
        self.hosts.add(tracker)
        return tracker

    async def start(self, is_published: bool = True, **options: Any) -> EmulatedTracker:
        """Start a tracker and wait until it is settled."""
        tracker = self.make(is_published, **options)
        await tracker.start()
        await asyncio.sleep(SETTLE)
        return tracker

    async def stop(self) -> None:
        """Stop all trackers."""
        stopped, self.trackers = self.trackers, []
        self.hosts.trackers.clear()
        await asyncio.gather(*(tracker.stop() for tracker in stopped))
        for tracker in stopped:
            if +tracker.failures:
                raise Stalled(f"background tasks have failed: {+tracker.failures}")

    async def publish(self, tracker: EmulatedTracker, info_hashes: Iterable[bytes], figures: Figures) -> None:
        """Publish infohashes one after the other: each in one visit."""
        directory = tracker.directory
        for info_hash in info_hashes:
            before, started = tracker.queries, time.monotonic()
            directory.publish(info_hash)
            while time.monotonic() - started < PATIENCE:
                await asyncio.sleep(STEP)
                tracked = directory.tracked[info_hash]
                if tracked.last_visit > started and not tracked.visit:
                    break
            if directory.is_published(info_hash):
                figures.published += 1
                figures.publications.append(tracker.queries - before)

    async def look_up(
        self, reader: EmulatedTracker, info_hashes: Iterable[bytes], wanted: EmulatedTracker, figures: Figures
    ) -> None:
        """Look up infohashes one after the other."""
        for info_hash in info_hashes:
            # As if the reader was new.
            await reader.directory.forget(info_hash)
            before, started = reader.queries, time.monotonic()
            seconds = None
            async for sighting in reader.directory.trackers(info_hash):
                if sighting.entry.tracker_id == wanted.tracker_id and seconds is None:
                    seconds = time.monotonic() - started
                    figures.where[sighting.where] = figures.where.get(sighting.where, 0) + 1
            # Its visit may still end.
            await asyncio.sleep(STEP)
            figures.of += 1
            figures.found += seconds is not None
            figures.seconds.append(time.monotonic() - STEP - started if seconds is None else seconds)
            figures.lookups.append(reader.queries - before)

    def count_copies(self, info_hashes: Iterable[bytes], figures: Figures) -> None:
        """Count the nodes that store today's records."""
        stored: dict[bytes, set[tuple[str, int]]] = {}
        now = time.monotonic()
        for (family, number), node in self.network.nodes.items():
            if not node.is_empty and not self.network.is_dead(family, number):
                for target in node.store.items:
                    if node.store.has_item(target, now):
                        stored.setdefault(target, set()).add(node.contact.address)
        for info_hash in info_hashes:
            places = [stored.get(target, set()) for target in slot_targets(info_hash)]
            figures.copies.append(len(set().union(*places)))

    def add_sybils(self, target: bytes, count: int, addresses: list[Address] | None = None, family: int = 4) -> None:
        """Add nodes next to a target that give tokens, store nothing, and name each other."""
        group: list[Contact] = []
        numbers = self.add_next_to(target, count, sybils(group), addresses, family)
        group += [self.network.contact(family, number) for number in numbers]

    def add_fitting_sybils(self, target: bytes, count: int) -> None:
        """Add the same with ids that fit their addresses (BEP 42)."""
        prefix = prefix_of(target) >> BITS - FITTING_BITS
        fitting = ((chance, fitting_addresses(prefix, chance, count)) for chance in range(8))
        chance, addresses = next((chance, found) for chance, found in fitting if len(found) == count)
        group: list[Contact] = []
        ids = [target[:6] + random.randbytes(13) + bytes([random.randrange(32) << 3 | chance]) for _ in addresses]
        numbers = self.network.add_nodes(4, zip(ids, addresses, strict=True), sybils(group))
        group += [self.network.contact(4, number) for number in numbers]

    def add_next_to(
        self, target: bytes, count: int, kind: Kind, addresses: list[Address] | None = None, family: int = 4
    ) -> list[int]:
        """Add nodes of a kind next to a target."""
        ids = [target[:6] + random.randbytes(14) for _ in range(count)]
        places: list[Address | None] = [*addresses] if addresses else [None] * count
        return self.network.add_nodes(family, zip(ids, places, strict=True), kind)


@asynccontextmanager
async def experiment(conditions: Conditions, seed: int) -> AsyncIterator[Experiment]:
    """Provide an experiment, and stop its trackers at the end."""
    one = Experiment(conditions, seed)
    try:
        yield one
    finally:
        await one.stop()


def slot_targets(info_hash: bytes, day: int | None = None) -> list[bytes]:
    """Return the targets of the slots of a record, today's by default."""
    key = record_key(info_hash, day_of(time.time()) if day is None else day).public_key().public_bytes_raw()
    return [item_target(key, salt) for salt in SALTS]


def announce_target(info_hash: bytes) -> bytes:
    """Return the hash that is announced today (BEP 5)."""
    return announce_hash(info_hash, day_of(time.time()))
