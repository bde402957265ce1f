"""What lookups have found, kept over restarts: an SQLite file. All of this blocks, and belongs in an executor."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from extensions.dht.krpc import bencode
from extensions.dht.records import record
from extensions.dht.records.record import LIFETIME, RENDEZVOUS, SKEW, Entry

MAX_KNOWN: Final = 20_000
"""Infohashes that are remembered."""

MAX_SEEN: Final = 64
"""Trackers that are remembered of one infohash; the freshest."""

RENDEZVOUS_LIFETIME: Final = 7 * 24 * 3600
"""Seconds that trackers of the rendezvous are remembered: whoever has kept some needs no DHT to find the rest."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A tracker's entry, and where it was found: "r0", "r1", "r2", "bep5" or "cache"."""

    entry: Entry
    where: str


@dataclass(slots=True)
class Known:
    """What is known of an infohash. Times are Unix seconds.

    While it changes it is also written to the file, by another thread.
    """

    looked: float = 0.0
    """When it was last looked up; 0 if never."""
    own_until: float = 0.0
    """When our own entry ends; 0 if there is none."""
    seen: dict[str, Sighting] = field(default_factory=dict)
    """The trackers found, by id; replaced as a whole, never changed."""

    def add(self, sighting: Sighting) -> bool:
        """Whether a sighting is news."""
        tracker_id = sighting.entry.tracker_id
        known = self.seen.get(tracker_id)
        if known and known.entry.expires >= sighting.entry.expires:
            return False
        seen = {**self.seen, tracker_id: sighting}
        if len(seen) > MAX_SEEN:
            del seen[min(seen, key=lambda one: seen[one].entry.expires)]
        self.seen = seen
        return True

    def forget_ended(self, info_hash: bytes, now: float) -> None:
        """Drop the trackers whose entries have ended, or were made by a clock that has been set back since."""
        oldest = now - _grace(info_hash)
        self.seen = {
            tracker_id: one
            for tracker_id, one in self.seen.items()
            if oldest < one.entry.expires <= now + LIFETIME + SKEW
        }

    def good(self, info_hash: bytes, now: float) -> list[Sighting]:
        """The trackers that are worth telling. Entries from the second path are for no infohash."""
        return [
            one
            for one in self.seen.values()
            # What has ended, but not too long ago, need not have been good for longer.
            for when in [min(now, one.entry.expires - 1.0) if one.entry.expires > now - _grace(info_hash) else now]
            if any(record.check_entry(one.entry, signed_for, when) is None for signed_for in (info_hash, b""))
        ]


def lifetime(info_hash: bytes) -> int:
    """Seconds that what was found of an infohash is remembered."""
    return RENDEZVOUS_LIFETIME if info_hash == RENDEZVOUS else LIFETIME


class Cache:
    """The file. Raises `sqlite3.Error` if it can't be used, and `OSError`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._database: sqlite3.Connection | None = None

    def open(self, now: float) -> dict[bytes, Known]:
        """Open the file, or a new one in place of one that is spoilt; what is still good in it."""
        try:
            return self._load(now)
        except (sqlite3.DatabaseError, TypeError, ValueError) as error:
            # A full disk or a locked file is an OperationalError; only what is no database may go, or has been cut off.
            if isinstance(error, sqlite3.OperationalError) and "unsupported file format" not in str(error):
                raise
            self.close()
            self._file.unlink(missing_ok=True)
            return self._load(now)

    def save(self, changed: Iterable[tuple[bytes, Known]], now: float) -> None:
        """Write what has changed, and drop what is old."""
        assert self._database is not None
        rows = [
            (info_hash, int(known.looked), int(known.own_until), _pack(known.seen.values()))
            for info_hash, known in changed
        ]
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?)", rows)
            # Where the clock has been set back, there may also be what is too far ahead to hold anything valid.
            self._database.execute(
                "DELETE FROM known WHERE looked NOT BETWEEN ? AND ? AND info_hash != ?",
                (int(now) - LIFETIME, int(now) + LIFETIME, RENDEZVOUS),
            )

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()
            self._database = None

    def _load(self, now: float) -> dict[bytes, Known]:
        # Which infohashes are served here is for nobody else to read.
        self._file.touch(mode=0o600)
        self._database = sqlite3.connect(self._file, check_same_thread=False, timeout=2)
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS known"
            " (info_hash BLOB PRIMARY KEY, looked INTEGER, own_until INTEGER, seen BLOB) WITHOUT ROWID"
        )
        query = "SELECT * FROM known ORDER BY info_hash = ? DESC, looked DESC LIMIT ?"
        with closing(self._database.execute(query, (RENDEZVOUS, MAX_KNOWN))) as rows:
            loaded = [
                (info_hash, Known(_passed(looked, now), min(own_until, int(now) + LIFETIME), _unpack(seen)))
                for info_hash, looked, own_until, seen in rows
                if isinstance(info_hash, bytes) and now < looked + lifetime(info_hash)
            ]
        # The oldest first, as they are to be forgotten.
        return dict(reversed(loaded))


def _grace(info_hash: bytes) -> int:
    """Seconds for which entries are worth something after their end: a tracker of the rendezvous may well be there."""
    return RENDEZVOUS_LIFETIME if info_hash == RENDEZVOUS else 0


def _passed(when: int, now: float) -> int:
    """A time of the past; 0 if it is none, because the clock has been set back since."""
    return when if when <= now else 0


def _pack(seen: Iterable[Sighting]) -> bytes:
    return bencode.encode(
        [[one.entry.tracker_id, one.entry.expires, one.entry.url, one.entry.signature] for one in seen]
    )


def _unpack(packed: bytes) -> dict[str, Sighting]:
    try:
        entries = [_entry(item) for item in bencode.decode(packed)]
    except (ValueError, TypeError):
        return {}
    return {entry.tracker_id: Sighting(entry, "cache") for entry in entries}


def _entry(item: object) -> Entry:
    match item:
        case [bytes(tracker_id), int(expires), bytes(url), bytes(signature)]:
            return Entry(bytes.fromhex(tracker_id.decode()).hex(), expires, url.decode(), signature)
        case _:
            raise ValueError("not an entry")
