"""What a link may hold up, and what all links together may cost."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

STUCK_AFTER: Final = 30.0
"""Seconds for which one frame may wait to be taken."""

TURN: Final = 0.002
"""Seconds for which what came over links is worked off before everybody else has their turn."""


class Turns:
    """Lets one link at a time work off what came, so that however many there are, others wait for one of them only."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._until = 0.0
        """When this turn of the event loop is over for links; 0 if none has worked in it yet."""

    async def __aenter__(self) -> None:
        await self._lock.acquire()
        if not self._until:
            self._until = self._monotonic() + TURN
            asyncio.get_running_loop().call_soon(self._end)

    async def __aexit__(self, *_: object) -> None:
        try:
            if self.is_over:
                # Whatever else is ready comes before the next link's turn.
                await asyncio.sleep(0)
        finally:
            self._lock.release()

    @property
    def is_over(self) -> bool:
        """Whether links have been at work for long enough."""
        return self._monotonic() > self._until

    def _end(self) -> None:
        self._until = 0.0


class Room:
    """Places for what others have us remember, shared by all links."""

    def __init__(self, places: int) -> None:
        self.left = places
