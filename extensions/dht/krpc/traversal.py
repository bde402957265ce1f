"""An iterative lookup of the nodes closest to a target (Kademlia, section 2.3 of its paper), sans I/O.

A node that does not answer within the soft timeout is *slow*: it no longer counts as one of the closest nodes, but its
answer is still accepted. So a dead node delays a lookup by less than a second; libtorrent waits 15 seconds for each.

A host can choose its id, so an attacker can be all of the closest nodes. Therefore, a lookup has up to three goals, and
values are stored at the nodes of all of them: the closest nodes, the closest nodes with an id that fits their address
(BEP 42), and all nodes within the distance where the closest nodes of an honest network are.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import islice
from typing import Final

from extensions.dht.krpc.messages import Address, Contact
from extensions.dht.krpc.node_ids import fits
from extensions.dialing import network_of

CLOSEST: Final = 8
"""Nodes that store an item: Kademlia's k."""

PARALLEL: Final = 4
"""Pending queries of one traversal, except those to slow nodes: Kademlia's alpha."""

OUTSTANDING: Final = 16
"""Pending queries of one traversal, including those to slow nodes."""

MAX_QUERIES: Final = 200
"""Queries of one traversal in all. In an honest network of millions of nodes 26 suffice; malicious nodes could
otherwise prolong it for ever."""

MAX_CONTACTS: Final = 8
"""Further nodes named in one reply are ignored: an honest node names eight. Together with `MAX_QUERIES`, it bounds the
candidates of a traversal."""

CROWDED: Final = 10
"""If the closest nodes are this many times as dense as expected, the lookup makes detours."""

DETOURS: Final = 2
"""Queries of a detour to each of the closest nodes with a fitting id. They go to nodes that were asked just now, and
more than four packets a second would have to wait."""

JUDGED: Final = 8
"""Nodes that a traversal has asked before it can tell whether most nodes are late."""


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
    """Whether it counts as a node that stores. False if it has given no token, or is known to refuse."""
    code: int = field(default=0, compare=False)
    """The error code of its last refusal; 0 if it has not refused."""
    has_item: bool = field(default=False, compare=False)
    """Whether it has a valid item."""
    has_invalid_item: bool = field(default=False, compare=False)


def _never(_address: Address) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Goal:
    """The nodes that a traversal must find; by default, only the closest ones that answer."""

    needs_token: bool = False
    """Whether only nodes that give a token count."""
    needs_fitting: bool = False
    """Whether it must also find the closest nodes with an id that fits their address."""
    reach: int = 0
    """The distance up to which it must ask all nodes."""
    refuses: Callable[[Address], bool] = _never
    """Whether a node is known to store nothing. It is asked, but does not count."""


class Traversal:
    """One lookup of the nodes closest to `target` (20 bytes), beginning with the nodes of `start`.

    `usable` tells which addresses may be queried. With `one_per_network`, at most one node of each network is queried
    (/24 in IPv4, /48 in IPv6): an attacker with a whole network could otherwise be all of the closest nodes.
    """

    def __init__(
        self,
        target: bytes,
        start: Iterable[Contact],
        usable: Callable[[Address], bool],
        one_per_network: bool = True,
        goal: Goal = Goal(),
    ) -> None:
        self.queries = 0
        self._target = int.from_bytes(target, "big")
        self._usable = usable
        self._one_per_network = one_per_network
        self._goal = goal
        self._asked_networks: set[str] = set()
        # Without those that have failed.
        self._nearest: list[Candidate] = []
        self._fitting: list[Candidate] = []
        # A malicious node may give any id for an address: that must not hide the real node there.
        self._known: set[Contact] = set()
        self._asked_at: dict[Address, Candidate] = {}
        self._asked = 0
        self._slow = 0
        self._late = 0
        # Late nodes that were asked a second time: their first reply may still come.
        self._asked_twice: set[Address] = set()
        self._is_for_fitting = False
        self._scouting = 0
        self._has_scouted = False
        self.add(start)

    def add(self, contacts: Iterable[Contact]) -> None:
        """Add candidates."""
        for contact in contacts:
            if contact not in self._known and contact.address not in self._asked_at:
                self._enter(contact)

    def next(self) -> Contact | None:
        """Return the node to query now, which then counts as asked; None if no node must be queried at this moment."""
        if self._asked >= PARALLEL or self.pending >= OUTSTANDING or self.queries >= MAX_QUERIES:
            return None
        nearest, fitting = self._missing(self._nearest) or self._missing_in_reach(), self._missing_fitting()
        if nearest and fitting and nearest is not fitting:
            # They take turns, because an attacker can prolong the search for each, but hardly for both.
            self._is_for_fitting = not self._is_for_fitting
            candidate = fitting if self._is_for_fitting else nearest
        elif found := nearest or fitting:
            candidate = found
        else:
            return None
        address = candidate.contact.address
        if self._one_per_network:
            self._asked_networks.add(_network(address))
        self._asked_at[address] = candidate
        candidate.state = State.ASKED
        self._asked += 1
        self.queries += 1
        return candidate.contact

    def answered(self, sender: Contact, contacts: Iterable[Contact] = (), token: bytes = b"") -> Candidate | None:
        """Note a node's reply. Return the candidate, or None if no query to this node is pending.

        The id in the reply counts: it differs from the known one if the node has been restarted.
        """
        candidate = self._asked_at.get(sender.address)
        if candidate is None:
            return None
        was_asked_twice = sender.address in self._asked_twice
        if not self._settle(candidate, State.ANSWERED) and not (was_asked_twice and candidate.state is State.ANSWERED):
            return None
        self._asked_twice.discard(sender.address)
        candidate = self._identified(candidate, sender)
        candidate.token = token
        candidate.can_store = (bool(token) or not self._goal.needs_token) and not self._goal.refuses(sender.address)
        self.add(islice(contacts, MAX_CONTACTS))
        return candidate

    def slow(self, address: Address) -> None:
        """Note that a node has not answered within the soft timeout."""
        candidate = self._asked_at.get(address)
        if candidate and candidate.state is State.ASKED:
            candidate.state = State.SLOW
            self._asked -= 1
            self._slow += 1
            self._late += address not in self._asked_twice

    def failed(self, address: Address, code: int = 0) -> None:
        """Note that a query has timed out, or was answered with an error of this code."""
        candidate = self._asked_at.get(address)
        if candidate is None:
            return
        candidate.code = code or candidate.code
        if address in self._asked_twice:
            # Its second query is pending.
            self._asked_twice.discard(address)
        else:
            self._fail(candidate)

    @property
    def is_mostly_late(self) -> bool:
        """Whether more than half of the nodes asked have not answered within the soft timeout."""
        return len(self._asked_at) >= JUDGED and 2 * self._late > len(self._asked_at)

    def ask_again(self, address: Address, code: int = 0) -> bool:
        """Ask a node a second time, for other nodes only, after a refusal with `code`, or (0) while it is late.

        Return whether that query may be sent; then it has to end with `routed` or `not_routed`.
        """
        candidate = self._asked_at.get(address)
        if candidate is None or candidate.state not in (State.ASKED, State.SLOW) or self.queries >= MAX_QUERIES:
            return False
        if candidate.state is State.SLOW:
            self._slow -= 1
            self._asked += 1
            candidate.state = State.ASKED
        candidate.can_store = False
        candidate.code = code
        if not code:
            self._asked_twice.add(address)
        self.queries += 1
        return True

    def routed(self, sender: Contact, contacts: Iterable[Contact]) -> None:
        """Note the reply to a second query. Until its first reply comes, the node does not count as storing."""
        candidate = self._asked_at.get(sender.address)
        if candidate is None:
            return
        if self._settle(candidate, State.ANSWERED):
            self._identified(candidate, sender).can_store = False
        self.add(islice(contacts, MAX_CONTACTS))

    def not_routed(self, address: Address) -> None:
        """Note that a second query has failed."""
        candidate = self._asked_at.get(address)
        if candidate and address in self._asked_twice:
            # Its first reply may still come. It has been counted as late.
            self.slow(address)
            self._asked_twice.discard(address)
        elif candidate:
            self._fail(candidate)

    def detours(self) -> list[tuple[Contact, bytes]]:
        """Return nodes to ask now, with `find_node`, for nodes near other targets (20 bytes).

        Each must end with `scouted`. They come once, if the closest nodes are far denser than expected: then these fill
        all replies, and hide the honest nodes around them. An honest node names others if it is asked for the places
        around the target.
        """
        reach = self._goal.reach
        if self._has_scouted or not reach or self._missing(self._nearest) or self._missing_fitting():
            return []
        live = self.live()
        if len(live) < CLOSEST or live[CLOSEST - 1].distance * CROWDED >= reach:
            return []
        self._has_scouted = True
        # The targets lie in the other quarters of the part of all ids that `reach` covers, and in the next part, if it
        # does not cover all.
        shift = min(max(0, reach.bit_length() - 2), 157)
        around = [(self._target ^ part << shift).to_bytes(20, "big") for part in (1, 2, 3, 4)]
        asked = [one.contact for one in live if one.fits][: min(CLOSEST, (MAX_QUERIES - self.queries) // DETOURS)]
        detours = [
            (contact, around[(number + step * 2) % 4])
            for number, contact in enumerate(asked)
            for step in range(DETOURS)
        ]
        self._scouting += len(detours)
        self.queries += len(detours)
        return detours

    def scouted(self, contacts: Iterable[Contact] = (), is_late: bool = False) -> None:
        """Note the end of a detour, or that it is late, or (`is_late`) the reply after that."""
        self._scouting -= not is_late
        self.add(islice(contacts, MAX_CONTACTS))

    @property
    def pending(self) -> int:
        """Queries that have neither been answered nor failed."""
        return self._asked + self._slow

    @property
    def is_done(self) -> bool:
        """Whether the goal is reached, or no candidate is left."""
        if self._asked or self._scouting:
            return False
        if self.queries >= MAX_QUERIES:
            return True
        # A candidate that is left has to wait until queries to slow nodes end.
        return not (self._missing(self._nearest) or self._missing_fitting() or self._missing_in_reach())

    def closest(self) -> list[Candidate]:
        """Return the nodes of the goal that have answered, nearest first."""
        able = [one for one in self.live() if one.can_store]
        if self._goal.needs_token and len(able) < CLOSEST:
            # The DHT is tiny. A node that has refused, perhaps because it was being restarted, is better than none.
            refusers = [one for one in self.live() if one.token and not one.can_store]
            able = sorted([*able, *refusers[: CLOSEST - len(able)]])
        chosen = {id(one) for one in able[:CLOSEST]}
        if self._goal.needs_fitting:
            chosen.update(id(one) for one in [one for one in able if one.fits][:CLOSEST])
        return [one for one in able if id(one) in chosen or one.distance <= self._goal.reach]

    def asked(self) -> list[Candidate]:
        """Return all nodes that were queried, nearest first, under the ids of their replies."""
        return sorted(self._asked_at.values())

    def live(self) -> list[Candidate]:
        """Return all nodes that have answered, nearest first, whether they can store or not."""
        return [one for one in self._nearest if one.state is State.ANSWERED]

    def _enter(self, contact: Contact, state: State = State.NEW) -> Candidate:
        host = contact.address[0]
        distance = int.from_bytes(contact.node_id, "big") ^ self._target
        candidate = Candidate(distance, contact, state, fits=fits(contact.node_id, host))
        candidate.can_store = not self._goal.refuses(contact.address)
        self._known.add(contact)
        insort(self._nearest, candidate)
        if candidate.fits:
            insort(self._fitting, candidate)
        return candidate

    def _identified(self, candidate: Candidate, sender: Contact) -> Candidate:
        """Return the candidate of a node that has answered, under the id of its reply."""
        if candidate.contact == sender:
            return candidate
        self._remove(candidate)
        self._asked_at[sender.address] = renamed = self._enter(sender, State.ANSWERED)
        renamed.code = candidate.code
        return renamed

    def _missing(self, candidates: list[Candidate]) -> Candidate | None:
        """Return the next node to ask for the closest of these, or None if they are known, or may still answer."""
        live, unusable = 0, []
        found = None
        for candidate in candidates:
            if candidate.state is State.NEW:
                if self._may_ask(candidate.contact.address):
                    found = candidate
                    break
                unusable.append(candidate)
            elif candidate.can_store and candidate.state is not State.SLOW:
                live += 1
                if live == CLOSEST:
                    break
        for candidate in unusable:
            self._remove(candidate)
        return found

    def _missing_fitting(self) -> Candidate | None:
        return self._missing(self._fitting) if self._goal.needs_fitting else None

    def _missing_in_reach(self) -> Candidate | None:
        # The farthest first: an attacker's nodes are usually the nearest.
        index = bisect_right(self._nearest, self._goal.reach, key=_distance)
        while index:
            index -= 1
            candidate = self._nearest[index]
            if candidate.state is State.NEW:
                if self._may_ask(candidate.contact.address):
                    return candidate
                self._remove(candidate)
        return None

    def _fail(self, candidate: Candidate) -> None:
        if self._settle(candidate, State.FAILED):
            self._remove(candidate)

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

    def _remove(self, candidate: Candidate) -> None:
        candidate.state, candidate.can_store = State.FAILED, False
        for candidates in (self._nearest, self._fitting) if candidate.fits else (self._nearest,):
            index = bisect_left(candidates, candidate)
            while candidates[index] is not candidate:
                index += 1
            del candidates[index]


def _distance(candidate: Candidate) -> int:
    return candidate.distance


def _network(address: Address) -> str:
    return network_of(address[0], ipv4_bits=24, ipv6_bits=48)
