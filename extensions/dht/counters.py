"""What is counted of looks at records and of writings into them."""

from collections import Counter
from enum import StrEnum
from typing import Final

from prometheus_client import Histogram

from extensions.dht.records.entry import Rejected

SECONDS: Final = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 30)
"""Buckets: a lookup takes milliseconds in a DHT of one's own, seconds in the public one, 15 on the second path."""


class Looked(StrEnum):
    """What came of looking at an infohash's record."""

    FOUND = "found"
    NONE = "none"
    UNREACHABLE = "unreachable"  # no node has answered


class Written(StrEnum):
    """What came of writing our entry into a record."""

    STORED = "stored"
    CONFLICT = "conflict"  # others wrote at this moment; it is tried again
    LOCKED = "locked"
    UNREACHABLE = "unreachable"


class Tally:
    """Since the start."""

    def __init__(self, publications: Counter[str], rejected: Counter[Rejected]) -> None:
        self.publications = publications
        """By `Written`."""
        self.rejected = rejected
        self.lookups: Counter[str] = Counter()
        """By `Looked`."""
        self.lookup_seconds = Histogram(
            "peerservers_dht_lookup_seconds",
            "From the beginning of a lookup of an infohash, its wait for its turn included, to its end",
            ["result"],
            buckets=SECONDS,
            registry=None,
        )
        for result in Looked:
            self.lookup_seconds.labels(result)

    def looked(self, result: Looked, seconds: float) -> None:
        """A lookup has ended, after so many seconds."""
        self.lookups[result] += 1
        self.lookup_seconds.labels(result).observe(seconds)
