"""ExpiringMap against a naive model: a list of entries that is searched and filtered at every step."""

from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tracker.expiring import ExpiringMap

LIFETIME = 10.0
KEYS = st.integers(0, 7)
VALUES = st.integers(0, 9)


@dataclass
class Model:
    """The oldest entry comes first: key, value, and the time at which it expires."""

    max_entries: int
    max_cost: int | None
    entries: list[tuple[int, int, float]] = field(default_factory=list)

    def find(self, key: int) -> tuple[int, int, float] | None:
        return next((entry for entry in self.entries if entry[0] == key), None)

    def remove(self, key: int) -> None:
        self.entries = [entry for entry in self.entries if entry[0] != key]

    def cost(self) -> int:
        return sum(value for _, value, _ in self.entries)

    def is_over(self, now: float) -> bool:
        return (
            self.entries[0][2] <= now
            or len(self.entries) > self.max_entries
            or (self.max_cost is not None and self.cost() > self.max_cost)
        )

    def expire(self, now: float) -> None:
        while self.entries and self.is_over(now):
            self.entries.pop(0)


class Comparison(RuleBasedStateMachine):
    """Does the same to both; a value is its own cost."""

    @initialize(max_entries=st.integers(1, 5), max_cost=st.none() | st.integers(0, 20))
    def create(self, max_entries: int, max_cost: int | None) -> None:
        self.now = 0.0
        self.model = Model(max_entries, max_cost)
        self.map: ExpiringMap[int, int] = ExpiringMap(
            LIFETIME,
            max_entries,
            max_cost=max_cost,
            cost=lambda value: value,
        )

    @rule(seconds=st.sampled_from([0.0, 1.0, 4.0, LIFETIME, 25.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(key=KEYS, value=VALUES)
    def put(self, key: int, value: int) -> None:
        self.model.remove(key)
        self.model.entries.append((key, value, self.now + LIFETIME))
        self.model.expire(self.now)
        self.map.put(key, value, self.now)

    @rule(key=KEYS, value=VALUES)
    def replace(self, key: int, value: int) -> None:
        if self.model.find(key) is None:
            with pytest.raises(KeyError):
                self.map.replace(key, value)
            return
        self.model.entries = [
            (other, value if other == key else old, expires) for other, old, expires in self.model.entries
        ]
        self.map.replace(key, value)

    @rule(key=KEYS)
    def pop(self, key: int) -> None:
        entry = self.model.find(key)
        assert self.map.pop(key) == (entry[1] if entry else None)
        self.model.remove(key)

    @rule()
    def expire(self) -> None:
        self.model.expire(self.now)
        self.map.expire(self.now)

    @rule()
    def clear(self) -> None:
        self.model.entries.clear()
        self.map.clear()

    @invariant()
    def they_agree(self) -> None:
        assert list(self.map) == [key for key, _, _ in self.model.entries]
        assert len(self.map) == len(self.model.entries)
        for key in range(8):
            entry = self.model.find(key)
            assert self.map.get(key, self.now) == (entry[1] if entry and entry[2] > self.now else None)


TestAgainstTheModel = Comparison.TestCase


def test_every_entry_costs_one_without_a_function() -> None:
    entries: ExpiringMap[str, bytes] = ExpiringMap(LIFETIME, 100, max_cost=2)
    for key in "abc":
        entries.put(key, b"any size", 0.0)
    assert list(entries) == ["b", "c"]
