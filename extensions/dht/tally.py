"""What is counted of looks at records and of writings into them."""

from collections import Counter
from enum import StrEnum

from extensions.dht.record import Rejected


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
