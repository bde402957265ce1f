"""An iterative lookup of the nodes closest to a target (Kademlia, section 2.3 of its paper), sans I/O.

A node that does not answer within the soft timeout is *slow*: it no longer counts as one of the closest nodes, but its
answer is still accepted. So a dead node delays a lookup by less than a second; libtorrent waits 15 seconds for each.
"""

from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import islice
from typing import Final

from extensions.dht.krpc.messages import Address, Contact
from extensions.dialing import network_of

CLOSEST: Final = 8
"""Nodes that store an item: Kademlia's k."""

PARALLEL: Final = 4
"""Pending queries of one traversal, except those to slow nodes: Kademlia's alpha."""

OUTSTANDING: Final = 16
"""Pending queries of one traversal, including those to slow nodes."""

MAX_QUERIES: Final = 100
"""Queries of one traversal in all. In an honest network of millions of nodes half of them suffice; malicious nodes
could otherwise prolong it for ever."""

MAX_CANDIDATES: Final = 200
MAX_CONTACTS: Final = 20
"""Further nodes named in one reply are ignored."""


class State(Enum):
    """The state of a candidate."""

    NEW = auto()
    ASKED = auto()
    SLOW = auto()
    ANSWERED = auto()
    FAILED = auto()


@dataclass(order=True, slots=True)
class Candidate:
    """A node that a traversal has heard of."""

    distance: int
    contact: Contact = field(compare=False)
    state: State = field(default=State.NEW, compare=False)
    token: bytes = field(default=b"", compare=False)
    seq: int = field(default=0, compare=False)
    """The sequence number of the node's item; 0 if it has none."""
    fits: bool = field(default=True, compare=False)
    """Whether its id fits its address (BEP 42)."""
    can_store: bool = field(default=True, compare=False)
    """Whether it counts as a node that stores: it has given a token, and is not known to refuse."""
    code: int = field(default=0, compare=False)
    """The error code of its last refusal; 0 if it has not refused."""
    has_item: bool = field(default=False, compare=False)
    """Whether it has a valid item."""


class Traversal:
    """One lookup of the nodes closest to `target` (20 bytes), beginning with the nodes of `start`.

    `usable` tells which addresses may be queried. With `one_per_network`, at most one node of each network is queried
    (/24 in IPv4, /64 in IPv6): an attacker with a whole network could otherwise be all of the closest nodes.
    """

    def __init__(
        self, target: bytes, start: Iterable[Contact], usable: Callable[[Address], bool], one_per_network: bool = True
    ) -> None:
        self.queries = 0
        self._target = int.from_bytes(target, "big")
        self._usable = usable
        self._one_per_network = one_per_network
        self._asked_networks: set[str] = set()
        self._nearest: list[Candidate] = []
        # A malicious node may give any id for an address: that must not hide the real node there.
        self._known: dict[Contact, Candidate] = {}
        self._asked_at: dict[Address, Candidate] = {}
        self._asked = 0
        self._slow = 0
        self.add(start)

    def add(self, contacts: Iterable[Contact]) -> None:
        """Add candidates. Only the nearest are kept."""
        for contact in contacts:
            if contact in self._known or contact.address in self._asked_at:
                continue
            self._enter(Candidate(self._distance(contact), contact))
            if len(self._nearest) > MAX_CANDIDATES:
                self._forget_farthest()

    def next(self) -> Contact | None:
        """Return the node to query now, which then counts as asked; None if no node must be queried at this moment."""
        if self._asked >= PARALLEL or self.pending >= OUTSTANDING or self.queries >= MAX_QUERIES:
            return None
        live = 0
        for candidate in self._nearest:
            if candidate.state is State.NEW:
                if self._may_ask(candidate.contact.address):
                    self._asked_networks.add(_network(candidate.contact.address))
                    self._asked_at[candidate.contact.address] = candidate
                    candidate.state = State.ASKED
                    self._asked += 1
                    self.queries += 1
                    return candidate.contact
                candidate.state = State.FAILED
            elif candidate.state in (State.ASKED, State.ANSWERED):
                live += 1
                if live == CLOSEST:
                    return None
        return None

    def answered(self, sender: Contact, contacts: Iterable[Contact] = (), token: bytes = b"") -> Candidate | None:
        """Note a node's reply. Return the candidate, or None if no query to this node is pending.

        The id in the reply counts: it differs from the known one if the node has been restarted.
        """
        candidate = self._asked_at.get(sender.address)
        if candidate is None or not self._settle(candidate, State.ANSWERED):
            return None
        if candidate.contact != sender:
            candidate.state = State.FAILED
            candidate = Candidate(self._distance(sender), sender, State.ANSWERED)
            self._asked_at[sender.address] = candidate
            self._enter(candidate)
        candidate.token = token
        self.add(islice(contacts, MAX_CONTACTS))
        return candidate

    def slow(self, address: Address) -> None:
        """Note that a node has not answered within the soft timeout."""
        candidate = self._asked_at.get(address)
        if candidate and candidate.state is State.ASKED:
            candidate.state = State.SLOW
            self._asked -= 1
            self._slow += 1

    def failed(self, address: Address) -> None:
        """Note that a query has timed out or was answered with an error."""
        candidate = self._asked_at.get(address)
        if candidate:
            self._settle(candidate, State.FAILED)

    @property
    def pending(self) -> int:
        """Queries that have neither been answered nor failed."""
        return self._asked + self._slow

    @property
    def is_done(self) -> bool:
        """Whether the closest of all live nodes have answered."""
        if self._asked:
            return False
        if self.queries >= MAX_QUERIES:
            return True
        live = 0
        for candidate in self._nearest:
            if candidate.state is State.NEW and self._may_ask(candidate.contact.address):
                # It has to wait until queries to slow nodes end.
                return False
            live += candidate.state is State.ANSWERED
            if live == CLOSEST:
                return True
        return True

    def closest(self) -> list[Candidate]:
        """Return the closest nodes that have answered, nearest first, `CLOSEST` at most."""
        return [candidate for candidate in self._nearest if candidate.state is State.ANSWERED][:CLOSEST]

    def _distance(self, contact: Contact) -> int:
        return int.from_bytes(contact.node_id, "big") ^ self._target

    def _enter(self, candidate: Candidate) -> None:
        self._known[candidate.contact] = candidate
        insort(self._nearest, candidate)

    def _settle(self, candidate: Candidate, state: State) -> bool:
        if candidate.state is State.ASKED:
            self._asked -= 1
        elif candidate.state is State.SLOW:
            self._slow -= 1
        else:
            return False
        candidate.state = state
        return True

    def _may_ask(self, address: Address) -> bool:
        if address in self._asked_at or (self._one_per_network and _network(address) in self._asked_networks):
            return False
        return self._usable(address)

    def _forget_farthest(self) -> None:
        # Only candidates that were not asked: replies of the others must still find theirs.
        for index in range(len(self._nearest) - 1, -1, -1):
            if self._nearest[index].state is State.NEW:
                del self._known[self._nearest.pop(index).contact]
                return


def _network(address: Address) -> str:
    return network_of(address[0], ipv4_bits=24)
