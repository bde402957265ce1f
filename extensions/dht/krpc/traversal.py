"""An iterative lookup of the nodes closest to a target (Kademlia, section 2.3 of its paper), sans I/O.

A node that is silent for a moment is *late*: it no longer counts as one of the closest, but what it says is still
welcome. So a dead node costs a second where waiting for each costs libtorrent fifteen.
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
"""Queries of one traversal at a time, late ones not counted: Kademlia's alpha."""

OUTSTANDING: Final = 16
"""Queries of one traversal at a time, late ones included."""

MAX_QUERIES: Final = 100
"""Queries of one traversal: an honest one in a network of millions needs half; liars could lead it on for ever."""

MAX_CANDIDATES: Final = 200
MAX_CONTACTS: Final = 20
"""Nodes that are taken from one reply."""


class State(Enum):
    """How far it has got with a node."""

    NEW = auto()
    ASKED = auto()
    LATE = auto()
    ANSWERED = auto()
    FAILED = auto()


@dataclass(order=True, slots=True)
class Candidate:
    """A node met on the way."""

    distance: int
    contact: Contact = field(compare=False)
    state: State = field(default=State.NEW, compare=False)
    token: bytes = field(default=b"", compare=False)
    seq: int = field(default=0, compare=False)
    """The sequence number of the item that it has, 0 if it has none."""


class Traversal:
    """One lookup. `usable` says which addresses may be asked; with `one_per_network`, no two nodes of one network are.

    Whoever has one address of a network may well have all of it, and be all of the closest nodes.
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
        # A liar may name an address under any id: that must not hide the node that is there.
        self._known: dict[Contact, Candidate] = {}
        self._asked_at: dict[Address, Candidate] = {}
        self._asked = 0
        self._late = 0
        self.add(start)

    def add(self, contacts: Iterable[Contact]) -> None:
        """Nodes heard of; the nearest are kept."""
        for contact in contacts:
            if contact in self._known or contact.address in self._asked_at:
                continue
            self._enter(Candidate(self._distance(contact), contact))
            if len(self._nearest) > MAX_CANDIDATES:
                self._forget_farthest()

    def next(self) -> Contact | None:
        """The node to ask now, which then counts as asked; None if nobody is to be asked at this moment."""
        if self._asked >= PARALLEL or self._asked + self._late >= OUTSTANDING or self.queries >= MAX_QUERIES:
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
        """A node that was asked has answered; the candidate, or None if it had not been asked.

        It counts as what it says it is: another id than the one it was named with is that of a node started anew.
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

    def late(self, address: Address) -> None:
        """A node has been silent for long enough to go on without it."""
        candidate = self._asked_at.get(address)
        if candidate and candidate.state is State.ASKED:
            candidate.state = State.LATE
            self._asked -= 1
            self._late += 1

    def failed(self, address: Address) -> None:
        """A node cannot be asked, has answered with an error, or nothing at all."""
        candidate = self._asked_at.get(address)
        if candidate:
            self._settle(candidate, State.FAILED)

    @property
    def is_done(self) -> bool:
        """Whether the closest nodes of all that live have answered."""
        if self._asked:
            return False
        if self.queries >= MAX_QUERIES:
            return True
        live = 0
        for candidate in self._nearest:
            if candidate.state is State.NEW and self._may_ask(candidate.contact.address):
                # It is waiting for late ones to make room.
                return False
            live += candidate.state is State.ANSWERED
            if live == CLOSEST:
                return True
        return True

    def closest(self) -> list[Candidate]:
        """The closest nodes that have answered, nearest first."""
        return [candidate for candidate in self._nearest if candidate.state is State.ANSWERED][:CLOSEST]

    def _distance(self, contact: Contact) -> int:
        return int.from_bytes(contact.node_id, "big") ^ self._target

    def _enter(self, candidate: Candidate) -> None:
        self._known[candidate.contact] = candidate
        insort(self._nearest, candidate)

    def _settle(self, candidate: Candidate, state: State) -> bool:
        if candidate.state is State.ASKED:
            self._asked -= 1
        elif candidate.state is State.LATE:
            self._late -= 1
        else:
            return False
        candidate.state = state
        return True

    def _may_ask(self, address: Address) -> bool:
        if address in self._asked_at or (self._one_per_network and _network(address) in self._asked_networks):
            return False
        return self._usable(address)

    def _forget_farthest(self) -> None:
        # Only of those that were not asked: what the others say is still to be understood.
        for index in range(len(self._nearest) - 1, -1, -1):
            if self._nearest[index].state is State.NEW:
                del self._known[self._nearest.pop(index).contact]
                return


def _network(address: Address) -> str:
    return network_of(address[0], ipv4_bits=24)
