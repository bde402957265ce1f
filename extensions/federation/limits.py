"""Limits of what a link may cost (times are seconds of any monotonic clock)."""

import asyncio


class Bucket:
    """So much per second, after a first `burst`."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._filled = now

    def take(self, amount: float, now: float) -> float:
        """Take some out, even if there is not as much; the seconds until it would have been there, 0 if it was."""
        self._left = min(self._burst, self._left + (now - self._filled) * self._rate) - amount
        self._filled = now
        return max(0.0, -self._left / self._rate)

    def has(self, amount: float, now: float) -> bool:
        """Take some out if there is as much; whether there was."""
        if self.take(amount, now) > 0:
            self._left += amount
            return False
        return True


class Turns:
    """Lets one link at a time work off what came, so that however many there are, others wait for one of them only."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> None:
        await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        try:
            # Whatever else is ready comes before the next link's turn.
            await asyncio.sleep(0)
        finally:
            self._lock.release()


class Room:
    """Places for what others have us remember, shared by all links."""

    def __init__(self, places: int) -> None:
        self.left = places
