"""The choice of the worker that serves a swarm (sans I/O): rendezvous hashing with bounded loads."""

from collections.abc import Sequence
from typing import Final
from zlib import crc32

SLACK: Final = 1.25
SPARE: Final = 250
"""A worker is chosen while it has at most `SLACK` times the mean number of connections, and `SPARE` more."""

MARGIN: Final = 20
"""The part of the room of a worker that is left free is one in this number."""

_MULTIPLIER: Final = 0x9E3779B97F4A7C15
_BITS: Final = (1 << 64) - 1


class Placement:
    """The live workers by place, and their loads.

    All workers choose the same one for a swarm, as long as none is overloaded. If one is, another one has its swarms,
    too, and the same for each of them.
    """

    def __init__(self, own: int, count: int) -> None:
        self._own = own
        self._is_live = [True] * count
        self._loads = [0] * count

    def set_live(self, place: int, is_live: bool) -> None:
        """Note whether the worker of a place serves."""
        self._is_live[place] = is_live

    def set_loads(self, loads: Sequence[int]) -> None:
        """Note the numbers of connections of all workers."""
        if len(loads) == len(self._loads):
            self._loads = list(loads)

    def set_own(self, load: int) -> None:
        """Note the number of connections of this worker, which it knows at any time."""
        self._loads[self._own] = load

    def choose(self, info_hash: str, room: int) -> int:
        """Return the place of the worker for a connection whose first swarm is `info_hash`.

        `room` is the most connections that a worker may have. One that has almost as many has to hand its own to
        others, because it would refuse the next ones.
        """
        limit = min(SLACK * sum(self._loads) / len(self._loads) + SPARE, room - room // MARGIN - 1)
        key = crc32(info_hash.encode("utf-8", "surrogatepass"))
        best, chosen = -1, self._own
        for place, load in enumerate(self._loads):
            if self._is_live[place] and load <= limit:
                score = _mix(key, place)
                if score > best:
                    best, chosen = score, place
        return chosen

    def moved(self, place: int) -> None:
        """Note a connection that was handed to another worker. Its load is told only once in a while."""
        self._loads[place] += 1


def _mix(key: int, place: int) -> int:
    value = ((key << 16 | place) + 1) * _MULTIPLIER & _BITS
    value = (value ^ value >> 29) * _MULTIPLIER & _BITS
    return value ^ value >> 32
