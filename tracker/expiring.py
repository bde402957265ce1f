"""A bounded map whose entries expire (sans I/O; times are seconds on any monotonic clock)."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class ExpiringMap(Generic[K, V]):
    """Keeps each entry for `lifetime` seconds, and at most `max_entries` and `max_cost` of them: the oldest go first.

    `cost` tells the cost of a value, in bytes for instance; without it every entry costs 1.
    """

    def __init__(
        self,
        lifetime: float,
        max_entries: int,
        *,
        max_cost: int | None = None,
        cost: Callable[[V], int] | None = None,
    ) -> None:
        self._lifetime = lifetime
        self._max_entries = max_entries
        self._max_cost = max_cost
        self._cost_of = cost
        self._cost = 0
        # The lifetime is the same for all, so the order of entering is the order of expiring.
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)

    def put(self, key: K, value: V, now: float) -> None:
        """Enter a value in place of the key's value so far; its lifetime begins now."""
        self.pop(key)
        self._entries[key] = (now + self._lifetime, value)
        self._cost += self._cost_for(value)
        self.expire(now)

    def replace(self, key: K, value: V) -> None:
        """Change the value of a key that is there; its lifetime goes on. Raises `KeyError` if it is not there."""
        expires, old = self._entries[key]
        self._entries[key] = (expires, value)
        self._cost += self._cost_for(value) - self._cost_for(old)

    def get(self, key: K, now: float) -> V | None:
        """Return the value of a key, or None if it is not there or has expired."""
        expires, value = self._entries.get(key, (now, None))
        return value if expires > now else None

    def pop(self, key: K) -> V | None:
        """Remove a key; return its value, also if that has expired, or None if it is not there."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self._cost -= self._cost_for(entry[1])
        return entry[1]

    def expire(self, now: float) -> None:
        """Remove the entries that have expired, and the oldest of those that are too many."""
        while self._entries:
            key, (expires, _) = next(iter(self._entries.items()))
            if expires > now and len(self._entries) <= self._max_entries and not self._costs_too_much():
                break
            self.pop(key)

    def clear(self) -> None:
        """Remove everything."""
        self._entries.clear()
        self._cost = 0

    def _costs_too_much(self) -> bool:
        return self._max_cost is not None and self._cost > self._max_cost

    def _cost_for(self, value: V) -> int:
        return self._cost_of(value) if self._cost_of else 1
