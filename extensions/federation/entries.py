"""The entries of other trackers that a tracker without the extension `dht` knows (sans I/O)."""

from collections.abc import Callable
from typing import Final

from extensions.trackers import TrackerEntry
from tracker.extension import ExpiringMap

LIFETIME: Final = 2 * 3600.0
"""Seconds for which an infohash is remembered after an entry was found for it."""

MAX_ENTRIES: Final = 64
"""Entries that are remembered of one infohash: those that end last."""

MAX_INFOHASHES: Final = 20_000
"""Infohashes of which entries are remembered; the oldest are forgotten first."""


class Entries:
    """Entries by infohash. The caller has verified them. `clock` gives Unix seconds, `monotonic` never goes back."""

    def __init__(self, clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._known: ExpiringMap[str, dict[str, TrackerEntry]] = ExpiringMap(LIFETIME, MAX_INFOHASHES)

    def learn(self, info_hash: str, entry: TrackerEntry) -> bool:
        """Remember an entry. Return whether it is new, or ends later than the known one of its tracker."""
        now = self._monotonic()
        known = self._known.get(info_hash, now) or {}
        old = known.get(entry.tracker_id)
        if old and old.expires >= entry.expires:
            return False
        known[entry.tracker_id] = entry
        if len(known) > MAX_ENTRIES:
            del known[min(known, key=lambda one: known[one].expires)]
        self._known.put(info_hash, known, now)
        return entry.tracker_id in known

    def entries(self, info_hash: str) -> list[TrackerEntry]:
        """Return the entries of an infohash that have not ended."""
        now = self._clock()
        known = self._known.get(info_hash, self._monotonic()) or {}
        return [entry for entry in known.values() if entry.expires > now]
