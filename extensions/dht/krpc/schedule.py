"""The order in which lookups run (sans I/O; times are seconds on any monotonic clock)."""

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, replace
from enum import IntEnum
from heapq import heapify, heappop, heappush
from math import inf
from typing import Final, Generic, NamedTuple, TypeVar

from tracker.extension import TokenBucket

ROUND: Final = 4
"""Of this many turns one goes to the refreshes, one to the swarm that has opened last, and one to the oldest entry."""

MANY: Final = 256
"""While as many lookups of jobs that have begun wait, no job begins in the turns of the swarm that has opened last.
Otherwise more and more jobs would be under way if each took more lookups than a round has turns."""

SPARE: Final = 64
"""Heaps are cleared of stale entries once there are more of them than of valid entries, and more than this."""

SLACK: Final = 1e-6
"""Seconds added to each wait, because rounding could otherwise leave a tiny rest of it."""

FEW: Final = 3600
"""Infohashes up to which the limits are not raised. One refresh an hour of each takes one lookup a second, a sixth of
the rate, so that a quarter of the turns suffices for them."""

MAX_RAISE: Final = 20 / 6
"""The limits are raised to so many times their values at most: 20 lookups per second. In the public DHT these are some
900 queries to as many addresses. A firewall or NAT that remembers each for 30 s needs 27 000 places for them; the Linux
kernel has 65 536 or more on a host with a gigabyte. Routers at home have less, but no tracker behind one has so many
swarms."""

K = TypeVar("K", bound=Hashable)


class Priority(IntEnum):
    """How urgent a job is; the smallest value goes first."""

    ASKED = 0
    """A caller waits for the result."""
    OPENED = 1
    """A swarm has opened that should be published."""
    REFRESHED = 2
    """An entry of ours needs a refresh."""
    UNPUBLISHED = 3
    """A swarm has opened that should not be published."""
    LINKED = 4
    """A swarm has opened, and its peers can reach those of other trackers already."""
    REPEATED = 5
    """The record was looked up before, and the peers of a swarm are still alone."""


FIRST: Final = frozenset((Priority.OPENED, Priority.UNPUBLISHED, Priority.LINKED))
"""The priorities of the first visit after a swarm has opened."""


@dataclass(slots=True, eq=False)
class Job:
    """All lookups of one visit of a record. They share a priority and an age."""

    priority: Priority = Priority.ASKED
    since: float = 0.0
    """When the job became due."""
    refresh_due: float = inf
    """When its priority becomes `REFRESHED`, if it has a lower one."""
    has_turn: bool = False
    """Whether the job was given a turn that none of its lookups has used yet."""


@dataclass(frozen=True, slots=True)
class LookupLimits:
    """Limits for lookups: `parallel` at a time, `rate` per second on average, `burst` at once after a rest."""

    parallel: int = 8
    rate: float = 6.0
    burst: float = 30.0

    def raised_for(self, infohashes: int) -> "LookupLimits":
        """Return the limits for so many infohashes, so that each can be looked up within minutes."""
        factor = min(MAX_RAISE, max(1.0, infohashes / FEW))
        return replace(self, parallel=int(self.parallel * factor), rate=self.rate * factor)


class _Kind(NamedTuple):
    priority: Priority
    is_new: bool
    """Whether the job has not begun: those that have begun go before all others of their priority."""


def _is_first(kind: _Kind) -> bool:
    return kind.is_new and kind.priority in FIRST


@dataclass(slots=True, eq=False)
class _Entry(Generic[K]):
    key: K
    job: Job
    kind: _Kind


_Place = tuple[float, float, _Entry[K]]
"""An entry in a heap: what it is ordered by, its number, and the entry itself."""


class Turn(NamedTuple, Generic[K]):
    """Permission to run one lookup, for the job that was entered under `key`."""

    key: K
    job: Job
    has_begun: bool


class DueQueue(Generic[K]):
    """Jobs that become due at some time, lookups of jobs that have begun, and the order in which they get turns.

    Of the entries that are due, the one with the smallest `Priority` goes first. Of equal priority, lookups of jobs
    that have begun go first. Of the others, the newest (by `Job.since`) goes first if their priority is one of `FIRST`,
    because peers have just come; otherwise the oldest.

    There are three exceptions. Of every `ROUND` turns, one goes to the oldest entry of `Priority.REFRESHED`, one to the
    newest job of a priority in `FIRST` that has not begun, and one to the oldest entry of all, if there are such.
    `Priority.ASKED` is exempt: such entries go before all others, and their turns are not counted. This guarantees that

    * the swarm that has opened last waits for three turns of other jobs at most, unless `MANY` lookups wait;
    * our entries in records are renewed in time, if a quarter of the turns suffices for all of them;
    * no entry waits for ever.

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
        self._later: list[_Place[K]] = []
        self._due: defaultdict[_Kind, list[_Place[K]]] = defaultdict(list)
        # Those that are due, and will have a higher priority at some time.
        self._refreshes: list[_Place[K]] = []
        # Those that are due, have not begun and have a priority of `FIRST`, the newest first.
        self._newest: list[_Place[K]] = []
        # By `is_new`, all that are due, the oldest first.
        self._oldest: dict[bool, list[_Place[K]]] = {True: [], False: []}
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
        return sum(map(len, self._heaps))

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
        entry = self._entries[key] = _Entry(key, job, _Kind(job.priority, not has_begun))
        if has_begun:
            self._lookups += 1
            self._add_due((job.since, self._entered, entry))
        else:
            heappush(self._later, (job.since, self._entered, entry))
        if self.size > 4 * len(self._entries) + SPARE:
            self._clear()

    def drop(self, key: K) -> None:
        """Remove the entry of a key, if there is one."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._lookups -= not entry.kind.is_new
            self._overdue.discard(key)

    def take(self, now: float, may_begin: bool = True) -> Turn[K] | None:
        """Take the next turn. Return None if no entry is due or the limits allow no turn now.

        Without `may_begin` only lookups of jobs that have begun get a turn.
        """
        kinds = self._waiting(now, may_begin)
        if not kinds or self.running >= self._parallel or not self._tokens.try_take(1, now):
            return None
        entry = self._first(kinds)
        self.drop(entry.key)
        self.running += 1
        return Turn(entry.key, entry.job, not entry.kind.is_new)

    def limit(self, limits: LookupLimits, now: float) -> None:
        """Replace the limits."""
        self._parallel = limits.parallel
        self._tokens.change(limits.rate, limits.burst, now)

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

    @property
    def _heaps(self) -> list[list[_Place[K]]]:
        return [self._later, self._refreshes, self._newest, *self._due.values(), *self._oldest.values()]

    def _first(self, kinds: list[_Kind]) -> _Entry[K]:
        """Return the entry that has the next turn, and count the turn. Some kinds have valid entries that are due."""
        kind = min(kinds)
        if kind.priority != Priority.ASKED:
            self._taken += 1
            if self._taken % ROUND == 1:
                kind = min((one for one in kinds if one.priority == Priority.REFRESHED), default=kind)
            elif self._taken % ROUND == 2 and self._lookups < MANY and any(map(_is_first, kinds)):
                newest = self._top(self._newest)
                assert newest
                return newest[2]
            elif self._taken % ROUND == 3:
                tops = [self._top(self._oldest[is_new]) for is_new in {one.is_new for one in kinds}]
                return min(top for top in tops if top)[2]
        top = self._top(self._due[kind])
        assert top
        return top[2]

    def _waiting(self, now: float, may_begin: bool) -> list[_Kind]:
        """Return the kinds of entries that could have a turn now."""
        self._advance(now)
        return [kind for kind, due in self._due.items() if self._top(due) and (may_begin or not kind.is_new)]

    def _advance(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            place = heappop(self._later)
            entry = place[2]
            if self._is_valid(entry):
                self._add_due(place)
                self._overdue.add(entry.key)
                if entry.job.refresh_due < inf and entry.kind.priority > Priority.REFRESHED:
                    heappush(self._refreshes, (entry.job.refresh_due, place[1], entry))
        while self._refreshes and self._refreshes[0][0] <= now:
            due, number, entry = heappop(self._refreshes)
            if self._is_valid(entry):
                job = replace(entry.job, priority=Priority.REFRESHED, since=due)
                entry = self._entries[entry.key] = _Entry(entry.key, job, _Kind(job.priority, True))
                # The entry that it replaces is in the same heap with that number.
                self._add_due((due, number + 0.5, entry))

    def _add_due(self, place: _Place[K]) -> None:
        since, number, entry = place
        priority, is_new = entry.kind
        reverse = (-since, -number, entry)
        heappush(self._due[entry.kind], reverse if _is_first(entry.kind) else place)
        if _is_first(entry.kind):
            heappush(self._newest, reverse)
        if priority != Priority.ASKED:
            heappush(self._oldest[is_new], place)

    def _top(self, heap: list[_Place[K]]) -> _Place[K] | None:
        """Return the first valid place of a heap, if there is one."""
        while heap and not self._is_valid(heap[0][2]):
            heappop(heap)
        return heap[0] if heap else None

    def _is_valid(self, entry: _Entry[K]) -> bool:
        return self._entries.get(entry.key) is entry

    def _clear(self) -> None:
        for heap in self._heaps:
            heap[:] = [one for one in heap if self._is_valid(one[2])]
            heapify(heap)
