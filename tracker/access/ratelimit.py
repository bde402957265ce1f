"""A token bucket (sans I/O; times are seconds on any monotonic clock)."""


class TokenBucket:
    """So much per second, after a first `burst`."""

    __slots__ = ("_burst", "_filled", "_left", "_rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._filled = now

    @property
    def burst(self) -> float:
        """The most that is ever there."""
        return self._burst

    def take(self, amount: float, now: float) -> float:
        """Take some out, even if there is not as much; the seconds until it would have been there, 0 if it was."""
        self._left = min(self._burst, self._left + (now - self._filled) * self._rate) - amount
        self._filled = now
        return max(0.0, -self._left / self._rate)

    def try_take(self, amount: float, now: float) -> bool:
        """Take some out if there is as much; whether there was."""
        if self.take(amount, now) > 0:
            self._left += amount
            return False
        return True
