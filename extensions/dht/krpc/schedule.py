"""The order in which lookups run (sans I/O; times are seconds on any monotonic clock)."""

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from enum import IntEnum
from heapq import heapify, heappop, heappush
from typing import Final, Generic, NamedTuple, TypeVar

from tracker.extension import TokenBucket

FAIR: Final = 3
"""Of this many turns one goes by age alone: a job of low priority waits longer, but not for ever."""

SPARE: Final = 64
"""Heaps are cleared of stale entries once there are more of them than of valid entries, and more than this."""

SLACK: Final = 1e-6
"""Seconds added to each wait, because rounding could otherwise leave a tiny rest of it."""

K = TypeVar("K", bound=Hashable)


class Priority(IntEnum):
    """How urgent a job is; the smallest value goes first."""

    ASKED = 0
    """A caller waits for the result."""
    OPENED = 1
    """A swarm has opened."""
    REFRESHED = 2
    """An entry of ours needs a refresh."""
    REPEATED = 3
    """The peers of a swarm are still alone."""


@dataclass(slots=True, eq=False)
class Job:
    """All lookups of one visit of a record. They share a priority and an age."""

    priority: Priority = Priority.ASKED
    since: float = 0.0
    """When the job became due; of two jobs of equal priority the older one goes first."""
    has_turn: bool = False
    """Whether the job was given a turn that none of its lookups has used yet."""


@dataclass(frozen=True, slots=True)
class LookupLimits:
    """Limits for lookups: `parallel` at a time, `rate` per second on average, `burst` at once after a rest."""

    parallel: int = 8
    rate: float = 6.0
    burst: float = 30.0


class _Kind(NamedTuple):
    priority: Priority
    has_begun: bool


@dataclass(slots=True, eq=False)
class _Entry(Generic[K]):
    key: K
    job: Job
    kind: _Kind


class Turn(NamedTuple, Generic[K]):
    """Permission to run one lookup, for the job that was entered under `key`."""

    key: K
    job: Job
    has_begun: bool


class DueQueue(Generic[K]):
    """Jobs that become due at some time, lookups of jobs that have begun, and the order in which they get turns.

    Of the entries that are due, the one with the smallest `Priority` goes first; of equal priority the oldest (by
    `Job.since`). Every third turn goes to the oldest entry whatever its priority. `Priority.ASKED` is exempt: such
    entries go before all others, and their turns are not counted for that rule.

    The limits bound the turns that run at a time and that begin per second. Each key has at most one entry.
    """

    def __init__(self, limits: LookupLimits) -> None:
        self.running = 0
        """Turns that were taken and have not ended."""
        self._parallel = limits.parallel
        self._tokens = TokenBucket(limits.rate, limits.burst, 0.0)
        # Replaced and dropped entries stay in the heaps until they surface; only those in `_entries` are valid.
        self._entries: dict[K, _Entry[K]] = {}
        self._overdue: set[K] = set()
        self._lookups = 0
        self._later: list[tuple[float, int, _Entry[K]]] = []
        self._due: defaultdict[_Kind, list[tuple[float, int, _Entry[K]]]] = defaultdict(list)
        self._entered = 0
        self._taken = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def lookups(self) -> int:
        """Lookups of jobs that have begun, waiting for a turn."""
        return self._lookups

    @property
    def size(self) -> int:
        """Entries in memory, stale ones included."""
        return len(self._later) + sum(map(len, self._due.values()))

    def overdue(self, now: float) -> int:
        """Return the number of jobs that are due and have not begun."""
        self._advance(now)
        return len(self._overdue)

    def set(self, key: K, job: Job, *, has_begun: bool = False) -> None:
        """Enter a job that is due at `job.since`, or a lookup of a job that has begun, which is due at once.

        It replaces the entry of the same key.
        """
        self.drop(key)
        self._entered += 1
        entry = self._entries[key] = _Entry(key, job, _Kind(job.priority, has_begun))
        if has_begun:
            self._lookups += 1
            heappush(self._due[entry.kind], (job.since, self._entered, entry))
        else:
            heappush(self._later, (job.since, self._entered, entry))
        if self.size > 2 * len(self._entries) + SPARE:
            self._clear()

    def drop(self, key: K) -> None:
        """Remove the entry of a key, if there is one."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._lookups -= entry.kind.has_begun
            self._overdue.discard(key)

    def take(self, now: float, may_begin: bool = True) -> Turn[K] | None:
        """Take the next turn. Return None if no entry is due or the limits allow no turn now.

        Without `may_begin` only lookups of jobs that have begun get a turn.
        """
        kinds = self._waiting(now, may_begin)
        if not kinds or self.running >= self._parallel or not self._tokens.try_take(1, now):
            return None
        by_age = False
        if min(kinds).priority != Priority.ASKED:
            self._taken += 1
            by_age = self._taken % FAIR == 0
        kind = min(kinds, key=lambda one: (0 if by_age else one.priority, self._due[one][0][:2]))
        entry = heappop(self._due[kind])[2]
        self.drop(entry.key)
        self.running += 1
        return Turn(entry.key, entry.job, kind.has_begun)

    def done(self) -> None:
        """Note that a turn has ended."""
        self.running -= 1

    def give_back(self, now: float) -> None:
        """Return a turn unused, so that it counts against no limit."""
        self.running -= 1
        self._tokens.take(-1, now)

    def wait(self, now: float, may_begin: bool = True) -> float | None:
        """Return the seconds until `take` can succeed without any other call; None if it cannot."""
        if self.running >= self._parallel:
            return None
        if self._waiting(now, may_begin):
            missing = self._tokens.take(1, now)
            self._tokens.take(-1, now)
            return SLACK + missing
        due = self.next_due() if may_begin else None
        return None if due is None else SLACK + max(0.0, due - now)

    def next_due(self) -> float | None:
        """Return the earliest time at which a job becomes due that is not due yet; None if there is no such job."""
        while self._later and not self._is_valid(self._later[0][2]):
            heappop(self._later)
        return self._later[0][0] if self._later else None

    def _waiting(self, now: float, may_begin: bool) -> list[_Kind]:
        """Return the kinds of entries that could have a turn now, each with a valid entry on top of its heap."""
        self._advance(now)
        for due in self._due.values():
            while due and not self._is_valid(due[0][2]):
                heappop(due)
        return [kind for kind, due in self._due.items() if due and (may_begin or kind.has_begun)]

    def _advance(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            due = heappop(self._later)
            entry = due[2]
            if self._is_valid(entry):
                heappush(self._due[entry.kind], due)
                self._overdue.add(entry.key)

    def _is_valid(self, entry: _Entry[K]) -> bool:
        return self._entries.get(entry.key) is entry

    def _clear(self) -> None:
        for heap in (self._later, *self._due.values()):
            heap[:] = [one for one in heap if self._is_valid(one[2])]
            heapify(heap)
