"""The service of the DHT of a tracker on an emulated mainline, with all its parts but libtorrent's node."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from math import inf
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc.messages import Address, Contact
from extensions.dht.krpc.schedule import LookupLimits
from extensions.dht.records import descriptor
from extensions.dht.service import Service
from extensions.dht.settings import DhtSettings
from extensions.entries import sign_entry
from extensions.trackers import TrackerEntry
from tests.simulation.dht.addresses import tracker_addresses
from tests.simulation.dht.mainline import Mainline

JOINS: Final = 0.5
"""Seconds until a node that was started knows others."""

EMPTY_AFTER: Final = 180.0
"""Seconds of an outage after which a node has forgotten all others."""

FETCH: Final = 0.3
NO_HOST: Final = 5.0
"""Seconds until a descriptor was fetched, and until this has failed because no host is there."""


class EmulatedMember:
    """The interface of `extensions.dht.node.Node`: a member of the emulated DHT, which knows a table of nodes."""

    def __init__(self, network: Mainline, hosts: list[str], _bootstrap: list[str], _private: bool, _failures: Any):
        self.stats: dict[str, int] = {}
        self.addresses: list[Address] = [(host.rpartition(":")[0].strip("[]"), 6881) for host in hosts]
        self.ids: list[bytes] = []
        self.is_running = False
        self._network = network
        self._known: dict[int, list[Contact]] = {}
        self._joins_at = inf
        self._cut_off_since = inf

    @property
    def size(self) -> int:
        """The number of known nodes."""
        return sum(map(len, self._known.values()))

    @property
    def has_contacts(self) -> bool:
        """Whether any other node is known."""
        return any(self._known.values())

    def contacts(self, family: int) -> list[Contact]:
        """Return the known nodes of an address family."""
        return self._known.get(family, [])

    def join(self) -> None:
        """Ask the bootstrap nodes."""
        if not self._is_cut_off:
            self._joins_at = min(self._joins_at, time.monotonic() + JOINS)

    def add(self, address: Address) -> None:
        """Do nothing: the table follows from the network."""

    async def start(self, _state: bytes | None) -> None:
        """Join the network."""
        self.ids = [random.randbytes(20) for _ in self.addresses]
        self.is_running = True

    async def refresh(self) -> None:
        """Update the table."""
        now = time.monotonic()
        self._cut_off_since = min(self._cut_off_since, now) if self._is_cut_off else inf
        if now - self._cut_off_since > EMPTY_AFTER:
            self._known.clear()
            self._joins_at = inf
        elif now >= self._joins_at and self.is_running and not self._is_cut_off:
            for (host, _), node_id in zip(self.addresses, self.ids, strict=True):
                family = 6 if ":" in host else 4
                if family in self._network.populations and (family not in self._known or self._network.died):
                    self._known[family] = self._network.table(family, node_id)

    @property
    def _is_cut_off(self) -> bool:
        return any(host in self._network.cut_off for host, _ in self.addresses)

    async def state(self) -> bytes:
        """Return the state for the next start, which is empty."""
        return b""

    async def close(self) -> None:
        """Leave the network."""
        self.is_running = False
        self._known.clear()


class EmulatedTracker:
    """The DHT service of one tracker, at an address of its own in each of `families`.

    A tracker that is not `published` only reads. `fetch` fetches descriptors.
    """

    def __init__(
        self,
        network: Mainline,
        number: int,
        fetch: Callable[[Address, float], Any],
        is_published: bool = True,
        families: tuple[int, ...] = (4,),
        limits: LookupLimits = LookupLimits(),  # noqa: B008  (frozen)
        **settings: Any,
    ) -> None:
        self.number = number
        self.url = f"wss://tracker{number}.example"
        self.key = Ed25519PrivateKey.from_private_bytes(random.randbytes(32))
        self.tracker_id = self.key.public_key().public_bytes_raw().hex()
        ipv4, ipv6 = tracker_addresses(number)
        self.hosts = [ipv4] * (4 in families) + [ipv6] * (6 in families)
        listen = [f"[{host}]:6881" if ":" in host else f"{host}:6881" for host in self.hosts]
        self.failures: Counter[str] = Counter()
        """The background tasks that have failed."""
        self.service = Service(
            DhtSettings(listen=",".join(listen), **settings),
            self.key,
            self.url if is_published else "",
            None,
            time.time,
            monotonic=time.monotonic,
            limits=limits,
            task_failures=self.failures,
            make_node=lambda *arguments: EmulatedMember(network, *arguments),
            fetch=fetch,
        )
        self.directory = self.service.directory

    @property
    def queries(self) -> int:
        """Queries sent so far."""
        return sum(self.service.client.counters.queries.values())

    async def start(self) -> None:
        """Start, and wait until nodes are known."""
        await self.service.start()
        await self.service.reachable.wait()

    async def stop(self) -> None:
        """Stop."""
        await self.service.stop()


class Hosts:
    """The hosts that answer requests for descriptors."""

    def __init__(self) -> None:
        self.trackers: dict[str, EmulatedTracker] = {}
        self.fetches = 0

    def add(self, tracker: EmulatedTracker) -> None:
        """Add the host of a tracker."""
        self.trackers.update(dict.fromkeys(tracker.hosts, tracker))

    async def fetch(self, address: Address, now: float) -> TrackerEntry:
        """Fetch the descriptor at an address. Raise `DescriptorError` if no tracker is there."""
        self.fetches += 1
        tracker = self.trackers.get(address[0])
        if tracker is None or address[1] != 443:
            await asyncio.sleep(NO_HOST)
            raise descriptor.DescriptorError("no answer")
        await asyncio.sleep(FETCH)
        return sign_entry(tracker.key, b"", tracker.url, now)
