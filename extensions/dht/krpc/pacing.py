"""How fast to go: packets to one node, and jobs altogether (sans I/O; times are seconds of any clock)."""

from collections import deque
from typing import Final, Generic, TypeVar

from extensions.dht.krpc.messages import Address

T = TypeVar("T")

FIRST: Final = 0
"""The urgency of jobs that somebody waits for."""

FAIR: Final = 3
"""Of so many takings of other jobs one is by age: what is less urgent waits longer, but not for ever."""

NODE_RATE: Final = 4
"""Packets to one node within a second. libtorrent bans an address that sends it more than 50 in ten seconds; from ours
it also hears our own node."""


WINDOW: Final = 1.005
"""Seconds for which a packet counts: a little more than one, since clocks and timers are not exact."""


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
        when = max(now, times[0] + WINDOW) if len(times) == self._rate else now
        times.append(when)
        return when

    def forget(self, now: float) -> None:
        """Drop what no longer matters; to be called now and then."""
        for address in [address for address, times in self._granted.items() if times[-1] + WINDOW < now]:
            del self._granted[address]

    def __len__(self) -> int:
        return len(self._granted)


class Queue(Generic[T]):
    """Jobs, each once, that wait for their turn: the most urgent first (the least number), the oldest of these first.

    Jobs of the urgency `FIRST` go before all others; of these every third that is taken is the oldest, however urgent.
    At most `parallel` run at a time, and `rate` are started per second, after a first `burst`.
    """

    def __init__(self, parallel: int, rate: float, burst: float) -> None:
        self.running = 0
        self._parallel = parallel
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._filled = 0.0
        # By urgency; a dict keeps the order of their coming, and finds each at once.
        self._waiting: dict[int, dict[T, int]] = {}
        self._came = 0
        self._taken = 0

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, urgency: int, job: T) -> None:
        """Add a job."""
        self._came += 1
        self._waiting.setdefault(urgency, {})[job] = self._came

    def remove(self, job: T) -> None:
        """A job that waits needs no turn any more."""
        for jobs in self._waiting.values():
            jobs.pop(job, None)

    def take(self, now: float) -> T | None:
        """The next job, which then counts as running; None if none may start now."""
        self._fill(now)
        if not len(self) or self.running >= self._parallel or self._tokens < 1:
            return None
        self._tokens -= 1
        self.running += 1
        oldest = {urgency: next(iter(jobs.values())) for urgency, jobs in self._waiting.items() if jobs}
        urgency = min(oldest)
        if urgency > FIRST:
            self._taken += 1
            if self._taken % FAIR == 0:
                urgency = min(oldest, key=lambda one: oldest[one])
        job = next(iter(self._waiting[urgency]))
        del self._waiting[urgency][job]
        return job

    def done(self) -> None:
        """A job that was taken has ended."""
        self.running -= 1

    def give_back(self) -> None:
        """A job that was taken will not run after all."""
        self.running -= 1
        self._tokens += 1

    def wait(self, now: float) -> float | None:
        """Seconds until `take` may have a job that only waits for its time; None if it waits for nothing or others."""
        self._fill(now)
        if not len(self) or self.running >= self._parallel:
            return None
        # A little longer, or rounding would leave a trifle to wait for.
        return 1e-6 + max(0.0, (1 - self._tokens) / self._rate)

    def _fill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._filled) * self._rate)
        self._filled = now
