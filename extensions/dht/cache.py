"""What lookups have found, kept over restarts: an SQLite file. All of this blocks, and belongs in an executor."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from extensions.dht import bencode
from extensions.dht.record import LIFETIME, RENDEZVOUS, Entry

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
    """What is known of an infohash. Times are Unix seconds."""

    looked: float = 0.0
    """When it was last looked up; 0 if never."""
    own_until: float = 0.0
    """When our own entry ends; 0 if there is none."""
    seen: dict[str, Sighting] = field(default_factory=dict)
    """The trackers found, by id."""


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
            if isinstance(error, sqlite3.OperationalError):
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
            self._database.execute(
                "DELETE FROM known WHERE looked < ? AND info_hash != ?", (int(now) - LIFETIME, RENDEZVOUS)
            )

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()
            self._database = None

    def _load(self, now: float) -> dict[bytes, Known]:
        self._database = sqlite3.connect(self._file, check_same_thread=False, timeout=2)
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS known"
            " (info_hash BLOB PRIMARY KEY, looked INTEGER, own_until INTEGER, seen BLOB) WITHOUT ROWID"
        )
        query = "SELECT * FROM known ORDER BY info_hash = ? DESC, looked DESC LIMIT ?"
        with closing(self._database.execute(query, (RENDEZVOUS, MAX_KNOWN))) as rows:
            loaded = [
                (info_hash, Known(looked, own_until, _unpack(seen)))
                for info_hash, looked, own_until, seen in rows
                if looked <= now < looked + lifetime(info_hash)
            ]
        # The oldest first, as they are to be forgotten.
        return dict(reversed(loaded))


def _pack(seen: Iterable[Sighting]) -> bytes:
    return bencode.encode(
        [[one.entry.tracker_id, one.entry.expires, one.entry.url, one.entry.signature] for one in seen]
    )


def _unpack(packed: bytes) -> dict[str, Sighting]:
    try:
        return {
            tracker_id.decode(): Sighting(
                Entry(bytes.fromhex(tracker_id.decode()).hex(), int(expires), url.decode(), bytes(signature)), "cache"
            )
            for tracker_id, expires, url, signature in bencode.decode(packed)
        }
    except (ValueError, TypeError, AttributeError):
        return {}
