"""The number of distinct items that several processes have, each without the items of the others (sans I/O)."""

from collections.abc import Iterable
from contextlib import suppress
from hashlib import blake2b
from typing import Final

LIMIT: Final = 4096
"""Most hashes of a sketch. With fewer items their number is exact, with more the standard error is 2 %."""


EMPTY: Final = bytes(1)
"""The packed sketch of an empty set."""


class Distinct:
    """A sketch of a set: the hashes that end in `level` zero bits. The level grows, so that there are few of them."""

    def __init__(self, level: int = 0, hashes: Iterable[int] = ()) -> None:
        self._level = level
        self._hashes = set(hashes)

    def add(self, item: str) -> None:
        """Add an item."""
        value = int.from_bytes(blake2b(item.encode("utf-8", "surrogatepass"), digest_size=4).digest(), "little")
        if not value & ((1 << self._level) - 1):
            self._hashes.add(value)
            self._shrink()

    def update(self, other: "Distinct") -> None:
        """Add all items of another sketch."""
        self._level = max(self._level, other.level)
        self._hashes = self._kept(self._hashes | other.hashes)
        self._shrink()

    @property
    def level(self) -> int:
        """The number of zero bits at the end of each hash."""
        return self._level

    @property
    def hashes(self) -> frozenset[int]:
        """The hashes."""
        return frozenset(self._hashes)

    @property
    def count(self) -> int:
        """The number of distinct items."""
        return len(self._hashes) << self._level

    def pack(self) -> bytes:
        """Return the sketch as bytes."""
        return bytes([self._level]) + b"".join(value.to_bytes(4, "little") for value in self._hashes)

    @classmethod
    def unpack(cls, data: bytes) -> "Distinct":
        """Return a sketch from bytes.

        Raises:
            ValueError: if these are not the bytes of a sketch.
        """
        if len(data) % 4 != 1 or len(data) > 1 + 4 * LIMIT or data[0] > 32:
            raise ValueError("not a sketch")
        return cls(data[0], (int.from_bytes(data[at : at + 4], "little") for at in range(1, len(data), 4)))

    def _shrink(self) -> None:
        while len(self._hashes) > LIMIT:
            self._level += 1
            self._hashes = self._kept(self._hashes)

    def _kept(self, hashes: set[int]) -> set[int]:
        mask = (1 << self._level) - 1
        return {value for value in hashes if not value & mask}


def distinct(sketches: Iterable[bytes]) -> int:
    """Return the number of distinct items in packed sketches. Those that are none count as empty."""
    return merged(sketches).count


def merged(sketches: Iterable[bytes]) -> Distinct:
    """Return the union of packed sketches."""
    union = Distinct()
    for data in sketches:
        with suppress(ValueError):
            union.update(Distinct.unpack(data))
    return union
