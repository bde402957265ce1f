"""The live nodes of a cluster, and the owner of each infohash among them (sans I/O).

All times are seconds on any monotonic clock. A node is named by its id of 16 hexadecimal digits, which is random.
"""

from typing import TYPE_CHECKING, Final
from zlib import crc32

if TYPE_CHECKING:
    from mypy_extensions import i64

HEARTBEAT: Final = 1.0
"""Seconds between two heartbeats of a node."""

DEAD_AFTER: Final = 3.5
"""Seconds after its last message from which on a node counts as gone."""

MAX_NODES: Final = 256
"""Most other nodes."""

_GATEWAY_KEY: Final = "gateway"
"""The gateway is the owner of this key."""

_FIRST_FACTOR: Final = 0x7FEB352D
_SECOND_FACTOR: Final = 0x45D9F3B3
_MASK: Final = 0xFFFFFFFF


class Member:
    """A live node."""

    __slots__ = (
        "connections",
        "heard",
        "heartbeats",
        "is_capable",
        "is_gateway",
        "label",
        "last_heard",
        "latency",
        "leechers",
        "node_id",
        "seeders",
        "since",
        "started",
        "swarms",
        "version",
    )

    def __init__(self, node_id: str, now: float) -> None:
        self.node_id: Final = node_id
        self.label = ""
        self.version = ""
        self.started = 0
        """The time of its start, in Unix seconds by its own clock."""
        self.connections = 0
        self.swarms = 0
        self.seeders = 0
        self.leechers = 0
        """Its load, as of its last heartbeat."""
        self.is_capable = False
        """Whether it can be the gateway."""
        self.is_gateway = False
        """Whether it says that it is the gateway."""
        self.since = now
        """The time from which on it is a member."""
        self.last_heard = now
        self.heartbeats = 0
        """The number of its last heartbeat."""
        self.latency = 0.0
        """Seconds of the last round trip to it; 0 before the first."""


class Members:
    """This node and the other live ones."""

    def __init__(self, node_id: str, is_capable: bool) -> None:
        self.node_id: Final = node_id
        self.is_capable = is_capable
        self.others: dict[str, Member] = {}
        self._ids: list[str] = [node_id]
        self._numbers: list[int] = [number_of(node_id)]
        self._checked_at = 0.0

    def add(self, node_id: str, now: float) -> Member:
        """Return a new member."""
        member = self.others[node_id] = Member(node_id, now)
        self._ids.append(node_id)
        self._numbers.append(number_of(node_id))
        return member

    def remove(self, node_id: str) -> None:
        """Remove a member."""
        del self.others[node_id]
        index = self._ids.index(node_id)
        del self._ids[index]
        del self._numbers[index]

    def owner(self, key: str) -> str:
        """Return the node that owns an infohash, or any other text: the one with the greatest rank for it.

        All nodes that agree about the members return the same one. When a node joins or leaves, only keys that it owns
        change their owner (rendezvous hashing).
        """
        code: i64 = crc32(key.encode())
        best, best_rank = "", -1
        for index, number in enumerate(self._numbers):
            rank = rank_of(code, number)
            if rank > best_rank or (rank == best_rank and self._ids[index] < best):
                best, best_rank = self._ids[index], rank
        return best

    def owner_but(self, key: str, node_id: str) -> str:
        """Return the node that would own a key without one of the members. Empty if there is no other one."""
        code: i64 = crc32(key.encode())
        best, best_rank = "", -1
        for index, number in enumerate(self._numbers):
            if self._ids[index] != node_id:
                rank = rank_of(code, number)
                if rank > best_rank or (rank == best_rank and self._ids[index] < best):
                    best, best_rank = self._ids[index], rank
        return best

    def was_owned(self, key: str, gone: set[str], owner: str) -> bool:
        """Return whether one of the nodes that are gone has owned a key, which `owner` owns now."""
        code: i64 = crc32(key.encode())
        rank = rank_of(code, number_of(owner))
        for node_id in gone:
            former = rank_of(code, number_of(node_id))
            if former > rank or (former == rank and node_id < owner):
                return True
        return False

    def gateway(self) -> str:
        """Return the node that should be the gateway: the owner of a constant among those that can be it.

        Empty if there is none.
        """
        code: i64 = crc32(_GATEWAY_KEY.encode())
        best, best_rank = "", -1
        for index, number in enumerate(self._numbers):
            node_id = self._ids[index]
            member = self.others.get(node_id)
            if self.is_capable if member is None else member.is_capable:
                rank = rank_of(code, number)
                if rank > best_rank or (rank == best_rank and node_id < best):
                    best, best_rank = node_id, rank
        return best

    def silent(self, now: float, period: float) -> list[str]:
        """Return the members that have been silent for too long. Called every `period` seconds.

        If this process was stopped meanwhile, their messages may still wait: it gives them the same time again.
        """
        late = now - self._checked_at - period
        if late > HEARTBEAT and self._checked_at:
            for member in self.others.values():
                member.last_heard += late
        self._checked_at = now
        return [node_id for node_id, member in self.others.items() if now - member.last_heard > DEAD_AFTER]


def number_of(node_id: str) -> int:
    """Return the number of a node from which its ranks are computed: its first 32 bits."""
    return int(node_id[:8], 16)


def rank_of(code: "i64", number: "i64") -> "i64":
    """Return the rank of a node for a key with a CRC-32: 32 bits in which each bit depends on all of both."""
    mixed: i64 = code ^ number
    mixed = ((mixed ^ (mixed >> 16)) * _FIRST_FACTOR) & _MASK
    mixed = ((mixed ^ (mixed >> 15)) * _SECOND_FACTOR) & _MASK
    return mixed ^ (mixed >> 16)
