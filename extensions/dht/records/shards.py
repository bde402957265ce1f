"""The shards of a large record: where a tracker has its place, and which ones a reader samples (sans I/O).

A shard is a slot of its own, named by bits: "" at depth 0, "0" and "1" at depth 1, and so on. The shards make a binary
tree. A tracker uses the shards along its path, whose bits are a hash of its id: the first one with room. So shards fill
from the top, and the depth grows with the number of trackers. `docs/dht.md` specifies them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log2
from typing import Final

from extensions.dht.records.keys import MAX_DEPTH
from extensions.dht.records.slots import Slot

SHALLOW: Final = 3
"""A record with shards down to this depth has some hundred trackers. From more of them, not all do everything."""

TRIES: Final = 6
"""Shards in which one visit looks for room, at most."""

SAMPLES: Final = 4
"""Shards in which one visit looks for the depth of the tree, at most."""

Uniform = Callable[[float, float], float]
"""Gives a random float between two floats."""


@dataclass(slots=True)
class ShardMemory:
    """The knowledge about the shards of an infohash's records that is kept from one visit to the next."""

    depth: int | None = None
    """The depth at which a shard is neither full nor empty, typically; None if the record needs no shards."""
    own_depth: int | None = None
    """The depth of the shard with our own entry; None if it is in no shard."""
    own_day: int = 0
    """The day of the record with our own entry in that shard."""
    is_forced_down: bool = False
    """Whether our entry is so deep because shards above are locked, and not because others have filled them."""

    def note_slots(self, window: Slot | None) -> None:
        """Note the state of the slots: without a window that was read, the record needs no shards."""
        if window is None:
            self.depth = None
        elif self.depth is None:
            self.depth = window.depth or 0

    def note_own(self, depth: int, day: int) -> None:
        """Note the shard with our own entry."""
        self.own_depth, self.own_day = depth, day
        self.depth = max(self.depth or 0, depth)

    @property
    def is_among_many(self) -> bool:
        """Whether our own entry is so deep that some hundred others must be above it."""
        return self.own_depth is not None and self.own_depth > SHALLOW and not self.is_forced_down

    @property
    def is_large(self) -> bool:
        """Whether the record is so large that not every tracker does everything."""
        return self.depth is not None and self.depth > SHALLOW

    def skips_slots(self, uniform: Uniform) -> bool:
        """Return whether the next visit may leave out the slots, which all trackers share.

        The larger the record is, the more rarely a tracker reads them: all together some hundred times an hour.
        """
        return self.depth is not None and self.is_large and uniform(0.0, 1.0) >= 2.0 ** (SHALLOW - self.depth)


class DepthSearch:
    """Searches a depth on both sides of which shards differ: by steps that double, then by halves.

    The caller looks at the shard at `depth`, and calls `deeper`, `shallower` or `stop`, until `depth` is None. At most
    `tries` shards are looked at, whatever they contain.
    """

    def __init__(self, start: int, tries: int) -> None:
        self.depth: int | None = max(0, min(MAX_DEPTH, start))
        self._tries = tries
        self._step = 1
        # The depth looked for is more than the first, and not more than the second.
        self._too_shallow, self._deep_enough = -1, MAX_DEPTH + 1

    @property
    def found(self) -> int:
        """The depth looked for, as far as it is known."""
        return min(MAX_DEPTH, self._too_shallow + 1)

    def deeper(self) -> None:
        """Note that the depth looked for is greater than `depth`."""
        assert self.depth is not None
        self._too_shallow = self.depth
        self._go(self.depth + self._step if self._deep_enough > MAX_DEPTH else self._middle)

    def shallower(self) -> None:
        """Note that the depth looked for is `depth` or less."""
        assert self.depth is not None
        self._deep_enough = self.depth
        self._go(self.depth - self._step if self._too_shallow < 0 else self._middle)

    def stop(self) -> None:
        """Note that the depth looked for is `depth`."""
        assert self.depth is not None
        self._too_shallow, self.depth = self.depth - 1, None

    @property
    def _middle(self) -> int:
        return (self._too_shallow + self._deep_enough) // 2

    def _go(self, depth: int) -> None:
        self._tries -= 1
        self._step *= 2
        depth = max(0, min(MAX_DEPTH, depth))
        self.depth = depth if self._tries and self._too_shallow < depth < self._deep_enough else None


def random_bits(depth: int, uniform: Uniform) -> str:
    """Return as many random bits as "0" and "1"."""
    return "".join("1" if uniform(0.0, 1.0) < 0.5 else "0" for _ in range(depth))


def depth_above(depth: int, uniform: Uniform) -> int:
    """Return a random smaller depth: half as often for each step up, because there are half as many shards.

    So a reader that reads one shard at `depth` and one above finds all entries with equal probability.
    """
    return max(0, depth - 1 - int(-log2(max(1.0 - uniform(0.0, 1.0), 2.0**-MAX_DEPTH))))
