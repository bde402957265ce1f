"""Which swarms a tracker has open, as its neighbours learn it: tags, and Bloom filters of tags (sans I/O).

A *tag* is a hash of an infohash, the same on all links, as an integer of 64 bits. A *filter* holds the tags of all open
swarms of a tracker. It is divided into parts by the first bits of the tags, so that each part is one message. A filter
never misses a tag that it holds. Of other tags, it takes about one of a hundred for its own.
"""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import islice
from typing import Final

from tracker.extension import is_id, swarm_key

TAG_CONTEXT: Final = b"peerservers/1 tag"
TAG_BITS: Final = 64

HASHES: Final = 6
"""Bits of a filter that are set for each tag."""

BITS_PER_TAG: Final = 10
"""Bits of a part for each tag that it has room for: nearly half of them are set once it is full. Infohashes that were
chosen for this purpose can set 6 of 10, which `MAX_FILL` allows."""

MIN_TAGS: Final = 32
"""Tags for which every part has room."""

MAX_PARTS: Final = 64
MAX_BYTES: Final = 32 * 1024
"""Most parts of a filter, a power of two, and most bytes of each."""

MAX_TAGS: Final = MAX_BYTES * 8 // BITS_PER_TAG
"""Tags of a part. Swarms beyond these are left out; in all parts, these are 1.7 million."""

MAX_FILL: Final = 5 / 8
"""The share of a part's bits that may be set. More would claim swarms that the sender does not have."""

TAGS_PER_PART: Final = 4000
"""With more tags in each part, a filter is divided into twice as many. A part is made anew in one turn of the loop."""

STALE: Final = 64
"""Closed swarms that may be left in a part, besides half as many as are open."""


def swarm_bytes(info_hash: str) -> bytes:
    """Return the bytes that stand for a swarm in hashes: its infohash, or for a text swarm "text" and its key."""
    hashed = swarm_key(info_hash)
    return hashed if is_id(info_hash) else b"text" + hashed


def tag_of(info_hash: str) -> int:
    """Return the tag of a swarm."""
    return int.from_bytes(sha256(TAG_CONTEXT + swarm_bytes(info_hash)).digest()[: TAG_BITS // 8], "big")


def has_tag(bits: bytes | bytearray, tag: int) -> bool:
    """Return whether a part of a filter holds a tag, or seems to."""
    size = len(bits) * 8
    position, step = tag & 0xFFFFFF, tag >> 24 & 0xFFFFFF | 1
    for _ in range(HASHES):
        at = position % size
        if not bits[at >> 3] >> (at & 7) & 1:
            return False
        position += step
    return True


def swarms_in(bits: bytes, swarms: Iterable[tuple[int, str]]) -> list[str]:
    """Return the infohashes of those swarms, given with their tags, that a part of a filter holds, or seems to."""
    size = len(bits) * 8
    # Of most other tags, the first bit or the second one tells. This is done for all own swarms, for each filter.
    return [
        info_hash
        for tag, info_hash in swarms
        if bits[(at := (tag & 0xFFFFFF) % size) >> 3] >> (at & 7) & 1 and has_tag(bits, tag)
    ]


def add_tag(bits: bytearray, tag: int) -> int:
    """Add a tag to a part of a filter. Return the number of bits that were not set yet."""
    size = len(bits) * 8
    position, step = tag & 0xFFFFFF, tag >> 24 & 0xFFFFFF | 1
    added = 0
    for _ in range(HASHES):
        at = position % size
        bit = 1 << (at & 7)
        if not bits[at >> 3] & bit:
            bits[at >> 3] |= bit
            added += 1
        position += step
    return added


def room_in(bits: bytes) -> int:
    """Return how many more bits of a part may be set; less than 0 if too many are."""
    return int(MAX_FILL * 8 * len(bits)) - int.from_bytes(bits, "big").bit_count()


def part_of(tag: int, parts: int) -> int:
    """Return the number of the part that a tag belongs to, if there are `parts`, a power of two."""
    return tag * parts >> TAG_BITS


class Part:
    """One part of the own filter, with the tags in it."""

    def __init__(self, tags: dict[int, str]) -> None:
        self.tags = tags
        """The infohashes of open swarms by tag."""
        self.is_due = True
        """Whether neighbours need this part anew."""
        self._bits = bytearray()
        """Empty until they are used: a filter that is divided would otherwise be made anew as a whole, at once."""
        self._capacity = 0
        self._closed = 0
        """Tags in the bits whose swarms have closed since."""

    @property
    def bits(self) -> bytearray:
        """The bits, as neighbours get them."""
        if not self._bits:
            self._build()
        return self._bits

    def rebuild(self) -> None:
        """Make the bits anew, and have them sent."""
        self._build()
        self.is_due = True

    def _build(self) -> None:
        """Make the bits anew, with room for a quarter more tags."""
        self._capacity = min(MAX_TAGS, max(MIN_TAGS, len(self.tags) * 5 // 4))
        self._bits = bytearray(min(MAX_BYTES, -(-self._capacity * BITS_PER_TAG // 8)))
        for tag in islice(self.tags, MAX_TAGS):
            add_tag(self._bits, tag)
        self._closed = 0

    def add(self, tag: int, info_hash: str) -> None:
        self.tags[tag] = info_hash
        if not self._bits:
            return
        if len(self.tags) + self._closed <= self._capacity:
            add_tag(self._bits, tag)
        elif self._capacity < MAX_TAGS:
            self.rebuild()

    def remove(self, tag: int) -> None:
        del self.tags[tag]
        if self._bits:
            self._closed += 1

    @property
    def is_stale(self) -> bool:
        """Whether so many of its swarms have closed that it is worth making it anew."""
        return self._closed > STALE + len(self.tags) // 2


class OwnSwarms:
    """The swarms that are open here, by tag, and the filter of their tags."""

    def __init__(self) -> None:
        self.parts = [Part({})]
        self._open: dict[str, int] = {}
        """The tag of each open swarm, except for one whose tag another open swarm has, too."""

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, info_hash: str) -> bool:
        return info_hash in self._open

    def add(self, info_hash: str) -> int:
        """Note that a swarm has opened. Return its tag."""
        tag = tag_of(info_hash)
        part = self.part(tag)
        # Two swarms with one tag were made on purpose. Only the first one has links.
        if tag not in part.tags:
            self._open[info_hash] = tag
            part.add(tag, info_hash)
            if len(self._open) > TAGS_PER_PART * len(self.parts) and len(self.parts) < MAX_PARTS:
                self._divide()
        return tag

    def remove(self, info_hash: str) -> None:
        """Note that a swarm has closed."""
        tag = self._open.pop(info_hash, None)
        if tag is not None:
            self.part(tag).remove(tag)

    def info_hash_of(self, tag: int) -> str | None:
        """Return the open swarm with a tag."""
        return self.part(tag).tags.get(tag)

    def tag_of(self, info_hash: str) -> int:
        """Return the tag of an open swarm; of any other one, too, but that takes longer."""
        tag = self._open.get(info_hash)
        return tag_of(info_hash) if tag is None else tag

    def within(self, part: int, parts: int) -> Iterator[tuple[int, str]]:
        """Yield the tags and infohashes of the open swarms in a part of another tracker's filter."""
        own = len(self.parts)
        if own >= parts:
            for one in self.parts[part * own // parts : (part + 1) * own // parts]:
                yield from list(one.tags.items())
        else:
            for tag, info_hash in list(self.parts[part * own // parts].tags.items()):
                if part_of(tag, parts) == part:
                    yield tag, info_hash

    def part(self, tag: int) -> Part:
        """Return the part of the filter that a tag belongs to."""
        return self.parts[part_of(tag, len(self.parts))]

    def _divide(self) -> None:
        number = 2 * len(self.parts)
        divided: list[dict[int, str]] = [{} for _ in range(number)]
        for part in self.parts:
            for tag, info_hash in part.tags.items():
                divided[part_of(tag, number)][tag] = info_hash
        self.parts = [Part(tags) for tags in divided]


class TheirFilter:
    """The filter that a neighbour has sent, with the tags that it has added since."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes in memory."""
        self._parts: list[bytearray] = []
        """Empty parts have not come."""
        self._room: list[int] = []
        """Bits of each part that `add` may still set."""

    def has(self, tag: int) -> bool:
        """Return whether the neighbour may have a swarm."""
        if not self._parts:
            return False
        bits = self._parts[part_of(tag, len(self._parts))]
        return bool(bits) and has_tag(bits, tag)

    def add(self, tag: int) -> None:
        """Note that the neighbour has opened a swarm.

        That is not remembered without the part that it belongs to, or if that is full. A neighbour then sends a larger
        one soon. Otherwise a few tags could claim all swarms.
        """
        part = part_of(tag, len(self._parts))
        if self._parts and self._room[part] >= HASHES:
            self._room[part] -= add_tag(self._parts[part], tag)

    def growth(self, part: int, parts: int, bits: bytes) -> int:
        """Return by how many bytes `put` would make the filter longer; that may be negative."""
        if len(self._parts) != parts:
            return len(bits) - self.size
        return len(bits) - len(self._parts[part])

    def put(self, part: int, parts: int, bits: bytes) -> None:
        """Replace a part. If the number of parts has changed, the others are forgotten until they come anew."""
        self.size += self.growth(part, parts, bits)
        if len(self._parts) != parts:
            self._parts = [bytearray() for _ in range(parts)]
            self._room = [0] * parts
        self._parts[part] = bytearray(bits)
        self._room[part] = room_in(bits)
