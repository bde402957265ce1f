"""Counters of visits of records, and of writes to them."""

from collections import Counter
from enum import StrEnum
from typing import Final

from prometheus_client import Histogram

from extensions.entries import Rejected

SECONDS: Final = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 30)
"""Buckets: a lookup takes milliseconds in a private DHT, seconds in the public one, and 15 seconds with BEP 5."""


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
        for result in Looked:
            self.lookup_seconds.labels(result)

    def count_lookup(self, result: Looked, seconds: float) -> None:
        """Count a lookup that has ended after so many seconds."""
        self.lookups[result] += 1
        self.lookup_seconds.labels(result).observe(seconds)
