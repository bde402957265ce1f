"""Counters of visits of records, and of writes to them."""

from collections import Counter, deque
from enum import StrEnum
from statistics import fmean
from typing import Final

from prometheus_client import Histogram

from extensions.dht.krpc.traversal import CLOSEST
from extensions.dht.records.trouble import Trouble
from extensions.dht.refresh import REFRESH
from extensions.entries import Rejected

SECONDS: Final = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 30)
"""Buckets: a lookup takes milliseconds in a private DHT, seconds in the public one, and 15 seconds with BEP 5."""


LOOKS: Final = 100
"""Looks at our own entries that the means are of: the last ones."""


class Looked(StrEnum):
    """The result of looking up an infohash."""

    FOUND = "found"
    NONE = "none"
    UNREACHABLE = "unreachable"  # no node has answered


class Written(StrEnum):
    """The result of writing our entry to a record."""

    STORED = "stored"
    CONFLICT = "conflict"  # another tracker wrote at the same time; the write is repeated
    LOCKED = "locked"
    UNREACHABLE = "unreachable"


class Counters:
    """Counts since the start."""

    def __init__(self, publications: Counter[str], rejected: Counter[Rejected]) -> None:
        self.publications = publications
        """By `Written`."""
        self.rejected = rejected
        self.lookups: Counter[str] = Counter()
        """By `Looked`."""
        self.lookup_seconds = Histogram(
            "peerservers_dht_lookup_seconds",
            "Duration of lookups of an infohash, from the request or from the first turn of a scheduled one",
            ["result"],
            buckets=SECONDS,
            registry=None,
        )
        self.troubles: Counter[Trouble] = Counter()
        """Visits that have found a record in trouble, by each kind."""
        self._copies: deque[float] = deque(maxlen=LOOKS)
        self._refreshes: deque[float] = deque(maxlen=LOOKS)
        for result in Looked:
            self.lookup_seconds.labels(result)

    def count_lookup(self, result: Looked, seconds: float) -> None:
        """Count a lookup that has ended after so many seconds."""
        self.lookups[result] += 1
        self.lookup_seconds.labels(result).observe(seconds)

    def note_look(self, copies: float, refresh: float) -> None:
        """Note a look at our own entry: how many of every eight nodes that took it still have it, and the seconds
        between two publications of it.
        """
        self._copies.append(copies)
        self._refreshes.append(refresh)

    @property
    def copies(self) -> float:
        """Nodes that still had our entry, of every eight that took it, in the mean of the last looks; 8 before any."""
        return fmean(self._copies or (CLOSEST,))

    @property
    def refresh_seconds(self) -> float:
        """Seconds between two publications of an entry, at most, in the mean of the last looks."""
        return fmean(self._refreshes or (REFRESH[1],))
