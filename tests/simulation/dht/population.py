"""The nodes of an emulated DHT, in the order of their ids: millions of them in some hundred megabytes."""

import hashlib
import random
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from copy import deepcopy
from typing import Final

from extensions.dht.krpc.messages import Address
from tests.simulation.dht.addresses import (
    FittingPrefixes,
    fitting_prefix,
    ipv4_address,
    ipv6_address,
    number_of,
)

BITS: Final = 64
"""Bits of an id that are kept for each node; the others are computed."""

FITTING_BITS: Final = 21
"""Bits of an id that follow from the address (BEP 42)."""

PART_BITS: Final = 8
"""First bits by which nodes are divided before they are sorted."""

SHARE: Final = 1 << 16
"""Shares are as exact as one in this number."""


class Population:
    """All nodes of one address family (4 or 6).

    Nodes have numbers. Of the first `count` ones, those that are made at random, a share has ids that fit their
    addresses (BEP 42). Further nodes can have any id.
    """

    def __init__(self, seed: int, count: int, family: int = 4, fitting: float = 0.85) -> None:
        self.family = family
        self._seed = seed.to_bytes(8, "big")
        self._fitting = round(fitting * SHARE)
        self._make_prefix = FittingPrefixes(family)
        self._random = random.Random(seed * 2 + family)
        self._made = array("Q", self._random.randbytes(8 * count))
        """Random bits of each node, from which its id and the last octet of its address follow."""
        self._traits = array("Q", self._random.randbytes(8 * count))
        self._given: dict[int, tuple[bytes, Address]] = {}
        self._numbers_given: dict[Address, int] = {}
        self._numbers, self._prefixes = self._in_order(count)

    def __len__(self) -> int:
        return len(self._numbers)

    def copy(self) -> "Population":
        """Return a population that can be changed without this one."""
        return deepcopy(self)

    def node_id(self, number: int) -> bytes:
        """Return the id (20 bytes) of a node."""
        if number in self._given:
            return self._given[number][0]
        first = self._prefix(number).to_bytes(8, "big")
        rest = bytearray(hashlib.blake2b(first + self._seed, digest_size=12).digest())
        rest[-1] = rest[-1] & 0xF8 | self._made[number] & 7
        return first + rest

    def address(self, number: int) -> Address:
        """Return the address of a node."""
        if number in self._given:
            return self._given[number][1]
        last = self._last(number)
        return ipv4_address(number, last) if self.family == 4 else ipv6_address(number, last)

    def find(self, address: Address) -> int | None:
        """Return the number of the node with an address, if there is one."""
        if address in self._numbers_given:
            return self._numbers_given[address]
        number = number_of(address)
        if number is None or number >= len(self._made) or number in self._given or self.address(number) != address:
            return None
        return number

    def trait(self, number: int, index: int) -> float:
        """Return one of four random numbers of a node, from 0 to 1; it never changes."""
        return (self._traits[number] >> 16 * index & 0xFFFF) / SHARE

    def range_of(self, prefix: int, bits: int) -> tuple[int, int]:
        """Return the first place of the nodes whose ids have the same first `bits` as `prefix`, and the last plus 1."""
        shift = BITS - bits
        start = prefix >> shift << shift
        low = bisect_left(self._prefixes, start)
        end = start + (1 << shift)
        return low, bisect_left(self._prefixes, end, low) if end < 1 << BITS else len(self._prefixes)

    def number_at(self, place: int) -> int:
        """Return the number of the node at a place of the order."""
        return self._numbers[place]

    def prefix_at(self, place: int) -> int:
        """Return the first `BITS` bits of the id of the node at a place of the order."""
        return self._prefixes[place]

    def closest(self, target: bytes, count: int) -> list[int]:
        """Return the numbers of the nodes that are closest to a target, the closest first."""
        prefix, bits = prefix_of(target), BITS
        low, high = self.range_of(prefix, bits)
        while high - low < count and bits:
            bits -= 1
            low, high = self.range_of(prefix, bits)
        places = sorted(range(low, high), key=lambda place: self._prefixes[place] ^ prefix)
        return [self._numbers[place] for place in places[:count]]

    def add(self, nodes: Iterable[tuple[bytes, Address | None]]) -> list[int]:
        """Add nodes with given ids, at an address of their own if none is given. Return their numbers."""
        added = []
        for node_id, address in nodes:
            number = self._append()
            if address is None:
                address = self.address(number)
            self._given[number] = node_id, address
            self._numbers_given[address] = number
            added.append(number)
        self._insert({number: prefix_of(self._given[number][0]) for number in added})
        return added

    def grow(self, count: int) -> list[int]:
        """Add nodes with random ids. Return their numbers."""
        added = [self._append() for _ in range(count)]
        self._insert({number: self._prefix(number) for number in added})
        return added

    def remove(self, number: int) -> None:
        """Remove a node from all routing tables."""
        place = bisect_left(self._prefixes, prefix_of(self.node_id(number)))
        while self._numbers[place] != number:
            place += 1
        del self._numbers[place], self._prefixes[place]

    def fits(self, number: int) -> bool:
        """Return whether the id of a node fits its address (BEP 42)."""
        node_id, (host, _) = self.node_id(number), self.address(number)
        return prefix_of(node_id) >> BITS - FITTING_BITS == fitting_prefix(host, node_id[-1] & 7)

    def _append(self) -> int:
        self._made.append(self._random.getrandbits(64))
        self._traits.append(self._random.getrandbits(64))
        return len(self._made) - 1

    def _insert(self, prefixes: dict[int, int]) -> None:
        """Insert nodes into the order. One after the other, this would move millions of nodes each time."""
        numbers, kept, start = array("I"), array("Q"), 0
        for number in sorted(prefixes, key=prefixes.__getitem__):
            place = bisect_left(self._prefixes, prefixes[number], start)
            numbers += self._numbers[start:place]
            kept += self._prefixes[start:place]
            numbers.append(number)
            kept.append(prefixes[number])
            start = place
        self._numbers = numbers + self._numbers[start:]
        self._prefixes = kept + self._prefixes[start:]

    def _in_order(self, count: int) -> tuple["array[int]", "array[int]"]:
        """Return the numbers of the first nodes, and the prefixes of their ids, in the order of the ids."""
        # By their first bits, because millions of Python's integers at a time would take half a gigabyte.
        parts = [(array("Q"), array("I")) for _ in range(1 << PART_BITS)]
        for number in range(count):
            prefix = self._prefix(number)
            prefixes, numbers = parts[prefix >> BITS - PART_BITS]
            prefixes.append(prefix)
            numbers.append(number)
        all_numbers, all_prefixes = array("I"), array("Q")
        for prefixes, numbers in parts:
            ordered = sorted(zip(prefixes, numbers, strict=True))
            all_prefixes.extend(prefix for prefix, _ in ordered)
            all_numbers.extend(number for _, number in ordered)
        return all_numbers, all_prefixes

    def _prefix(self, number: int) -> int:
        made = self._made[number]
        if (made >> 3 & 0xFFFF) >= self._fitting:
            return made
        fitting = self._make_prefix.of(number, self._last(number), made & 7)
        return fitting << BITS - FITTING_BITS | made & (1 << BITS - FITTING_BITS) - 1

    def _last(self, number: int) -> int:
        return 1 + (self._made[number] >> 24) % 250


def prefix_of(node_id: bytes) -> int:
    """Return the first `BITS` bits of an id."""
    return int.from_bytes(node_id[: BITS // 8], "big")
