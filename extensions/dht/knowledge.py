"""The knowledge about many infohashes: the trackers that serve each, and our own entries (sans I/O)."""

from collections.abc import Callable

from extensions.dht.cache import MAX_KNOWN, Known
from extensions.entries import LIFETIME


class Knowledge:
    """The `Known` of each infohash: of at most `MAX_KNOWN`, those that have changed last.

    `known` is what the cache has, and is changed. An infohash that is *followed* counts as published while our entry in
    its record is valid. `clock` gives Unix seconds, which may be set back.
    """

    def __init__(self, known: dict[bytes, Known], clock: Callable[[], float]) -> None:
        self.changed: dict[bytes, Known] = {}
        """Infohashes with new knowledge since the last write to the cache."""
        self._known = known
        self._followed: dict[bytes, Known] = {}
        self._own: dict[bytes, Known] = {}
        """The followed infohashes for which we have, or had, an entry."""
        self._clock = clock

    @property
    def published(self) -> int:
        """Followed infohashes whose record has a valid entry of ours."""
        return sum(map(self.is_published, self._own))

    def is_published(self, info_hash: bytes) -> bool:
        """Return whether an infohash is followed and its record has a valid entry of ours."""
        # More than the whole lifetime is left if the clock has been set back: other trackers reject such an entry.
        return info_hash in self._own and 0 < self._own[info_hash].own_until - self._clock() <= LIFETIME

    def get(self, info_hash: bytes) -> Known | None:
        """Return what is known about an infohash, if it is followed or remembered."""
        return self._followed.get(info_hash) or self._known.get(info_hash)

    def follow(self, info_hash: bytes) -> Known:
        """Return what is known about an infohash that matters from now on."""
        known = self._followed[info_hash] = self._known.get(info_hash) or Known()
        if known.own_until:
            self._own[info_hash] = known
        return known

    def unfollow(self, info_hash: bytes) -> None:
        """Note that an infohash does not matter any more. It is still remembered."""
        self._own.pop(info_hash, None)
        self._followed.pop(info_hash, None)

    def forget(self, info_hash: bytes) -> None:
        """Neither follow nor remember an infohash any longer."""
        self.unfollow(info_hash)
        self._known.pop(info_hash, None)

    def note_own(self, info_hash: bytes, known: Known, until: float) -> None:
        """Note that our entry for an infohash ends at `until` (Unix seconds), or with 0 that there is none."""
        known.own_until = until
        self._own[info_hash] = known
        self.note_change(info_hash, known)

    def note_change(self, info_hash: bytes, known: Known) -> None:
        """Remember what is known about an infohash, and write it to the cache."""
        for table in (self._known, self.changed):
            table.pop(info_hash, None)
            table[info_hash] = known
            while len(table) > MAX_KNOWN:
                del table[next(iter(table))]
