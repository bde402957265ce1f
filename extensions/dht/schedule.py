"""What to do when, and which swarms to publish if not all can be (sans I/O; times are seconds of a steady clock)."""

from collections import defaultdict
from heapq import heapify, heappop, heappush
from typing import Final

FAIR: Final = 3
"""Of so many takings one is by age: what is less urgent waits longer, but not for ever."""

SPARE: Final = 64
"""Heaps are cleared of what no longer counts when that is more than what counts, and this."""

SIZES: Final = 32
"""Swarms are ranked by the power of two of their size, so that one more peer rarely changes anything."""


class Agenda:
    """Infohashes that are due at some time, each once; of those that are, the most urgent first (the least number).

    Every third that is taken is the longest overdue, however urgent.
    """

    def __init__(self) -> None:
        # Entries of the heaps stay there when they are replaced or dropped; by these numbers they are known to count.
        self._numbers: dict[bytes, int] = {}
        self._overdue: set[bytes] = set()
        self._later: list[tuple[float, int, int, bytes]] = []
        self._due: defaultdict[int, list[tuple[float, int, bytes]]] = defaultdict(list)
        self._entered = 0
        self._taken = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def set(self, info_hash: bytes, due: float, urgency: int) -> None:
        """Enter an infohash, in place of its entry so far."""
        self._entered += 1
        self._numbers[info_hash] = self._entered
        self._overdue.discard(info_hash)
        heappush(self._later, (due, urgency, self._entered, info_hash))
        if len(self._later) + sum(map(len, self._due.values())) > 2 * len(self._numbers) + SPARE:
            self._clear()

    def drop(self, info_hash: bytes) -> None:
        """Take an infohash off, if it is on."""
        self._numbers.pop(info_hash, None)
        self._overdue.discard(info_hash)

    def take(self, now: float) -> tuple[bytes, int] | None:
        """The next that is due, and how urgent it is; it is off the agenda then. None if nothing is due."""
        self._advance(now)
        for due in self._due.values():
            while due and not self._counts(due[0][1], due[0][2]):
                heappop(due)
        waiting = [urgency for urgency in sorted(self._due) if self._due[urgency]]
        if not waiting:
            return None
        self._taken += 1
        urgency = min(waiting, key=lambda one: self._due[one][0]) if self._taken % FAIR == 0 else waiting[0]
        _, _, info_hash = heappop(self._due[urgency])
        self.drop(info_hash)
        return info_hash, urgency

    def next_due(self) -> float | None:
        """When something is due next, as far as it is not yet; None if nothing is."""
        while self._later and not self._counts(*self._later[0][2:]):
            heappop(self._later)
        return self._later[0][0] if self._later else None

    def overdue(self, now: float) -> int:
        """How many are due."""
        self._advance(now)
        return len(self._overdue)

    def _advance(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            due, urgency, number, info_hash = heappop(self._later)
            if self._counts(number, info_hash):
                heappush(self._due[urgency], (due, number, info_hash))
                self._overdue.add(info_hash)

    def _counts(self, number: int, info_hash: bytes) -> bool:
        return self._numbers.get(info_hash) == number

    def _clear(self) -> None:
        self._later = [entry for entry in self._later if self._counts(*entry[2:])]
        heapify(self._later)
        for urgency, due in self._due.items():
            self._due[urgency] = [entry for entry in due if self._counts(*entry[1:])]
            heapify(self._due[urgency])


class Shortlist:
    """The infohashes to publish: of those entered the largest swarms, of equal ones the newest, `limit` in all."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sizes: dict[bytes, int] = {}
        # For each size, from the oldest to the newest; a dict keeps their order and finds each at once.
        self._listed: list[dict[bytes, None]] = [{} for _ in range(SIZES)]
        self._waiting: list[dict[bytes, None]] = [{} for _ in range(SIZES)]
        self._number = 0

    def __len__(self) -> int:
        return self._number

    def __contains__(self, info_hash: bytes) -> bool:
        size = self._sizes.get(info_hash)
        return size is not None and info_hash in self._listed[size]

    @property
    def left_out(self) -> int:
        """Infohashes for which there was no room."""
        return len(self._sizes) - self._number

    def enter(self, info_hash: bytes, peers: int) -> list[bytes]:
        """An infohash is there, or has so many peers now; those that came onto the list by that."""
        size = min(SIZES - 1, peers.bit_length())
        old = self._sizes.get(info_hash)
        if old == size:
            return []
        if old is not None:
            self._take_out(info_hash, old)
        self._sizes[info_hash] = size
        self._waiting[size][info_hash] = None
        came = self._fill()
        if info_hash not in self and self._make_room(size):
            self._list(info_hash, size)
            came.append(info_hash)
        return came

    def leave(self, info_hash: bytes) -> list[bytes]:
        """An infohash is gone; those that came onto the list in its place."""
        size = self._sizes.pop(info_hash, None)
        if size is None:
            return []
        self._take_out(info_hash, size)
        return self._fill()

    def _take_out(self, info_hash: bytes, size: int) -> None:
        if info_hash in self._listed[size]:
            del self._listed[size][info_hash]
            self._number -= 1
        else:
            del self._waiting[size][info_hash]

    def _list(self, info_hash: bytes, size: int) -> None:
        del self._waiting[size][info_hash]
        self._listed[size][info_hash] = None
        self._number += 1

    def _fill(self) -> list[bytes]:
        came: list[bytes] = []
        for size in range(SIZES - 1, -1, -1):
            while self._waiting[size] and self._number < self._limit:
                came.append(next(reversed(self._waiting[size])))
                self._list(came[-1], size)
        return came

    def _make_room(self, size: int) -> bool:
        """Whether the oldest of the smallest could be put off for a newer one that is no smaller."""
        smallest = next((number for number in range(size + 1) if self._listed[number]), None)
        if smallest is None:
            return False
        oldest = next(iter(self._listed[smallest]))
        self._take_out(oldest, smallest)
        self._waiting[smallest][oldest] = None
        return True
