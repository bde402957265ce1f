"""The results of lookups, kept over restarts in an SQLite file. Methods of `Cache` block: call them in an executor."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from extensions.dht.krpc import bencode
from extensions.entries import LIFETIME, SKEW, check_entry
from extensions.trackers import RENDEZVOUS, Sighting, TrackerEntry

MAX_KNOWN: Final = 20_000
"""Infohashes that are remembered."""

MAX_SEEN: Final = 64
"""Trackers that are remembered of one infohash: those whose entries end last."""

RENDEZVOUS_LIFETIME: Final = 7 * 24 * 3600
"""Seconds that trackers of the rendezvous are remembered: with some of them, no DHT is needed to find the others."""


@dataclass(slots=True)
class Known:
    """The known trackers of an infohash. Times are Unix seconds.

    Another thread may write it to the file while it changes.
    """

    looked: float = 0.0
    """When it was last looked up; 0 if never."""
    own_until: float = 0.0
    """When our own entry ends; 0 if there is none."""
    seen: dict[str, Sighting] = field(default_factory=dict)
    """The trackers found, by id. The dict is replaced as a whole, never changed."""

    def is_news(self, entry: TrackerEntry) -> bool:
        """Return whether an entry is of an unknown tracker, or ends later than the known entry of its tracker."""
        known = self.seen.get(entry.tracker_id)
        return known is None or known.entry.expires < entry.expires

    def add(self, sighting: Sighting) -> bool:
        """Add a tracker. Return whether its entry is new or ends later than the known one."""
        if not self.is_news(sighting.entry):
            return False
        seen = {**self.seen, sighting.entry.tracker_id: sighting}
        if len(seen) > MAX_SEEN:
            del seen[min(seen, key=lambda one: seen[one].entry.expires)]
        self.seen = seen
        return True

    def forget_ended(self, info_hash: bytes, now: float) -> None:
        """Remove trackers whose entries have ended, or end too late because the clock has been set back since."""
        oldest = now - _grace(info_hash)
        self.seen = {
            tracker_id: one
            for tracker_id, one in self.seen.items()
            if oldest < one.entry.expires <= now + LIFETIME + SKEW
        }

    def good(self, info_hash: bytes, now: float) -> list[Sighting]:
        """Return the trackers with valid entries. Entries of descriptors are signed for the empty infohash."""
        return [
            one
            for one in self.seen.values()
            # An entry in its grace period is checked as of its last second.
            for when in [min(now, one.entry.expires - 1.0) if one.entry.expires > now - _grace(info_hash) else now]
            if any(check_entry(one.entry, signed_for, when) is None for signed_for in (info_hash, b""))
        ]


def lifetime(info_hash: bytes) -> int:
    """Return the seconds that the results for an infohash are remembered."""
    return RENDEZVOUS_LIFETIME if info_hash == RENDEZVOUS else LIFETIME


class Cache:
    """The file. At most `max_known` infohashes are loaded from it, those looked up last.

    Methods raise `sqlite3.Error` or `OSError` if the file cannot be used.
    """

    def __init__(self, file: Path, max_known: int = MAX_KNOWN) -> None:
        self._file = file
        self._max_known = max_known
        self._database: sqlite3.Connection | None = None

    def open(self, now: float) -> dict[bytes, Known]:
        """Open the file and return its contents that are still valid. A corrupt file is replaced by a new one."""
        try:
            return self._load(now)
        except (sqlite3.DatabaseError, TypeError, ValueError) as error:
            # A full disk or a locked file raises OperationalError, and so does an unknown file format. Of these, only
            # the last means that the file has to be replaced.
            if isinstance(error, sqlite3.OperationalError) and "unsupported file format" not in str(error):
                raise
            self.close()
            self._file.unlink(missing_ok=True)
            return self._load(now)

    def save(self, changed: Iterable[tuple[bytes, Known]], now: float) -> None:
        """Write the changed infohashes and delete old ones."""
        assert self._database is not None
        rows = [
            (info_hash, int(known.looked), int(known.own_until), _pack(known.seen.values()))
            for info_hash, known in changed
        ]
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?)", rows)
            # If the clock has been set back, rows may also be too far in the future to hold a valid entry.
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
        # Other users of the machine must not learn which infohashes are served here.
        self._file.touch(mode=0o600)
        self._database = sqlite3.connect(self._file, check_same_thread=False, timeout=2)
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS known"
            " (info_hash BLOB PRIMARY KEY, looked INTEGER, own_until INTEGER, seen BLOB) WITHOUT ROWID"
        )
        query = "SELECT * FROM known ORDER BY info_hash = ? DESC, looked DESC LIMIT ?"
        with closing(self._database.execute(query, (RENDEZVOUS, self._max_known))) as rows:
            loaded = [
                (info_hash, Known(_past(looked, now), min(own_until, int(now) + LIFETIME), unpack(seen)))
                for info_hash, looked, own_until, seen in rows
                if isinstance(info_hash, bytes) and now < looked + lifetime(info_hash)
            ]
        # The oldest first, because the first ones are evicted first.
        return dict(reversed(loaded))


def _grace(info_hash: bytes) -> int:
    """Return the seconds that entries remain useful after their end: trackers of the rendezvous may still be there."""
    return RENDEZVOUS_LIFETIME if info_hash == RENDEZVOUS else 0


def _past(when: int, now: float) -> int:
    """Return `when`, or 0 if it is in the future because the clock has been set back since."""
    return when if when <= now else 0


def _pack(seen: Iterable[Sighting]) -> bytes:
    return bencode.encode(
        [[one.entry.tracker_id, one.entry.expires, one.entry.url, one.entry.signature] for one in seen]
    )


def unpack(packed: bytes) -> dict[str, Sighting]:
    """Return the trackers of a row, by id. Return none of them if any bytes are malformed."""
    try:
        entries = [_entry(item) for item in bencode.decode(packed)]
    except (ValueError, TypeError):
        return {}
    return {entry.tracker_id: Sighting(entry, "cache") for entry in entries}


def _entry(item: object) -> TrackerEntry:
    match item:
        case [bytes(tracker_id), int(expires), bytes(url), bytes(signature)]:
            return TrackerEntry(bytes.fromhex(tracker_id.decode()).hex(), expires, url.decode(), signature)
        case _:
            raise ValueError("not an entry")
