"""The number of nodes in the DHT, estimated from lookups of random ids. Sans I/O.

If the closest nodes of a lookup are much closer than this number lets expect, they have chosen their ids.
"""

from collections import deque
from collections.abc import Collection
from statistics import median
from typing import Final

from extensions.dht.krpc.traversal import CLOSEST

SAMPLES: Final = 32
"""Lookups that count, the last ones. The median of them counts, so that single ones cannot spoil it."""

DENSE: Final = 10
"""Nodes of a lookup that are this many times as dense as expected have not come there by chance.

By chance, one lookup in 500 000 has such nodes.
"""

_IDS: Final = 2**160


class SizeEstimate:
    """The size of the DHT in one address family.

    Only lookups of *random* targets may feed it: an attacker that is near a certain target would falsify it.
    """

    def __init__(self) -> None:
        self._sizes: deque[float] = deque(maxlen=SAMPLES)

    def note(self, target: bytes, node_ids: Collection[bytes], fitting: Collection[bytes] = ()) -> None:
        """Note the ids of the nodes nearest to a random target (20 bytes) that have answered.

        The nearest eight count. If they are fewer, the DHT is tiny, or nothing is known, and they are ignored.
        `fitting` are the ids that fit the addresses of their nodes (BEP 42), a few more of which were asked for. If
        these are much sparser, the others have chosen their ids to be near this target, and do not count.
        """
        distances, honest = distances_from(target, node_ids), distances_from(target, fitting)
        if len(distances) < CLOSEST:
            return
        if len(honest) >= CLOSEST and honest[CLOSEST - 1] > DENSE * distances[CLOSEST - 1]:
            distances = honest
        # Their number within a distance has a Poisson distribution; the median of the distance of number k is that
        # within which k - 1/3 nodes are expected.
        self._sizes.append((CLOSEST - 1 / 3) * _IDS / max(1, distances[CLOSEST - 1]))

    @property
    def nodes(self) -> float | None:
        """The number of nodes that answer; None while it is unknown."""
        return median(self._sizes) if self._sizes else None

    @property
    def reach(self) -> int:
        """The XOR distance within which eight nodes are expected; 0 while that is unknown."""
        nodes = self.nodes
        return min(_IDS - 1, int(CLOSEST * _IDS / nodes)) if nodes else 0

    def is_dense(self, target: bytes, node_ids: Collection[bytes]) -> bool:
        """Return whether the nodes nearest to any target that have answered are denser than by chance.

        False while the size is unknown.
        """
        distances = distances_from(target, node_ids)
        return len(distances) >= CLOSEST and distances[CLOSEST - 1] * DENSE < self.reach


def distances_from(target: bytes, node_ids: Collection[bytes]) -> list[int]:
    """Return the distances of ids from a target, the least first."""
    number = int.from_bytes(target, "big")
    return sorted(int.from_bytes(node_id, "big") ^ number for node_id in node_ids)
