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
        "group",
        "heartbeats",
        "is_capable",
        "is_certain",
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
        self.group = ""
        """The workers of one supervisor are a group; empty for other nodes."""
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
        self.is_certain = False
        """Whether it has sent a message to this node. Another program may have repeated a heartbeat of one that ended
        before this one began, but not a message to this one. Until then it owns nothing, and is not the gateway.
        """
        self.since = now
        """The time from which on it is a member."""
        self.last_heard = now
        self.heartbeats = 0
        """The number of its last heartbeat."""
        self.latency = 0.0
        """Seconds of the last round trip to it; 0 before the first."""


class Ring:
    """Some nodes, and the owner of each key among them (rendezvous hashing).

    All that agree about the nodes return the same owner. When a node comes or goes, only keys that it owns change their
    owner.
    """

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._numbers: list[int] = []

    def __contains__(self, node_id: str) -> bool:
        return node_id in self._ids

    def add(self, node_id: str) -> None:
        """Add a node."""
        self._ids.append(node_id)
        self._numbers.append(number_of(node_id))

    def remove(self, node_id: str) -> None:
        """Remove a node, if it is there."""
        if node_id in self._ids:
            index = self._ids.index(node_id)
            del self._ids[index]
            del self._numbers[index]

    def owner(self, key: str) -> str:
        """Return the node with the greatest rank for a key; empty if there is no node."""
        code: i64 = crc32(key.encode())
        best, best_rank = "", -1
        for index, number in enumerate(self._numbers):
            rank = rank_of(code, number)
            if rank > best_rank or (rank == best_rank and self._ids[index] < best):
                best, best_rank = self._ids[index], rank
        return best

    def owner_without(self, key: str, without: set[str]) -> str:
        """Return the node that would own a key without some nodes; empty if there is no other one."""
        code: i64 = crc32(key.encode())
        best, best_rank = "", -1
        for index, number in enumerate(self._numbers):
            node_id = self._ids[index]
            if node_id not in without:
                rank = rank_of(code, number)
                if rank > best_rank or (rank == best_rank and node_id < best):
                    best, best_rank = node_id, rank
        return best

    def was_owned(self, key: str, gone: set[str]) -> bool:
        """Return whether a node that is gone would own a key if it were still there."""
        owner = self.owner(key)
        code: i64 = crc32(key.encode())
        rank = rank_of(code, number_of(owner))
        for node_id in gone:
            former = rank_of(code, number_of(node_id))
            if former > rank or (former == rank and node_id < owner):
                return True
        return False


class Members:
    """This node and the other live ones."""

    def __init__(self, node_id: str, is_capable: bool) -> None:
        self.node_id: Final = node_id
        self.is_capable = is_capable
        self.others: dict[str, Member] = {}
        self._checked_at = 0.0

    def add(self, node_id: str, now: float) -> Member:
        """Return a new member."""
        member = self.others[node_id] = Member(node_id, now)
        return member

    def remove(self, node_id: str) -> None:
        """Remove a member."""
        del self.others[node_id]

    def gateway(self, is_here: bool = False) -> str:
        """Return the node that should be the gateway: the owner of a constant among the candidates.

        The candidates are the nodes that say that they are the gateway, as this one does if `is_here`. If there is
        none, they are all nodes that can be it. So a node that comes does not move the gateway, with which all links
        to other trackers would move. Empty if there is no candidate.
        """
        able = [member for member in self.others.values() if member.is_capable and member.is_certain]
        claiming = [member.node_id for member in able if member.is_gateway]
        if is_here and self.is_capable:
            claiming.append(self.node_id)
        if not claiming:
            claiming = [member.node_id for member in able]
            if self.is_capable:
                claiming.append(self.node_id)
        ring = Ring()
        for node_id in claiming:
            ring.add(node_id)
        return ring.owner(_GATEWAY_KEY)

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
