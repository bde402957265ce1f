"""An infohash that this tracker follows in the DHT, and the time of the next visit of its record (sans I/O)."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Final, NamedTuple

from extensions.dht.cache import Known
from extensions.dht.krpc.schedule import FIRST, Priority
from extensions.dht.records.shards import ShardMemory
from extensions.dht.records.trouble import Trouble
from extensions.dht.refresh import REFRESH, OwnEntry
from extensions.entries import LIFETIME
from extensions.trackers import RENDEZVOUS, Sighting

LONELY: Final = (10.0, 60.0, 300.0, 600.0, 1200.0, 1800.0)
"""Seconds from one visit to the next while the peers of a swarm are alone; the last value repeats."""

READ_BACK: Final = (30.0, 90.0)
"""Seconds from a publication to the check whether it is still there, if other trackers write to that record too."""

ANNOUNCE: Final = (20 * 60.0, 30 * 60.0)
"""Seconds between two announcements (BEP 5): nodes forget them after 45 minutes. A record in which our entry finds no
place at all is visited as often."""

ANNOUNCE_SLACK: Final = 10 * 60.0
"""An announcement waits so many seconds for the next visit, which also announces."""

THOROUGH_EVERY: Final = 5
"""Each one of so many visits for lonely peers reads all slots and uses BEP 5, too."""

MAX_VAIN: Final = 2
VAIN_EVERY: Final = 4
"""Visits in a row that search for the missing entries of others in vain, and after which every so many do it again."""

RETRY: Final = (60.0, 180.0)
"""Seconds until a failed visit is repeated; doubled after each further failure."""

MAX_DOUBLINGS: Final = 5


class NextVisit(NamedTuple):
    """When the next visit is due, and how urgent it is. Times are monotonic seconds."""

    due: float
    priority: Priority
    refresh_due: float = inf
    """When it also becomes due as a refresh of our entry, if it has another reason until then."""


NO_VISIT: Final = NextVisit(inf, Priority.REPEATED)


@dataclass(slots=True)
class TrackedHash:
    """An infohash that has an open swarm, is published by an extension, or is being looked up.

    A *visit* of its record is one job in the DHT: it reads the record, reports the trackers found, and then writes or
    removes our own entry as needed.
    """

    info_hash: bytes
    known: Known
    last_visit: float
    """When the last visit read the record (monotonic seconds)."""
    peers: int = 0
    """Local peers of its swarm; 0 if none is open."""
    linked: bool = False
    """Whether its peers can reach peers of other trackers."""
    pinned: bool = False
    """Whether an extension wants it published, with or without a swarm."""
    withdrawn: bool = False
    """Whether our entry must be removed from its record, where it may still be."""
    lonely_visits: int = 0
    """Visits that left its peers alone."""
    failures: int = 0
    """Visits since the last successful one."""
    failed_at: float = -inf
    """When the last of them ended (monotonic seconds)."""
    visit_again: bool = False
    """Whether something changed too late for the visit under way."""
    thorough: bool = False
    """Whether the next visit, or the one under way, must use BEP 5 too."""
    visit: asyncio.Task[None] | None = None
    """The visit under way."""
    next_visit: NextVisit = NO_VISIT
    announce_due: float = inf
    """When the next announcement by BEP 5 is due (monotonic seconds), if it is announced at all."""
    last_search: float = -inf
    """When BEP 5 was used last to find trackers (monotonic seconds)."""
    shards: ShardMemory = field(default_factory=ShardMemory)
    own: OwnEntry = field(default_factory=OwnEntry)
    troubles: frozenset[Trouble] = frozenset()
    """The troubles of its records at the last visit."""
    vain_searches: int = 0
    """Visits, in a row, that have found no entry of another tracker, neither where it must be nor elsewhere."""
    listeners: set[asyncio.Queue[Sighting | None]] = field(default_factory=set)
    """They receive each tracker found, and None at the end."""

    @property
    def is_lonely(self) -> bool:
        """Whether its peers have found no others; at the rendezvous, whether this tracker has not."""
        if self.peers:
            return self.peers < 2 and not self.linked
        return self.info_hash == RENDEZVOUS and not self.known.seen

    @property
    def is_thorough_turn(self) -> bool:
        """Whether the next visit is one of those for lonely peers that search everywhere."""
        return self.is_lonely and self.lonely_visits % THOROUGH_EVERY == THOROUGH_EVERY - 1

    @property
    def may_search(self) -> bool:
        """Whether the next visit may search for missing entries of others: not always if that was in vain."""
        return self.vain_searches < MAX_VAIN or self.vain_searches % VAIN_EVERY == 0

    @property
    def is_first_visit(self) -> bool:
        """Whether the next visit is the first one of a swarm that has opened."""
        return self.next_visit.priority in FIRST

    @property
    def is_kept(self) -> bool:
        """Whether its record is visited from time to time."""
        return bool(self.peers or self.pinned or self.withdrawn)

    @property
    def is_needed(self) -> bool:
        """Whether there is any reason to track it."""
        return bool(self.is_kept or self.visit or self.listeners)


def next_visit(
    tracked: TrackedHash,
    is_wanted: bool,
    wait: tuple[float, float] | None,
    own_left: float,
    now: float,
    uniform: Callable[[float, float], float],
) -> NextVisit:
    """Return the time and the priority of the next visit.

    `is_wanted`: our entry should be in the record. `own_left`: seconds for which the entry there is still valid; 0 or
    less if there is none. `wait`: the last visit asked for another one after this many seconds (minimum, maximum).
    """
    due, priority = tracked.last_visit + uniform(*REFRESH), Priority.REPEATED
    if is_wanted:
        priority = Priority.REFRESHED
        # More than the whole lifetime is left if the clock has been set back.
        if tracked.own.is_fresh(own_left) and own_left <= LIFETIME:
            due = now + own_left - LIFETIME + tracked.own.interval(uniform)
        else:
            wait = wait or RETRY
    elif tracked.withdrawn:
        priority = Priority.REFRESHED
        wait = wait or RETRY
    backoff = 2.0 ** min(MAX_DOUBLINGS, max(0, tracked.failures - 1))
    if wait:
        due = min(due, now + uniform(*wait) * backoff)
    if tracked.is_lonely:
        step = LONELY[min(max(0, tracked.lonely_visits - 1), len(LONELY) - 1)]
        lonely_due = tracked.last_visit + step * uniform(0.8, 1.2) * backoff
        if lonely_due < due:
            refresh_due = max(now, due) if priority == Priority.REFRESHED else inf
            return NextVisit(max(now, lonely_due), Priority.REPEATED, refresh_due)
    return NextVisit(max(now, due), priority)
