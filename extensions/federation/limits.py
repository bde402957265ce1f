"""Limits that all links share: time on the event loop, places for dials, and memory for other trackers' swarms."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

STUCK_AFTER: Final = 30.0
"""Seconds that the transport of a link may take to accept one frame."""

TURN: Final = 0.002
"""Seconds that links may work on received messages until other tasks of the event loop run."""


class Turns:
    """A lock for links that work on received messages.

    One link works at a time. When links have worked for `TURN` seconds within one turn of the event loop, the lock
    passes on only after all other tasks that are ready have run. So other tasks wait for one link at most, however many
    links there are.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._until = 0.0
        """When the time for links in this turn of the event loop is over; 0 if no link has worked in it yet."""

    async def __aenter__(self) -> None:
        await self._lock.acquire()
        if not self._until:
            self._until = self._monotonic() + TURN
            asyncio.get_running_loop().call_soon(self._end)

    async def __aexit__(self, *_: object) -> None:
        try:
            if self.is_over:
                # Let all other tasks that are ready run before the next link gets the lock.
                await asyncio.sleep(0)
        finally:
            self._lock.release()

    @property
    def is_over(self) -> bool:
        """Whether links have worked for `TURN` seconds in this turn of the event loop."""
        return self._monotonic() > self._until

    def _end(self) -> None:
        self._until = 0.0


class Gate:
    """Places for dials. Urgent dials come first, and the others take at most half of the places.

    So hosts that accept connections and then do nothing do not keep a tracker waiting that is known to be useful.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._busy = {True: 0, False: 0}
        self._waiting: dict[bool, deque[asyncio.Future[None]]] = {True: deque(), False: deque()}

    @property
    def waiting(self) -> int:
        """Dials that wait for a place."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def place(self, urgent: bool) -> AsyncIterator[None]:
        """Wait for a place, and hold it."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[urgent].append(turn)
        self._admit()
        try:
            await turn
            yield
        finally:
            if not turn.cancelled():
                self._busy[urgent] -= 1
            elif turn in self._waiting[urgent]:
                self._waiting[urgent].remove(turn)
            self._admit()

    def _admit(self) -> None:
        for urgent, places in ((True, self._places), (False, self._places // 2)):
            while self._waiting[urgent] and sum(self._busy.values()) < self._places and self._busy[urgent] < places:
                turn = self._waiting[urgent].popleft()
                # If its task is cancelled, the task has not run since.
                if not turn.cancelled():
                    self._busy[urgent] += 1
                    turn.set_result(None)


class Budget:
    """An amount that links share, such as bytes of memory: each of `links` has an equal share of one half for itself.

    The other half goes to those that come first. So no link takes everything, and no link is left without anything.
    """

    def __init__(self, total: int, links: int) -> None:
        self._own = total // (2 * links)
        self._common = total // 2
        self.refused = 0
        """How often something was not granted."""

    def take(self, used: int, more: int) -> bool:
        """Grant `more` to a link that uses `used`; if it is negative, take it back. Return whether it is granted."""
        needed = max(0, used + more - self._own) - max(0, used - self._own)
        if needed > self._common:
            self.refused += 1
            return False
        self._common -= needed
        return True
