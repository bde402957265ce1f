"""The BEP 5 fallback for records that cannot be read or written: announcements lead to hosts, hosts to descriptors."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from extensions.dht.krpc.client import Client
from extensions.dht.krpc.messages import Address
from extensions.dht.krpc.schedule import Job
from extensions.dht.records.descriptor import DescriptorError
from extensions.dht.records.keys import announce_hash
from extensions.dialing import is_public, network_of
from extensions.entries import Rejected
from extensions.trackers import TrackerEntry
from tracker.extension import ExpiringMap

MAX_FETCHES: Final = 8
"""Hosts that one lookup requests a descriptor from: anyone can announce any number of ports."""

MAX_HOSTS: Final = 500
MAX_PORTS: Final = 16
"""Hosts that one lookup collects, and ports of one host."""

PARALLEL: Final = 4
MAX_WAITING: Final = 32
"""Requests at a time, and requests that wait; further ones are dropped."""

TIMEOUT: Final = 15.0
"""Seconds that one lookup waits for descriptors."""

REMEMBER: Final = 600.0
"""Seconds during which no host is requested again, whatever the result was."""

MAX_REMEMBERED: Final = 2000
"""Hosts whose results are kept."""

Fetch = Callable[[Address, float], Awaitable[TrackerEntry]]
"""Fetches the descriptor of a host, at this time (Unix seconds). Raises `DescriptorError`."""


class Bep5Fallback:
    """Finds trackers by their addresses.

    Without `private`, descriptors are requested from global addresses only, and the addresses of one IPv6 network
    (/64) count as one host. With `private`, any address is allowed, and each address and port counts as a host.

    `port` is the TCP port at which other hosts reach our own descriptor. `clock` gives Unix seconds and may be set
    back; `monotonic` gives seconds that never go back. Invalid descriptors are counted in `rejected`.
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
        *,
        timeout: float = TIMEOUT,
    ) -> None:
        self.port = port
        self.rejected = rejected
        self._client = client
        self._fetch = fetch
        self._private = private
        self._clock = clock
        self._monotonic = monotonic
        self._timeout = timeout
        self._requests = asyncio.Semaphore(PARALLEL)
        self._waiting = 0
        # By host, its valid descriptor; empty if it gave none.
        self._results: ExpiringMap[str, tuple[TrackerEntry, ...]] = ExpiringMap(REMEMBER, MAX_REMEMBERED)

    async def find(
        self, info_hash: bytes, days: list[int], job: Job, on_entry: Callable[[TrackerEntry], object]
    ) -> None:
        """Look up the hosts that announced an infohash and request their descriptors.

        `on_entry` is called with each valid descriptor.
        """
        hosts: dict[str, dict[Address, None]] = {}

        def collect(_node: Address, addresses: tuple[Address, ...]) -> None:
            for address in addresses:
                add(address)

        def add(address: Address) -> None:
            if address[1] and (self._private or is_public(address[0])):
                host = self._host(address)
                if host in hosts or len(hosts) < MAX_HOSTS:
                    ports = hosts.setdefault(host, {})
                    if len(ports) < MAX_PORTS:
                        ports[address] = None

        for day in days:
            await self._client.get_peers(announce_hash(info_hash, day), job, collect)
        chosen = random.sample(list(hosts.values()), min(MAX_FETCHES, len(hosts)))
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                await asyncio.gather(*(self._request(random.choice(list(ports)), on_entry) for ports in chosen))

    async def announce(self, info_hash: bytes, day: int, job: Job) -> None:
        """Announce an infohash for this host and `port`."""
        announced = announce_hash(info_hash, day)
        found = await self._client.get_peers(announced, job, lambda _node, _peers: None)
        await self._client.announce(found, announced, self.port)

    async def _request(self, address: Address, on_entry: Callable[[TrackerEntry], object]) -> None:
        host = self._host(address)
        if self._result(host) is None:
            if self._waiting >= MAX_WAITING:
                return
            self._waiting += 1
            try:
                await self._requests.acquire()
            finally:
                self._waiting -= 1
            try:
                # Another lookup may have requested it in the meantime.
                if self._result(host) is None:
                    self._results.put(host, await self._fetch_from(address), self._monotonic())
            finally:
                self._requests.release()
        for entry in self._result(host) or ():
            on_entry(entry)

    def _result(self, host: str) -> tuple[TrackerEntry, ...] | None:
        return self._results.get(host, self._monotonic())

    def _host(self, address: Address) -> str:
        return f"{address[0]} {address[1]}" if self._private else network_of(address[0], ipv4_bits=32)

    async def _fetch_from(self, address: Address) -> tuple[TrackerEntry, ...]:
        try:
            return (await self._fetch(address, self._clock()),)
        except DescriptorError as error:
            self.rejected[error.reason] += 1
            return ()
