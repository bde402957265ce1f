"""The members of one swarm at the other nodes of this tracker, by kind (sans I/O; logic in `tracker.core.members`).

A tracker may consist of several *nodes*, each of which is one process. Peers that are connected to this node are
*local*. The *own* peers of the tracker are those of all its nodes. *Linked* peers are those of other trackers, which
are reached over links that end at one node, the *gateway*.
"""

from typing import Final, Generic, TypeVar

SEEDERS: Final = 0
LEECHERS: Final = 1
PEER: Final = 2
LINKED: Final = 3
"""The kinds of members at other nodes.

SEEDERS, LEECHERS: the seeders, or the leechers, of a swarm at one node, of which the number is known.
PEER: one peer at one node, whose peer_id is known.
LINKED: the linked peers of a swarm, of which the number is known, behind the gateway.
"""

FROM_SEEDER: Final = 1
FOREIGN: Final = 2
FIRST: Final = 4
"""The flags of offers that go from one node to another, which only the core reads; the sum of:

FROM_SEEDER: the peer that makes the offers is a seeder.
FOREIGN: this peer is a linked one. The offers came over a link.
FIRST: this peer has not met any other one yet.
"""

M = TypeVar("M")


class SwarmNodes(Generic[M]):
    """The members of one swarm at other nodes. `M` is their type."""

    __slots__ = (
        "complete",
        "counted",
        "held",
        "ids",
        "incomplete",
        "leechers",
        "makers",
        "seeders",
    )

    def __init__(self) -> None:
        self.seeders: list[M] = []
        self.leechers: list[M] = []
        """The members of the kind PEER, unless they are hidden. Each one has its index in its list."""
        self.counted: list[M] = []
        """The other members, unless they count no peers."""
        self.ids: dict[str, M] = {}
        """The members of the kind PEER by peer_id: of one that is present at several nodes, that which came first."""
        self.complete = 0
        self.incomplete = 0
        """The seeders and leechers at other nodes, without linked ones."""
        self.held = False
        """Whether the swarm stays open without local peers."""
        self.makers: dict[str, None] | None = None
        """The peer_ids of seeders at other nodes that are known by number, and made offers here. The oldest first."""
