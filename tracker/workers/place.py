"""The place of a worker, and when a worker that has ended is started again."""

from dataclasses import dataclass, field
from typing import Final

from tracker.workers.child import Child

YOUNG: Final = 10.0
"""Seconds. A worker that ends at a younger age has failed."""

FIRST_DELAY: Final = 0.2
MAX_DELAY: Final = 30.0
"""Seconds until the next start after the first failure, which double with each further one, and their maximum."""

MAX_FAILURES: Final = 3
"""Failures in a row after which the tracker ends if it has no other worker."""


class Restarts:
    """The failures of a place in a row."""

    def __init__(self) -> None:
        self.failures = 0

    def delay(self, age: float, was_ready: bool) -> float:
        """Return the seconds until the next start, for a worker that ended at an age in seconds."""
        if was_ready and age >= YOUNG:
            self.failures = 0
            return 0.0
        self.failures += 1
        return float(min(MAX_DELAY, FIRST_DELAY * 2 ** (self.failures - 1)))


@dataclass(eq=False)
class Place:
    """The place of a worker: its listening sockets, and the processes that have them.

    Attributes:
        index: The number of the place.
        current: The worker that accepts the connections, or that will once it is ready.
        successor: The worker that replaces it in a rolling restart, until that one is ready.
        is_adopted: Whether the workers of other places accept the connections as well.
    """

    index: int
    current: Child | None = None
    successor: Child | None = None
    is_adopted: bool = False
    restarts: Restarts = field(default_factory=Restarts)

    @property
    def is_ready(self) -> bool:
        """Whether its worker serves."""
        return self.current is not None and self.current.is_ready
