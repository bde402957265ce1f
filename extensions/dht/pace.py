"""How fast to go: packets to one node, and jobs altogether (sans I/O; times are seconds of any clock)."""

from collections import deque
from heapq import heappop, heappush
from typing import Final, Generic, TypeVar

from extensions.dht.krpc import Address

T = TypeVar("T")

NODE_RATE: Final = 4
"""Packets to one node within a second. libtorrent bans an address that sends it more than 50 in ten seconds; from ours
it also hears our own node."""


class NodePace:
    """When the next packet may go to a node. What was granted counts, so that those who wait come one by one."""

    def __init__(self, rate: int = NODE_RATE) -> None:
        self._rate = rate
        self._granted: dict[Address, deque[float]] = {}

    def grant(self, address: Address, now: float) -> float:
        """The time at which one more packet may be sent to `address`: `now`, or later."""
        times = self._granted.get(address)
        if times is None:
            times = self._granted[address] = deque(maxlen=self._rate)
        when = max(now, times[0] + 1.0) if len(times) == self._rate else now
        times.append(when)
        return when

    def forget(self, now: float) -> None:
        """Drop what no longer matters; to be called now and then."""
        for address in [address for address, times in self._granted.items() if times[-1] + 1.0 < now]:
            del self._granted[address]

    def __len__(self) -> int:
        return len(self._granted)


class Queue(Generic[T]):
    """Jobs that wait for their turn: the most urgent first (the least number), then in the order of their coming.

    At most `parallel` run at a time, and `rate` are started per second, after a first `burst`.
    """

    def __init__(self, parallel: int, rate: float, burst: float) -> None:
        self.running = 0
        self._parallel = parallel
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._filled = 0.0
        self._heap: list[tuple[int, int, T]] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, urgency: int, job: T) -> None:
        """Add a job."""
        self._number += 1
        heappush(self._heap, (urgency, self._number, job))

    def take(self, now: float) -> T | None:
        """The next job, which then counts as running; None if none may start now."""
        self._fill(now)
        if not self._heap or self.running >= self._parallel or self._tokens < 1:
            return None
        self._tokens -= 1
        self.running += 1
        return heappop(self._heap)[2]

    def done(self) -> None:
        """A job that was taken has ended."""
        self.running -= 1

    def wait(self, now: float) -> float | None:
        """Seconds until `take` may have a job that only waits for its time; None if it waits for nothing or others."""
        self._fill(now)
        if not self._heap or self.running >= self._parallel:
            return None
        # A little longer, or rounding would leave a trifle to wait for.
        return 1e-6 + max(0.0, (1 - self._tokens) / self._rate)

    def _fill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._filled) * self._rate)
        self._filled = now
