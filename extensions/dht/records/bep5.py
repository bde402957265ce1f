"""The second path, for when a record can be neither read nor written: announcements (BEP 5) lead to descriptors."""

import asyncio
import random
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from extensions.dht.krpc.client import Client
from extensions.dht.krpc.messages import Address
from extensions.dht.krpc.schedule import Job
from extensions.dht.records import record
from extensions.dht.records.descriptor import DescriptorError
from extensions.dht.records.record import Entry, Rejected
from extensions.dialing import is_public, network_of

MAX_FETCHES: Final = 8
"""Hosts that one lookup asks for a descriptor: anyone may have announced any number of ports."""

MAX_HOSTS: Final = 500
MAX_PORTS: Final = 16
"""Hosts that one lookup collects, and ports of one host."""

PARALLEL: Final = 4
MAX_WAITING: Final = 32
"""Requests at a time, and that wait for their turn; there is no turn for those that come when so many wait."""

PATIENCE: Final = 15.0
"""Seconds that one lookup waits for descriptors."""

REMEMBER: Final = 600.0
"""Seconds for which a host is not asked again, whatever it said."""

MAX_REMEMBERED: Final = 2000

Fetch = Callable[[Address, float], Awaitable[Entry]]


class SecondPath:
    """Finds trackers by address.

    With `private`, any address may be asked for a descriptor, and each counts as a host; else only global ones.
    `port` is the TCP port, as seen from outside, where our own descriptor is served. `clock` gives Unix seconds,
    which may be set back, `monotonic` seconds that may not.
    """

    def __init__(
        self,
        client: Client,
        fetch: Fetch,
        port: int,
        private: bool,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        rejected: Counter[Rejected],
    ) -> None:
        self._client = client
        self._fetch = fetch
        self._port = port
        self._private = private
        self._clock = clock
        self._monotonic = monotonic
        self.rejected = rejected
        self._gate = asyncio.Semaphore(PARALLEL)
        self._waiting = 0
        self._remembered: OrderedDict[str, tuple[float, Entry | None]] = OrderedDict()

    async def find(self, info_hash: bytes, days: list[int], job: Job, on_entry: Callable[[Entry], None]) -> None:
        """Look up who announced an infohash, and ask them; `on_entry` is called with each valid descriptor."""
        hosts: dict[str, set[Address]] = {}

        def collect(address: Address) -> None:
            if address[1] and (self._private or is_public(address[0])):
                host = self._host(address)
                if host in hosts or len(hosts) < MAX_HOSTS:
                    ports = hosts.setdefault(host, set())
                    if len(ports) < MAX_PORTS:
                        ports.add(address)

        for day in days:
            await self._client.get_peers(record.announce_hash(info_hash, day), job, collect)
        chosen = random.sample(list(hosts.values()), min(MAX_FETCHES, len(hosts)))
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*(self._ask(random.choice(list(ports)), on_entry) for ports in chosen))

    async def announce(self, info_hash: bytes, day: int, job: Job) -> None:
        """Announce an infohash for this host."""
        announced = record.announce_hash(info_hash, day)
        found = await self._client.get_peers(announced, job, lambda _: None)
        await self._client.announce(found, announced, self._port)

    async def _ask(self, address: Address, on_entry: Callable[[Entry], None]) -> None:
        if self._recall(address) is None:
            if self._waiting >= MAX_WAITING:
                return
            self._waiting += 1
            try:
                await self._gate.acquire()
            finally:
                self._waiting -= 1
            try:
                # Another lookup may have asked it in the meantime.
                if self._recall(address) is None:
                    self._remember(address, await self._fetch_from(address))
            finally:
                self._gate.release()
        _, entry = self._recall(address) or (0.0, None)
        if entry:
            on_entry(entry)

    def _recall(self, address: Address) -> tuple[float, Entry | None] | None:
        """When a host was asked, and what it said, if it is not to be asked again."""
        known = self._remembered.get(self._host(address))
        return known if known and known[0] + REMEMBER > self._monotonic() else None

    def _remember(self, address: Address, entry: Entry | None) -> None:
        host = self._host(address)
        self._remembered[host] = (self._monotonic(), entry)
        self._remembered.move_to_end(host)
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)

    def _host(self, address: Address) -> str:
        return f"{address[0]} {address[1]}" if self._private else network_of(address[0], ipv4_bits=32)

    async def _fetch_from(self, address: Address) -> Entry | None:
        try:
            return await self._fetch(address, self._clock())
        except DescriptorError as error:
            self.rejected[error.reason] += 1
            return None
