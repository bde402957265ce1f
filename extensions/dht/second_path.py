"""The second path, for when a record can be neither read nor written: announcements (BEP 5) lead to descriptors."""

import asyncio
import random
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from extensions.dht import record
from extensions.dht.client import Client
from extensions.dht.descriptor import DescriptorError
from extensions.dht.krpc import Address
from extensions.dht.messenger import is_global
from extensions.dht.record import Entry, Rejected

MAX_FETCHES: Final = 8
"""Addresses that one lookup asks for a descriptor: anyone may have announced any number of ports."""

PARALLEL: Final = 4
REMEMBER: Final = 600.0
"""Seconds for which an address is not asked again, whatever it said."""

MAX_REMEMBERED: Final = 2000

Fetch = Callable[[Address, float], Awaitable[Entry]]


class SecondPath:
    """Finds trackers by address. With `private`, any address may be asked for a descriptor, else only global ones.

    `port` is the TCP port, as seen from outside, where our own descriptor is served.
    """

    def __init__(
        self,
        client: Client,
        fetch: Fetch,
        port: int,
        private: bool,
        clock: Callable[[], float],
        rejected: Counter[Rejected],
    ) -> None:
        self._client = client
        self._fetch = fetch
        self._port = port
        self._private = private
        self._clock = clock
        self.rejected = rejected
        self._gate = asyncio.Semaphore(PARALLEL)
        self._remembered: OrderedDict[Address, tuple[float, Entry | None]] = OrderedDict()

    async def find(self, info_hash: bytes, days: list[int], urgency: int, on_entry: Callable[[Entry], None]) -> None:
        """Look up who announced an infohash, and ask them; `on_entry` is called with each valid descriptor."""
        addresses: set[Address] = set()
        for day in days:
            await self._client.get_peers(record.announce_hash(info_hash, day), urgency, addresses.add)
        allowed = [address for address in addresses if address[1] and (self._private or is_global(address[0]))]
        chosen = random.sample(allowed, min(MAX_FETCHES, len(allowed)))
        await asyncio.gather(*(self._ask(address, on_entry) for address in chosen))

    async def announce(self, info_hash: bytes, day: int, urgency: int) -> None:
        """Announce an infohash for this host."""
        announced = record.announce_hash(info_hash, day)
        found = await self._client.get_peers(announced, urgency, lambda _: None)
        await self._client.announce(found, announced, self._port)

    async def _ask(self, address: Address, on_entry: Callable[[Entry], None]) -> None:
        now = self._clock()
        asked, entry = self._remembered.get(address, (0.0, None))
        if asked + REMEMBER < now:
            async with self._gate:
                entry = await self._fetch_from(address, now)
            self._remembered[address] = (now, entry)
            if len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        if entry:
            on_entry(entry)

    async def _fetch_from(self, address: Address, now: float) -> Entry | None:
        try:
            return await self._fetch(address, now)
        except DescriptorError as error:
            self.rejected[error.reason] += 1
            return None
