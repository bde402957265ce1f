"""Limits that all links share: time on the event loop, and memory for the swarms of other trackers."""

import asyncio
import time
from collections.abc import Callable
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


class Budget:
    """The number of other trackers' swarms that all links together may still store."""

    def __init__(self, swarms: int) -> None:
        self.left = swarms
