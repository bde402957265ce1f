"""Our own entry in the slots of a record: where it was stored, and when it must be written again (sans I/O).

Nodes leave the DHT, and take their copies of an entry with them. Each look at the record shows how many are left.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, log
from statistics import median
from typing import Final

from extensions.dht.krpc.traversal import CLOSEST
from extensions.dht.records.trouble import MAX_OWN_AGE, SETTLED
from extensions.entries import LIFETIME

REFRESH: Final = (50 * 60.0, 70 * 60.0)
"""Seconds between two publications of an entry, drawn at random between these two each time."""

SHORTEST: Final = 15 * 60.0
"""Seconds between two publications of an entry, at least, however fast its copies vanish."""

ENOUGH: Final = 3
"""Copies of an entry when it is written again: of eight. Fewer may all be gone before that."""

FRESH: Final = 80 * 60
"""An entry of ours is left as it is while it is valid for more seconds than this, unless its copies vanish fast."""

FRESH_PART: Final = 0.8
"""The part of the time between two publications for which an entry is left as it is if its copies vanish fast."""

LOOKS: Final = 5
"""Looks at our entry that count: the last ones."""

MIN_AGE: Final = 10 * 60.0
"""Seconds since the last write from which a look counts. Before that, one lost packet looks like a fast decay."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Our entry in a slot: its salt and its record's day, when it was stored (Unix seconds), and at how many nodes."""

    salt: bytes
    day: int
    stored: float
    copies: int


@dataclass(slots=True)
class OwnEntry:
    """The knowledge about our own entry for an infohash that is kept from one visit to the next."""

    _places: tuple[_Place, ...] = ()
    """One for each salt, and usually a single one. Neither the window, in which others may replace our entry, nor
    shards."""
    alarms: int = 0
    """Looks in a row, up to the last one, at a record that lacked entries which must be there."""
    is_doubtful: bool = False
    """Whether the last look met any trouble. Then the number of copies is the choice of an attacker."""
    _times: tuple[float, ...] = ()
    """Of each look, the seconds in which eight copies become `ENOUGH`. (A deque takes 700 bytes, for each infohash.)"""

    def note_stored(self, salt: bytes, day: int, now: float, copies: int) -> None:
        """Note that so many nodes have stored our entry in a slot of a day's record, now (Unix seconds)."""
        others = (place for place in self._places if place.salt != salt)
        self._places = (*others, _Place(salt, day, now, copies))

    def expected(self, day: int, now: float) -> frozenset[bytes]:
        """Return the salts of the slots of a day's record in which our entry must be."""
        return frozenset(
            place.salt for place in self._places if place.day == day and SETTLED <= now - place.stored <= MAX_OWN_AGE
        )

    def note_look(self, salt: bytes, day: int, written: float, now: float, copies: int) -> float:
        """Note that so many nodes, at least one, have our entry in a slot.

        Return how many of every eight that took it still have it; 0 if this look does not count. (More than eight may
        take it, above all if there are two address families.)

        `written` is when the slot was written last (Unix seconds): other trackers renew our entry when they renew
        theirs.
        """
        place, age = self._place(salt, day), now - written
        if place is None or not copies or not MIN_AGE <= age <= LIFETIME:
            return 0.0
        part = min(1.0, copies / max(1, place.copies))
        time = inf if part == 1.0 else age * log(CLOSEST / ENOUGH) / -log(part)
        self._times = (*self._times, time)[-LOOKS:]
        return CLOSEST * part

    def withheld_until(self, salt: bytes, day: int, now: float) -> float:
        """Return when our entry in a slot ends (Unix seconds) if nodes took it not long ago, and withhold it.

        Otherwise, or at the first look without it, it must be written again: return 0.
        """
        place = self._place(salt, day)
        if place and self.alarms > 1 and 0 <= now - place.stored < LIFETIME - FRESH:
            return place.stored + LIFETIME
        return 0.0

    @property
    def longest(self) -> float:
        """Seconds until an entry must be written again so that enough copies are left; infinite if it is unknown."""
        return max(SHORTEST, median(self._times)) if self._times and not self.is_doubtful else inf

    def interval(self, uniform: Callable[[float, float], float]) -> float:
        """Return the seconds from the signing of our entry to its next publication."""
        return min(uniform(*REFRESH), self.longest)

    def is_fresh(self, left: float) -> bool:
        """Return whether our entry needs no renewal while it is valid for so many more seconds."""
        return left > max(FRESH, LIFETIME - FRESH_PART * self.longest)

    def forget(self) -> None:
        """Forget where it was stored: it was removed, or the clock was set."""
        self._places = ()

    def _place(self, salt: bytes, day: int) -> _Place | None:
        return next((place for place in self._places if (place.salt, place.day) == (salt, day)), None)
