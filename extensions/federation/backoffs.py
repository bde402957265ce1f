"""When a tracker may be dialed again after an attempt has failed (sans I/O; times are seconds on a monotonic clock)."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from math import inf
from typing import Final

from extensions.federation.reasons import WORTH_A_RETRY, Ended, EndReason
from extensions.trackers import TrackerEntry
from tracker.extension import ExpiringMap

FIRST_BACKOFF: Final = 1.0
FIRST_REFUSED: Final = 5.0
MAX_BACKOFF: Final = 300.0
"""Seconds until a tracker is dialed again that was not reached, and one that had no room: doubled after each attempt,
up to the last number."""

ATTEMPTS: Final = 8
FIRST_ATTEMPTS: Final = 3
"""Dials of a tracker that is not reached, and of one with which there was no link yet. After these it is dialed only if
it is found again, or a swarm is lonely."""

LASTING: Final = 60.0
"""Seconds after which a link that ends does not count as a failed attempt."""

MAX_REMEMBERED: Final = 10_000
REMEMBERED_FOR: Final = 2 * MAX_BACKOFF
"""Trackers whose failed attempts are remembered, and for how many seconds from the last one."""

MOVED_FOR: Final = 2 * 3600.0
"""Seconds for which an entry is remembered that leads to another tracker. It lives no longer."""


class Verdict(Enum):
    """The meaning of the end of a link for dialing the tracker again."""

    LOST = auto()
    """It was not reached, or the link was lost: it may be there again soon."""
    BUSY = auto()
    """It has no room, or this tracker has none."""
    MOVED = auto()
    """Another tracker answers at the URL: the entry is older than a change of keys."""
    HOPELESS = auto()
    """The reason will not have changed soon."""
    OVER = auto()
    """Nothing has failed: the link is not needed, or another link with the tracker stays."""


_OVER: Final = frozenset({EndReason.DUPLICATE, EndReason.REPLACED, EndReason.IDLE, EndReason.SHUTDOWN})
_BUSY: Final = frozenset({EndReason.TOO_MANY_LINKS, EndReason.IDLE})


def verdict_of(ended: Ended) -> Verdict:
    """Return what the end of a dialed link means."""
    given = ended.given
    if ended.reason in WORTH_A_RETRY or given == EndReason.SHUTDOWN:
        return Verdict.LOST
    if ended.reason is EndReason.TOO_MANY_LINKS or given in _BUSY:
        return Verdict.BUSY
    if ended.reason is EndReason.WRONG_ID:
        return Verdict.MOVED
    if ended.reason in _OVER or given in _OVER:
        return Verdict.OVER
    return Verdict.HOPELESS


@dataclass(slots=True)
class _Past:
    """The failed attempts to link with one tracker."""

    attempts: int = 0
    """Those that did not reach it since the last link that lasted."""
    refusals: int = 0
    """Those that it refused for want of room since then."""
    ready: float = 0.0
    was_linked: bool = False


class Backoffs:
    """The failed attempts of all trackers. `uniform` gives a random float between two floats."""

    def __init__(self, uniform: Callable[[float, float], float]) -> None:
        self._uniform = uniform
        self._past: ExpiringMap[str, _Past] = ExpiringMap(REMEMBERED_FOR, MAX_REMEMBERED)
        self._moved: ExpiringMap[str, int] = ExpiringMap(MOVED_FOR, MAX_REMEMBERED)
        """The end of an entry that leads to another tracker, by tracker id."""

    def ready_at(self, entry: TrackerEntry, now: float) -> float:
        """Return when a tracker may be dialed: 0 if now, infinity if not before it has a newer entry."""
        moved = self._moved.get(entry.tracker_id, now)
        if moved is not None and entry.expires <= moved:
            return inf
        past = self._past.get(entry.tracker_id, now)
        return past.ready if past and past.ready > now else 0.0

    def is_exhausted(self, tracker_id: str, now: float) -> bool:
        """Return whether a tracker was not reached so often that it is given up."""
        past = self._past.get(tracker_id, now)
        return past is not None and past.attempts >= (ATTEMPTS if past.was_linked else FIRST_ATTEMPTS)

    def note(self, entry: TrackerEntry, ended: Ended, now: float) -> float:
        """Note the end of a link that was dialed, or of an attempt. Return when the tracker may be dialed again."""
        verdict = verdict_of(ended)
        if verdict is Verdict.MOVED:
            self._moved.put(entry.tracker_id, entry.expires, now)
            return inf
        past = self._past.get(entry.tracker_id, now) or _Past()
        if ended.lasted is not None and ended.lasted > LASTING:
            past = _Past()
        past.was_linked |= ended.lasted is not None
        if verdict is Verdict.OVER:
            self._past.pop(entry.tracker_id)
            return now
        if verdict is Verdict.LOST:
            wait = min(MAX_BACKOFF, FIRST_BACKOFF * 2**past.attempts)
            past.attempts += 1
        elif verdict is Verdict.BUSY:
            wait = min(MAX_BACKOFF, FIRST_REFUSED * 2**past.refusals)
            # It answers, so it is no longer one that cannot be reached.
            past.attempts, past.refusals = 0, past.refusals + 1
        else:
            wait = MAX_BACKOFF
        # A random part, so that trackers that were refused together do not come back together.
        past.ready = now + wait * self._uniform(0.5, 1.0)
        self._past.put(entry.tracker_id, past, now)
        return past.ready
