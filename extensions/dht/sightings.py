"""The trackers that were found: who is told of them, which of them are not believed, and which may be passed on."""

from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog

from extensions.dht.knowledge import Knowledge
from extensions.dht.tracked import TrackedHash
from extensions.entries import LIFETIME, SKEW, Rejected, check_entry
from extensions.trackers import Sighting, TrackerEntry
from tracker.extension import ExpiringMap

MAX_DISTRUSTED: Final = 10_000
"""Trackers at a URL that are remembered as not being there; the oldest are forgotten first."""


class Sightings:
    """Passes each new entry of another tracker on to `listeners`.

    `own_id` is our own tracker id. `clock` gives Unix seconds, which may be set back; `monotonic` gives seconds that
    never go back. Invalid entries are counted in `rejected`.
    """

    def __init__(
        self,
        own_id: str,
        knowledge: Knowledge,
        rejected: Counter[Rejected],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self.listeners: list[Callable[[bytes, Sighting], None]] = []
        """Called with infohash and sighting for each tracker found, and for each newer entry of a known one."""
        self.own_id: Final = own_id
        self._knowledge = knowledge
        self._rejected = rejected
        self._clock = clock
        self._monotonic = monotonic
        # By tracker id and URL, the Unix time at which the URL led elsewhere. No entry signed before is valid after.
        self._distrusted: ExpiringMap[tuple[str, str], float] = ExpiringMap(LIFETIME + SKEW, MAX_DISTRUSTED)
        self._log = structlog.get_logger().bind(extension="dht")

    def note(self, tracked: TrackedHash, sighting: Sighting) -> bool:
        """Tell of a valid entry, unless it is known, our own, or not believed. Return whether it was told."""
        entry = sighting.entry
        if not self.is_other(entry) or not tracked.known.add(sighting):
            return False
        self._knowledge.note_change(tracked.info_hash, tracked.known)
        for listener in tracked.listeners:
            listener.put_nowait(sighting)
        for tell in self.listeners:
            try:
                tell(tracked.info_hash, sighting)
            except Exception:
                self._log.exception("dht_listener_failed")
        return True

    def learn(self, tracked: TrackedHash, entry: TrackerEntry) -> bool:
        """Check an entry that another tracker has passed on, and note it. Return whether it was new and valid."""
        # The signature is not verified for what is known already.
        if not self.is_other(entry) or not tracked.known.is_news(entry):
            return False
        fault = check_entry(entry, tracked.info_hash, self._clock())
        if fault:
            self._rejected[fault] += 1
            return False
        return self.note(tracked, Sighting(entry, "link"))

    def known(self, info_hash: bytes) -> list[Sighting]:
        """Return the other trackers that are known to serve an infohash."""
        known = self._knowledge.get(info_hash)
        found = known.good(info_hash, self._clock()) if known else []
        return [one for one in found if not self._is_distrusted(one.entry)]

    def entries(self, info_hash: bytes) -> list[TrackerEntry]:
        """Return the valid entries of other trackers for an infohash, in which anyone can verify the signature.

        A tracker of which only the descriptor is known is left out, because that does not name the infohash.
        """
        known, now = self._knowledge.get(info_hash), self._clock()
        entries = [one.entry for one in known.seen.values()] if known else []
        return [
            entry for entry in entries if not self._is_distrusted(entry) and check_entry(entry, info_hash, now) is None
        ]

    def is_other(self, entry: TrackerEntry) -> bool:
        """Return whether an entry is that of another tracker, and believed."""
        return entry.tracker_id != self.own_id and not self._is_distrusted(entry)

    def distrust(self, tracker_id: str, url: str) -> None:
        """Believe no entry of a tracker at a URL that was signed before this moment."""
        self._distrusted.put((tracker_id, url), self._clock(), self._monotonic())

    def on_clock_set(self) -> None:
        """Note that times before this moment cannot be compared with later ones."""
        self._distrusted.clear()

    def _is_distrusted(self, entry: TrackerEntry) -> bool:
        since = self._distrusted.get((entry.tracker_id, entry.url), self._monotonic())
        return since is not None and entry.expires - LIFETIME <= since
