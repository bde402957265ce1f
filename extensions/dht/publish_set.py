"""The choice of swarms to publish (sans I/O)."""

from typing import Final, NamedTuple

SIZES: Final = 32
"""Swarms are ranked by the power of two of their size, so that one more peer rarely changes the rank."""


class Changes(NamedTuple):
    """The infohashes that became members, and those that are members no more."""

    added: list[bytes]
    removed: list[bytes]


class PublishSet:
    """The infohashes to publish: the `limit` largest swarms; of swarms of equal size the newest.

    Sizes are compared by their power of two.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sizes: dict[bytes, int] = {}
        # One dict for each size, from the oldest infohash to the newest: it keeps the order and finds each at once.
        self._members: list[dict[bytes, None]] = [{} for _ in range(SIZES)]
        self._waiting: list[dict[bytes, None]] = [{} for _ in range(SIZES)]
        self._number = 0

    def __len__(self) -> int:
        return self._number

    def __contains__(self, info_hash: bytes) -> bool:
        size = self._sizes.get(info_hash)
        return size is not None and info_hash in self._members[size]

    @property
    def left_out(self) -> int:
        """Infohashes for which there is no room."""
        return len(self._sizes) - self._number

    def put(self, info_hash: bytes, peers: int) -> Changes:
        """Enter an infohash with its number of peers, or update that. Return the members that have changed."""
        size = min(SIZES - 1, peers.bit_length())
        old = self._sizes.get(info_hash)
        if old == size:
            return Changes([], [])
        was_member = info_hash in self
        if old is not None:
            self._take_out(info_hash, old)
        self._sizes[info_hash] = size
        self._waiting[size][info_hash] = None
        added, removed = self._fill(), []
        if info_hash not in self and (displaced := self._make_room(size)) is not None:
            self._admit(info_hash, size)
            added.append(info_hash)
            removed.append(displaced)
        if was_member:
            if info_hash in self:
                added.remove(info_hash)
            else:
                removed.append(info_hash)
        return Changes(added, removed)

    def discard(self, info_hash: bytes) -> list[bytes]:
        """Remove an infohash. Return the infohashes that became members in its place."""
        size = self._sizes.pop(info_hash, None)
        if size is None:
            return []
        self._take_out(info_hash, size)
        return self._fill()

    def _take_out(self, info_hash: bytes, size: int) -> None:
        if info_hash in self._members[size]:
            del self._members[size][info_hash]
            self._number -= 1
        else:
            del self._waiting[size][info_hash]

    def _admit(self, info_hash: bytes, size: int) -> None:
        del self._waiting[size][info_hash]
        self._members[size][info_hash] = None
        self._number += 1

    def _fill(self) -> list[bytes]:
        """Admit the largest and newest infohashes while there is room. Return them."""
        added: list[bytes] = []
        for size in range(SIZES - 1, -1, -1):
            while self._waiting[size] and self._number < self._limit:
                added.append(next(reversed(self._waiting[size])))
                self._admit(added[-1], size)
        return added

    def _make_room(self, size: int) -> bytes | None:
        """Displace the oldest of the smallest members, if it is no larger than `size`. Return it, if there was one."""
        smallest = next((number for number in range(size + 1) if self._members[number]), None)
        if smallest is None:
            return None
        oldest = next(iter(self._members[smallest]))
        self._take_out(oldest, smallest)
        self._waiting[smallest][oldest] = None
        return oldest
