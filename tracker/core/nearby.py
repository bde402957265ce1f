"""The nearness of peers, and an index of the peers of a swarm by their places (sans I/O).

The *place* of a peer is a few keys, the nearest first: those of its address, its network, its autonomous system and its
country. The first key that two places have in common is the nearness of their peers.

Only swarms that are not small have an index, because in a small one every peer meets every other one anyway.

Invariants of an index, checked by `PlaceIndex.check_invariants`:

1. It has a place for each member of its pool, in the same order.
2. Each known key of each member has a group. No group is empty.
3. `group[positions[index]] == index` for every member, so that removing a member is O(1).
"""

from collections.abc import Callable
from typing import Final

Place = tuple[str, ...]
"""The keys of a peer, one for each nearness but the last, and empty if unknown. No two kinds have equal keys."""

NEARNESS: Final = ("address", "network", "asn", "country", "other")
"""All kinds of nearness, the nearest first."""

OTHER: Final = 4
"""The nearness of peers that have no key in common."""


class Nearby:
    """The option that peers meet nearby peers first.

    `locate` returns the place of a numeric address. `random_share` is the share of offers that go to any members.
    """

    def __init__(self, locate: Callable[[str], Place], random_share: float) -> None:
        self.locate = locate
        self.random_share = random_share
        self.offers = [0] * len(NEARNESS)
        """Offers to receivers of each nearness, in swarms with an index."""

    def change(self, locate: Callable[[str], Place], random_share: float) -> None:
        """Use other places and another share from now on. Peers keep their places."""
        self.locate, self.random_share = locate, random_share


class PlaceIndex:
    """The members of a pool by the keys of their places. A member is known by its index in the pool."""

    __slots__ = ("_positions", "groups", "places")

    def __init__(self) -> None:
        self.groups: dict[str, list[int]] = {}
        """The members that have a key in common."""
        self.places: list[Place] = []
        self._positions: list[list[int]] = [[] for _ in range(OTHER)]
        """The position of each member in its group, for each of its keys."""

    def append(self, place: Place) -> None:
        """Add a member at the end."""
        self.places.append(place)
        for positions in self._positions:
            positions.append(0)
        self._enter_groups(len(self.places) - 1)

    def remove(self, index: int) -> None:
        """Remove a member, and let the last one have its index."""
        self._leave_groups(index)
        place = self.places.pop()
        last = len(self.places)
        for level, key in enumerate(place):
            positions = self._positions[level]
            position = positions.pop()
            if index != last:
                positions[index] = position
                if key:
                    self.groups[key][position] = index
        if index != last:
            self.places[index] = place

    def move(self, index: int, place: Place) -> None:
        """Give a member another place."""
        self._leave_groups(index)
        self.places[index] = place
        self._enter_groups(index)

    def check_invariants(self) -> None:
        """Raise `AssertionError` if an invariant of this module is broken."""
        members = 0
        for positions in self._positions:
            assert len(positions) == len(self.places)
        for index, place in enumerate(self.places):
            assert len(place) == len(self._positions)
            for key, positions in zip(place, self._positions, strict=True):
                if key:
                    assert self.groups[key][positions[index]] == index
                    members += 1
        assert all(self.groups.values())
        assert sum(map(len, self.groups.values())) == members

    def _enter_groups(self, index: int) -> None:
        for level, key in enumerate(self.places[index]):
            if key:
                positions, group = self._positions[level], self.groups.get(key)
                if group is None:
                    self.groups[key] = [index]
                    positions[index] = 0
                else:
                    positions[index] = len(group)
                    group.append(index)

    def _leave_groups(self, index: int) -> None:
        for level, key in enumerate(self.places[index]):
            if key:
                positions, group = self._positions[level], self.groups[key]
                last = group.pop()
                if last != index:
                    group[positions[index]] = last
                    positions[last] = positions[index]
                if not group:
                    del self.groups[key]


class SwarmPlaces:
    """The places of the local peers of one swarm."""

    __slots__ = ("leechers", "nearby", "seeders")

    def __init__(self, nearby: Nearby) -> None:
        self.nearby: Final = nearby
        self.leechers: Final = PlaceIndex()
        self.seeders: Final = PlaceIndex()

    def pool(self, complete: bool) -> PlaceIndex:
        """Return the index of the seeders, or that of the leechers."""
        return self.seeders if complete else self.leechers


def nearness(one: Place, other: Place) -> int:
    """Return the nearness of two places: an index in `NEARNESS`."""
    for level, key in enumerate(one):
        if key and key == other[level]:
            return level
    return OTHER
