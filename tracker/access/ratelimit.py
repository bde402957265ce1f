"""A token bucket (sans I/O; times are seconds on any monotonic clock)."""


class TokenBucket:
    """A token bucket: `rate` tokens per second, and at most `burst` at once. It starts full."""

    __slots__ = ("_burst", "_filled", "_left", "_rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._filled = now

    def take(self, amount: float, now: float) -> float:
        """Take `amount` even if that leaves a debt; return the seconds until the debt is paid, or 0 without one."""
        self._left = min(self._burst, self._left + (now - self._filled) * self._rate) - amount
        self._filled = now
        return max(0.0, -self._left / self._rate)

    def change(self, rate: float, burst: float, now: float) -> None:
        """Change rate and burst from now on."""
        self.take(0, now)
        self._rate, self._burst = rate, burst
        self._left = min(self._left, burst)

    def try_take(self, amount: float, now: float) -> bool:
        """Take `amount` if it is available; return whether it was."""
        if self.take(amount, now) > 0:
            self._left += amount
            return False
        return True

    def take_up_to(self, amount: int, now: float, keep: float = 0.0) -> int:
        """Take whole tokens, at most `amount`, and leave at least `keep`; return the number taken."""
        self.take(0, now)
        taken = min(amount, max(0, int(self._left - keep)))
        self._left -= taken
        return taken
