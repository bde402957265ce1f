"""Writes our own entry into records, and removes it again."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from typing import Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.counters import Written
from extensions.dht.krpc.client import Client
from extensions.dht.records import record
from extensions.dht.records.record import RecordSnapshot
from extensions.dht.tracked import ANNOUNCE, FRESH, READ_BACK, RETRY
from extensions.entries import LIFETIME, sign_entry
from extensions.trackers import TrackerEntry

ATTEMPTS: Final = 5
"""Writes of one publication, if other trackers write at the same time."""

BACKOFF: Final = (0.1, 0.5)
"""Seconds until the second attempt, drawn at random between these two; doubled for each further attempt."""

ReadAgain = Callable[[int], Awaitable[RecordSnapshot]]
"""Reads the record of a day anew."""


@dataclass(frozen=True, slots=True)
class Published:
    """The result of a publication."""

    until: float
    """When our entry ends (Unix seconds); 0 if there is none."""
    look_again: tuple[float, float] | None = None
    """The record should be read again after a time between these two (seconds); None: when the entry is refreshed."""
    has_failed: bool = False


class Publisher:
    """Publishes `url`. `clock` gives Unix seconds, `uniform` a random float between two floats."""

    def __init__(
        self,
        client: Client,
        key: Ed25519PrivateKey,
        url: str,
        clock: Callable[[], float],
        uniform: Callable[[float, float], float],
    ) -> None:
        self.written: Counter[str] = Counter()
        """Publications by `Written`."""
        self.tracker_id = key.public_key().public_bytes_raw().hex()
        self.url = url
        self._client = client
        self._key = key
        self._clock = clock
        self._uniform = uniform
        self._first_signed = inf
        """When the first entry was signed after the start, or after the clock was set."""
        self._has_copy = False
        """Whether another tracker is known to have the same key."""

    def on_clock_set(self) -> None:
        """Note that times before this moment cannot be compared with later ones."""
        self._first_signed = inf

    async def publish(self, snapshot: RecordSnapshot, read_again: ReadAgain) -> Published:
        """Write our entry into a record that was just read, unless a fresh one is there already."""
        until = 0.0
        for attempt in range(ATTEMPTS):
            now = self._clock()
            own = next((entry for entry in snapshot.entries if entry.tracker_id == self.tracker_id), None)
            if own and own.expires > now + FRESH and own.url == self.url:
                self.written[Written.STORED] += attempt > 0
                return Published(own.expires)
            is_foreign = own is not None and self._is_foreign(own)
            self._first_signed = min(self._first_signed, now)
            entry = sign_entry(self._key, snapshot.info_hash, self.url, now)
            stored = await record.write(self._client, snapshot, entry)
            if stored is None:
                self.written[Written.LOCKED] += 1
                return Published(until, ANNOUNCE)
            if stored.taken:
                until = entry.expires
            if not stored.taken and not stored.conflicts:
                self.written[Written.UNREACHABLE] += 1
                return Published(until, RETRY, has_failed=True)
            if not stored.conflicts:
                self.written[Written.STORED] += 1
                has_others = is_foreign or any(other.tracker_id != self.tracker_id for other in snapshot.entries)
                return Published(until, READ_BACK if has_others else None)
            # Another tracker wrote at the same time: neither entry may be lost.
            self.written[Written.CONFLICT] += 1
            snapshot = await self._read_later(snapshot, read_again, attempt)
        return Published(until, READ_BACK)

    async def erase(self, snapshots: list[RecordSnapshot], read_again: ReadAgain) -> bool:
        """Remove our entry from records that were just read. Return whether none of them had it.

        A write proves nothing: a node that did not answer may keep the entry. Only a further reading shows whether it
        is gone.
        """
        return all([await self._erase_from(snapshot, read_again) for snapshot in snapshots])

    def _is_foreign(self, own: TrackerEntry) -> bool:
        """Return whether an entry with our key may be that of another tracker with a copy of the key.

        Log if it must be: this process has had the key to itself since the other URL was signed.
        """
        if own.url == self.url or self._has_copy:
            return False
        if own.expires - LIFETIME > self._first_signed:
            self._has_copy = True
            structlog.get_logger().error("identity_copied", extension="dht", url=own.url)
            return False
        # Or it was ours until a restart with another URL. The next look will tell.
        return True

    async def _erase_from(self, snapshot: RecordSnapshot, read_again: ReadAgain) -> bool:
        for attempt in range(ATTEMPTS):
            stored = await record.erase(self._client, snapshot, self.tracker_id)
            if not stored.conflicts:
                return snapshot.has_reached and not stored.taken and not stored.failed
            snapshot = await self._read_later(snapshot, read_again, attempt)
        return False

    async def _read_later(self, snapshot: RecordSnapshot, read_again: ReadAgain, attempt: int) -> RecordSnapshot:
        await asyncio.sleep(self._uniform(*BACKOFF) * 2**attempt)
        return await read_again(snapshot.day)
