"""Dialing: listed trackers for ever, and other trackers as long as they are wanted."""

import asyncio
import random
import time
from collections.abc import Callable, Container
from itertools import islice
from math import inf
from typing import Final

import structlog

from extensions.federation.backoffs import FIRST_BACKOFF, LASTING, Backoffs, Verdict, verdict_of
from extensions.federation.limits import Gate
from extensions.federation.listed import Listed
from extensions.federation.mesh import Mesh
from extensions.federation.reasons import Ended, EndReason
from extensions.trackers import TrackerEntry
from tracker.extension import without_secrets

MAX_LISTED_BACKOFF: Final = 60.0
"""Seconds after which a listed tracker that was not reached is dialed again, at most."""

MAX_DIALS: Final = 16
"""Trackers that are dialed at the same time; listed ones do not count."""

MAX_NAMED: Final = 8
"""Swarms that the dialer of a link names."""

MAX_CAUSES: Final = 1000
"""Swarms for which one tracker is pursued that are remembered."""


class Pursuit:
    """The attempts to link with one tracker, and the link."""

    def __init__(self, entry: TrackerEntry) -> None:
        self.entry = entry
        self.causes: dict[str, None] = {}
        """Infohashes of swarms for which it is pursued."""
        self.urgent = False
        self.is_waiting = False
        """Whether the backoff runs."""
        self.task: asyncio.Task[None] | None = None


class Pursuits:
    """Dials trackers.

    `on_result` is called after each attempt and each link with the entry, the swarms for which the tracker was dialed,
    the end, and the time when it may be dialed again. `swarms` are the infohashes of the open swarms. `allow_private`
    permits ws:// URLs and private addresses. Times are those of `monotonic`.
    """

    def __init__(
        self,
        mesh: Mesh,
        allow_private: bool,
        swarms: Container[str],
        on_result: Callable[[TrackerEntry, list[str], Ended, float], None],
        monotonic: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._mesh = mesh
        self._allow_private = allow_private
        self._swarms = swarms
        self._on_result = on_result
        self._monotonic = monotonic
        self._uniform = uniform
        self._pursued: dict[str, Pursuit] = {}
        self._backoffs = Backoffs(uniform)
        self._gate = Gate(MAX_DIALS)
        self._log = structlog.get_logger().bind(extension="federation")

    @property
    def pursued(self) -> int:
        """Trackers that are dialed, linked by dialing, or waited for."""
        return len(self._pursued)

    @property
    def queued(self) -> int:
        """Dials that wait for others to end."""
        return self._gate.waiting

    @property
    def waiting(self) -> int:
        """Trackers that are dialed again after their backoff."""
        return sum(pursuit.is_waiting for pursuit in self._pursued.values())

    def start(self) -> None:
        """Begin to dial the listed trackers."""
        for listed in self._mesh.listed.values():
            self._mesh.tasks.start("federation_listed", self._keep(listed))

    def ready_at(self, entry: TrackerEntry) -> float:
        """Return when a tracker may be dialed: 0 if now, infinity if not with this entry."""
        now = self._monotonic()
        if not self._mesh.admission.admits(entry.tracker_id, now):
            return inf
        return self._backoffs.ready_at(entry, now)

    def want(self, entry: TrackerEntry, cause: str = "", urgent: bool = True) -> bool:
        """Begin to link with a tracker, unless something forbids it. Return whether it is pursued now.

        `cause` is the infohash of the swarm that needs it. If the tracker is not reached, or the link is lost, it is
        dialed again for some time.
        """
        pursuit = self._pursued.get(entry.tracker_id)
        if pursuit is None:
            mesh = self._mesh
            if mesh.is_closing or entry.tracker_id in mesh.links or self.ready_at(entry) > self._monotonic():
                return False
            if not (mesh.has_room(common=cause in self._swarms) and self._make_place()):
                return False
            pursuit = self._pursued[entry.tracker_id] = Pursuit(entry)
            pursuit.urgent = urgent
            pursuit.task = mesh.tasks.start("federation_pursued", self._pursue(pursuit))
        if entry.expires >= pursuit.entry.expires:
            pursuit.entry = entry
        if cause and len(pursuit.causes) < MAX_CAUSES:
            pursuit.causes[cause] = None
        pursuit.urgent |= urgent
        return True

    def _make_place(self) -> bool:
        """Give up a tracker that is waited for if too many are pursued. Return whether there is a place."""
        if len(self._pursued) < 2 * self._mesh.max_links:
            return True
        waiting = next((pursuit for pursuit in self._pursued.values() if pursuit.is_waiting), None)
        if waiting is None or waiting.task is None:
            return False
        del self._pursued[waiting.entry.tracker_id]
        waiting.task.cancel()
        return True

    async def _pursue(self, pursuit: Pursuit) -> None:
        """Link with a tracker, and again when the link is lost, until all attempts are used up."""
        tracker_id = pursuit.entry.tracker_id
        try:
            while not self._mesh.is_closing:
                entry = pursuit.entry
                ended = await self._link(pursuit)
                now = self._monotonic()
                ready = self._backoffs.note(entry, ended, now)
                self._on_result(entry, list(pursuit.causes), ended, ready)
                if verdict_of(ended) is not Verdict.LOST or self._backoffs.is_exhausted(tracker_id, now):
                    break
                pursuit.is_waiting = True
                await self._mesh.pause(ready - now)
                pursuit.is_waiting = False
                if tracker_id in self._mesh.links or not self._mesh.admission.admits(tracker_id, self._monotonic()):
                    break
        finally:
            if self._pursued.get(tracker_id) is pursuit:
                del self._pursued[tracker_id]

    async def _link(self, pursuit: Pursuit) -> Ended:
        """Dial a tracker when it has its turn, and serve the link. Return how that has ended."""
        async with self._mesh.connecting(), self._gate.place(pursuit.urgent):
            entry = pursuit.entry
            if entry.tracker_id in self._mesh.links:
                return Ended(EndReason.DUPLICATE)
            transport = await self._mesh.connect(entry.url, self._allow_private)
        if isinstance(transport, Ended):
            return transport
        wanted = islice((cause for cause in pursuit.causes if cause in self._swarms), MAX_NAMED)
        return await self._mesh.serve(transport, entry.url, entry.tracker_id, list(wanted))

    async def _keep(self, listed: Listed) -> None:
        """Keep a link with a listed tracker until this tracker stops."""
        mesh = self._mesh
        backoff = FIRST_BACKOFF
        while not mesh.is_closing:
            if listed.tracker_id in mesh.links:
                # The other side has dialed.
                listed.on_success()
                backoff = FIRST_BACKOFF
            else:
                started = self._monotonic()
                listed.next_try = 0.0
                async with mesh.connecting():
                    transport = await mesh.connect(listed.url, trusted=True)
                ended = transport if isinstance(transport, Ended) else await mesh.serve(transport, listed.url)
                del transport
                has_lasted = self._monotonic() - started > LASTING
                has_another = not {ended.reason, ended.given}.isdisjoint((EndReason.DUPLICATE, EndReason.REPLACED))
                if has_lasted or has_another:
                    listed.on_success()
                    backoff = FIRST_BACKOFF
                else:
                    backoff = min(MAX_LISTED_BACKOFF, backoff * 2)
                    if listed.on_failure(ended.reason, ended.text) and not mesh.is_closing:
                        text = without_secrets(ended.text)
                        self._log.warning("listed_tracker_down", url=listed.url, reason=ended.reason.value, text=text)
                listed.next_try = time.time() + backoff
            await mesh.pause(backoff * self._uniform(0.5, 1.0))
