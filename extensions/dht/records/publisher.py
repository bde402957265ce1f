"""Puts our own entry into records, and takes it out again."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.counters import Written
from extensions.dht.krpc.client import Client
from extensions.dht.records import record, slots
from extensions.dht.records.slots import Reading
from extensions.dht.tracked import ANNOUNCE, FRESH, READ_BACK, RETRY

ATTEMPTS: Final = 5
"""Writings of one publication, if others write at the same time."""

ReadAgain = Callable[[int], Awaitable[Reading]]
"""Reads the record of a day anew."""


@dataclass(frozen=True, slots=True)
class Published:
    """What became of a publication."""

    until: float
    """When our entry ends; 0 if there is none."""
    look_again: tuple[float, float] | None = None
    """The time from now, between these two, after which it should be looked at again; None if with its refresh."""
    has_failed: bool = False


class Publisher:
    """Publishes `url`. `clock` gives Unix seconds, `uniform` a random float between two."""

    def __init__(
        self,
        client: Client,
        key: Ed25519PrivateKey,
        url: str,
        clock: Callable[[], float],
        uniform: Callable[[float, float], float],
    ) -> None:
        self.tally: Counter[str] = Counter()
        """Publications by `Written`."""
        self.tracker_id = key.public_key().public_bytes_raw().hex()
        self.url = url
        self._client = client
        self._key = key
        self._clock = clock
        self._uniform = uniform

    async def publish(self, reading: Reading, read_again: ReadAgain) -> Published:
        """Put our entry into the record that was just read, if it is not there."""
        until = 0.0
        for attempt in range(ATTEMPTS):
            now = self._clock()
            own = next((entry for entry in reading.entries if entry.tracker_id == self.tracker_id), None)
            if own and own.expires > now + FRESH and own.url == self.url:
                self.tally[Written.STORED] += attempt > 0
                return Published(own.expires)
            entry = record.sign_entry(self._key, reading.info_hash, self.url, now)
            stored = await slots.write(self._client, reading, entry)
            if stored is None:
                self.tally[Written.LOCKED] += 1
                return Published(until, ANNOUNCE)
            if stored.taken:
                until = entry.expires
            if not stored.taken and not stored.conflicts:
                self.tally[Written.UNREACHABLE] += 1
                return Published(until, RETRY, has_failed=True)
            if not stored.conflicts:
                self.tally[Written.STORED] += 1
                has_others = any(other.tracker_id != self.tracker_id for other in reading.entries)
                return Published(until, READ_BACK if has_others else None)
            # Others write at this moment: what they wrote must not be lost, nor what we did.
            self.tally[Written.CONFLICT] += 1
            reading = await self._read_later(reading, read_again, attempt)
        return Published(until, READ_BACK)

    async def erase(self, readings: list[Reading], read_again: ReadAgain) -> bool:
        """Take our entry out of the records that were just read; whether it is not in them any more."""
        return all([await self._erase_from(reading, read_again) for reading in readings])

    async def _erase_from(self, reading: Reading, read_again: ReadAgain) -> bool:
        for attempt in range(ATTEMPTS):
            stored = await slots.erase(self._client, reading, self.tracker_id)
            if not stored.conflicts:
                return reading.has_reached and (stored.taken > 0 or not stored.failed)
            reading = await self._read_later(reading, read_again, attempt)
        return False

    async def _read_later(self, reading: Reading, read_again: ReadAgain, attempt: int) -> Reading:
        await asyncio.sleep(self._uniform(0.1, 0.5) * 2**attempt)
        return await read_again(reading.day)
