"""The known entries of other trackers: those of the extension `dht`, or a table of its own without it (sans I/O)."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from extensions.entries import LIFETIME, check_entry
from extensions.trackers import RENDEZVOUS, RENDEZVOUS_TEXT, Sighting, TrackerEntry
from tracker.extension import ExpiringMap, swarm_key

MAX_ENTRIES: Final = 64
"""Entries that are remembered of one infohash: those that end last."""

MAX_INFOHASHES: Final = 20_000
"""Infohashes of which entries are remembered; the oldest are forgotten first."""

MAX_DISTRUSTED: Final = 10_000
"""Trackers at a URL that are remembered as not being there; the oldest are forgotten first."""

Tell = Callable[[str, Sighting], None]


class Finder(Protocol):
    """The part of the extension `dht` that is used here."""

    started: asyncio.Event

    @property
    def service(self) -> object:
        """None if the DHT cannot be used."""
        ...

    def on_sighting(self, tell: Tell) -> None: ...
    def stop_telling(self, tell: Tell) -> None: ...
    def learn(self, info_hash: str, entry: TrackerEntry) -> bool: ...
    def known(self, info_hash: str) -> list[Sighting]: ...
    def entries(self, info_hash: str) -> list[TrackerEntry]: ...
    def own_descriptor(self) -> TrackerEntry | None: ...
    def distrust(self, tracker_id: str, url: str) -> None: ...


class Entries:
    """Entries by infohash. An empty infohash stands for descriptors, which are those of the rendezvous.

    `finder` is the extension `dht`. If there is none, or it is off, entries come only from links, and nothing is
    published. `clock` gives Unix seconds, which may be set back; `monotonic` never goes back.
    """

    def __init__(
        self, finder: Finder | None, own_id: str, clock: Callable[[], float], monotonic: Callable[[], float]
    ) -> None:
        self._extension = finder
        self._own_id = own_id
        self._clock = clock
        self._monotonic = monotonic
        self._listeners: list[Tell] = []
        self._known: ExpiringMap[str, dict[str, TrackerEntry]] = ExpiringMap(LIFETIME, MAX_INFOHASHES)
        self._distrusted: ExpiringMap[tuple[str, str], float] = ExpiringMap(LIFETIME, MAX_DISTRUSTED)

    @property
    def _finder(self) -> Finder | None:
        return self._extension if self._extension and self._extension.service else None

    def on_sighting(self, tell: Tell) -> None:
        """Call `tell` with infohash and tracker for each new tracker, or newer entry of one."""
        self._listeners.append(tell)
        if self._extension:
            self._extension.on_sighting(tell)

    def stop_telling(self, tell: Tell) -> None:
        """Undo `on_sighting`."""
        if tell in self._listeners:
            self._listeners.remove(tell)
            if self._extension:
                self._extension.stop_telling(tell)

    def learn(self, info_hash: str, entry: TrackerEntry) -> bool:
        """Check an entry that another tracker has passed on. Return whether it was new and valid."""
        if self._finder:
            return self._finder.learn(info_hash, entry)
        now = self._monotonic()
        info_hash = info_hash or RENDEZVOUS_TEXT
        known = self._known.get(info_hash, now) or {}
        old = known.get(entry.tracker_id)
        if entry.tracker_id == self._own_id or (old and old.expires >= entry.expires) or self._is_distrusted(entry):
            return False
        if check_entry(entry, _signed_for(info_hash), self._clock()):
            return False
        known[entry.tracker_id] = entry
        if len(known) > MAX_ENTRIES:
            del known[min(known, key=lambda one: known[one].expires)]
        self._known.put(info_hash, known, now)
        for tell in self._listeners:
            tell(info_hash, Sighting(entry, "link"))
        return True

    def entries(self, info_hash: str) -> list[TrackerEntry]:
        """Return the valid entries that are signed for an infohash, to be passed on."""
        if self._finder:
            return self._finder.entries(info_hash)
        now = self._clock()
        known = self._known.get(info_hash or RENDEZVOUS_TEXT, self._monotonic()) or {}
        return [entry for entry in known.values() if entry.expires > now and not self._is_distrusted(entry)]

    def known(self, info_hash: str) -> list[Sighting]:
        """Return the trackers that are known for an infohash."""
        if self._finder:
            return self._finder.known(info_hash)
        return [Sighting(entry, "link") for entry in self.entries(info_hash)]

    def own_descriptor(self) -> TrackerEntry | None:
        """Return this tracker's own descriptor, or None if it is not published."""
        return self._finder.own_descriptor() if self._finder else None

    def distrust(self, tracker_id: str, url: str) -> None:
        """Believe no entry of a tracker at a URL that was signed before now, because the URL leads to another one."""
        if self._finder:
            self._finder.distrust(tracker_id, url)
        self._distrusted.put((tracker_id, url), self._clock(), self._monotonic())

    def _is_distrusted(self, entry: TrackerEntry) -> bool:
        since = self._distrusted.get((entry.tracker_id, entry.url), self._monotonic())
        return since is not None and entry.expires - LIFETIME <= since


def _signed_for(info_hash: str) -> bytes:
    return RENDEZVOUS if info_hash == RENDEZVOUS_TEXT else swarm_key(info_hash)
