"""Which trackers are dialed for which swarm, and when (sans I/O; times are seconds on a monotonic clock).

Each known tracker of a swarm is dialed once: until this tracker was linked with it, or all attempts have failed. If a
swarm has many known trackers, they are dialed only until it has enough neighbours. As long as a swarm is lonely, all of
them are tried again and again. There is no scan over all swarms: each has one time in a heap at which it is looked at.
"""

import heapq
from collections.abc import Callable, Container, Iterable, Sequence
from math import inf
from typing import Final, Protocol

from extensions.federation.backoffs import Verdict, verdict_of
from extensions.federation.reasons import Ended
from extensions.trackers import RENDEZVOUS_TEXT, TrackerEntry

ALL: Final = 16
"""Known trackers of a swarm up to which all of them are dialed."""

DEGREE: Final = 8
"""Neighbours that a swarm with more known trackers should have."""

PAUSE: Final = 0.2
"""Seconds between two looks at the known trackers of a swarm while more of them are found."""

SETTLING: Final = 10.0
"""Seconds that a dialed tracker has to become a neighbour in the swarm, until another one is dialed in its place."""

LONELY: Final = (15.0, 30.0, 60.0)
"""Seconds until the trackers of a lonely swarm are tried again, for the first time and so on; then the last of them."""

MAX_FAILURES: Final = 16
"""Trackers of a swarm that cannot be linked, beyond which dials for the swarm are less urgent than others."""


MAX_FRESH: Final = 32
"""Entries of one swarm, of those found last, that are not forgotten for others that end later."""

MAX_STALE: Final = 1000
"""Times in the heap that are no longer valid, besides one for each swarm."""

_FAILED: Final = -inf
"""In place of the time when a tracker was dialed that could not be linked."""


class Dials(Protocol):
    """The part of `Pursuits` that is used here."""

    def ready_at(self, entry: TrackerEntry) -> float: ...
    def want(self, entry: TrackerEntry, cause: str, urgent: bool) -> bool: ...


class Swarms(Protocol):
    """The state of the swarms of this tracker. The rendezvous counts as a swarm with all linked trackers."""

    def is_open(self, info_hash: str) -> bool:
        """Return whether a swarm is open here."""
        ...

    def known(self, info_hash: str) -> Sequence[TrackerEntry]:
        """Return the valid entries of other trackers for an infohash."""
        ...

    def degree(self, info_hash: str) -> int:
        """Return the number of neighbours in a swarm."""
        ...

    def is_lonely(self, info_hash: str) -> bool:
        """Return whether none of the peers of a swarm has met another; at the rendezvous, whether there is no link."""
        ...


class _Search:
    """The state of one swarm."""

    __slots__ = ("again_at", "due", "failures", "fresh", "has_news", "is_large", "looked_at", "rounds", "tried")

    def __init__(self) -> None:
        self.tried: dict[str, float] = {}
        """When known trackers were dialed or found linked, by tracker id, unless they are to be dialed again."""
        self.fresh: dict[str, TrackerEntry] = {}
        """The entries that were found last, by tracker id. The table of known ones may be full of others."""
        self.has_news = True
        """Whether a tracker may be known that was not tried."""
        self.is_large = False
        """Whether not all known trackers are dialed."""
        self.looked_at = -inf
        """When the known trackers were last examined."""
        self.failures = 0
        """Trackers that could not be linked since one was."""
        self.rounds = 0
        """How often the trackers were tried again since the swarm has been lonely."""
        self.again_at = inf
        """When they are tried again."""
        self.due = inf
        """When the swarm is looked at. An infinite time is not in the heap."""


class Seeker:
    """Decides whom to dial. `links` are the ids of the linked trackers. `sample` draws from a sequence.

    `advance` is the number of links that are made without a common swarm.
    """

    def __init__(
        self,
        swarms: Swarms,
        dials: Dials,
        links: Container[str],
        advance: int,
        sample: Callable[[Sequence[TrackerEntry], int], list[TrackerEntry]],
    ) -> None:
        self._swarms = swarms
        self._dials = dials
        self._links = links
        self._advance = advance
        self._sample = sample
        self._searches: dict[str, _Search] = {}
        self._heap: list[tuple[float, str]] = []
        """The times of all searches. Those that are no longer valid are dropped when it is their turn."""

    @property
    def searches(self) -> int:
        """Swarms with known trackers."""
        return len(self._searches)

    @property
    def waiting(self) -> int:
        """Times that are stored, valid or not."""
        return len(self._heap)

    @property
    def next_due(self) -> float:
        """When `look` has something to do; infinity if never."""
        while self._heap:
            due, info_hash = self._heap[0]
            search = self._searches.get(info_hash)
            if search and search.due == due:
                return due
            heapq.heappop(self._heap)
        return inf

    def on_entry(self, info_hash: str, entry: TrackerEntry | None, now: float) -> None:
        """Take notice that an entry of a tracker has become known for an infohash; None: entries when a swarm opens."""
        if info_hash != RENDEZVOUS_TEXT and not self._swarms.is_open(info_hash):
            return
        search = self._searches.get(info_hash)
        if search is None:
            search = self._searches[info_hash] = _Search()
        search.has_news = True
        if entry:
            search.fresh[entry.tracker_id] = entry
            if len(search.fresh) > MAX_FRESH:
                del search.fresh[next(iter(search.fresh))]
        self._schedule(info_hash, search, max(now, search.looked_at + PAUSE))

    def swarm_closed(self, info_hash: str) -> None:
        """Forget a swarm."""
        self._searches.pop(info_hash, None)

    def on_change(self, info_hash: str, now: float) -> None:
        """Take notice that peers or neighbours of a swarm have changed, so that it may be lonely now."""
        search = self._searches.get(info_hash)
        if search and search.due > now + LONELY[0]:
            self._schedule(info_hash, search, now + LONELY[0])

    def on_result(self, entry: TrackerEntry, causes: Iterable[str], ended: Ended, ready: float, now: float) -> None:
        """Take notice of the end of a link that was dialed, or of an attempt.

        The tracker may be dialed again from `ready` on.
        """
        verdict = verdict_of(ended)
        tracker_id = entry.tracker_id
        for info_hash in causes:
            search = self._searches.get(info_hash)
            if search is None:
                continue
            if ended.lasted is not None:
                search.failures = 0
            elif verdict is Verdict.BUSY:
                # It was not linked once.
                search.tried.pop(tracker_id, None)
                self._look_again(info_hash, search, ready)
            elif verdict is not Verdict.OVER and search.tried.get(tracker_id, _FAILED) > _FAILED:
                search.tried[tracker_id] = _FAILED
                search.failures += 1
            if search.is_large and ended.lasted is None:
                # Another one may be dialed in its place.
                self._look_again(info_hash, search, now)

    def look(self, now: float, most: int) -> None:
        """Look at the swarms whose time has come, at most at so many, and dial trackers for them."""
        for _ in range(most):
            if self.next_due > now:
                return
            _, info_hash = heapq.heappop(self._heap)
            search = self._searches[info_hash]
            search.due = inf
            self._look_at(info_hash, search, now)

    def _look_at(self, info_hash: str, search: _Search, now: float) -> None:
        is_lonely = self._swarms.is_lonely(info_hash)
        if not is_lonely:
            search.rounds, search.again_at = 0, inf
        elif search.again_at <= now:
            search.tried.clear()
            search.has_news = True
        if is_lonely and (search.again_at <= now or search.again_at == inf):
            search.again_at = now + LONELY[min(search.rounds, len(LONELY) - 1)]
            search.rounds += 1
        if search.has_news:
            self._dial(info_hash, search, now)
        self._schedule(info_hash, search, search.again_at)

    def _dial(self, info_hash: str, search: _Search, now: float) -> None:
        degree = self._swarms.degree(info_hash)
        enough = self._advance if info_hash == RENDEZVOUS_TEXT else DEGREE
        if search.is_large and degree >= enough:
            # If that changes, `on_change` is called.
            return
        known = {entry.tracker_id: entry for entry in self._swarms.known(info_hash)} | search.fresh
        search.tried = {tracker_id: since for tracker_id, since in search.tried.items() if tracker_id in known}
        for tracker_id in known:
            if tracker_id in self._links and tracker_id not in search.tried:
                search.tried[tracker_id] = now
        left = [entry for tracker_id, entry in known.items() if tracker_id not in search.tried]
        search.has_news, search.looked_at = False, now
        search.is_large = info_hash == RENDEZVOUS_TEXT or len(known) > ALL
        most = len(left)
        if search.is_large:
            most = enough - degree - sum(since > now - SETTLING for since in search.tried.values())
            left = self._sample(left, len(left))
        urgent = info_hash != RENDEZVOUS_TEXT and search.failures < MAX_FAILURES
        for entry in left:
            ready = self._dials.ready_at(entry)
            if ready > now:
                self._look_again(info_hash, search, ready)
            elif most <= 0:
                self._look_again(info_hash, search, now + SETTLING)
                break
            elif self._dials.want(entry, info_hash, urgent):
                search.tried[entry.tracker_id] = now
                most -= 1
            else:
                # There is no place for more dials or links.
                self._look_again(info_hash, search, now + LONELY[0])
                break

    def _look_again(self, info_hash: str, search: _Search, when: float) -> None:
        if when < inf:
            search.has_news = True
            self._schedule(info_hash, search, when)

    def _schedule(self, info_hash: str, search: _Search, when: float) -> None:
        if when < search.due:
            search.due = when
            heapq.heappush(self._heap, (when, info_hash))
            if len(self._heap) > 2 * len(self._searches) + MAX_STALE:
                self._heap = [(one.due, key) for key, one in self._searches.items() if one.due < inf]
                heapq.heapify(self._heap)
