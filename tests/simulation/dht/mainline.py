"""An emulation of the BitTorrent mainline DHT in virtual time: millions of nodes that answer datagrams."""

import asyncio
import hashlib
import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import exp
from statistics import NormalDist
from typing import Any, Final

from extensions.dht.krpc.messages import Address, Contact
from tests.simulation.dht import wire
from tests.simulation.dht.nodes import EmulatedNode, Kind
from tests.simulation.dht.population import Population
from tests.simulation.dht.tables import closest_known, table_of
from tests.simulation.errors import Stalled

DEAD, KIND, DISTANCE = range(3)
"""The random numbers of a node (`Population.trait`) that decide whether it is dead, of which kind it is, and how far
away."""

JITTER: Final = (0.9, 1.3)
"""A round trip takes between so many times the least time of the node."""

MIN_ROUND_TRIP: Final = 0.005


@dataclass(frozen=True)
class Conditions:
    """The nodes of a network, and the way to them."""

    nodes: int = 2_000_000
    """Live nodes of each address family."""
    dead: float = 0.2
    """The share of dead nodes in the nodes' tables."""
    loss: float = 0.02
    """The share of queries that have no answer because a packet was lost."""
    round_trip: float = 0.12
    sigma: float = 0.7
    """The median of the round-trip times in seconds, and their spread: the parameters of a log-normal distribution."""
    fitting: float = 0.85
    """The share of node ids that fit their addresses (BEP 42)."""
    families: tuple[int, ...] = (4,)
    kinds: Mapping[Kind, float] = field(default_factory=dict)
    """The share of each kind of node; all others do as libtorrent does."""


class Mainline:
    """One network, with a population of nodes for each address family.

    Trackers reach it through the sockets that they open (`open_socket`): the host that they bind is their address.
    """

    def __init__(self, conditions: Conditions, populations: Mapping[int, Population]) -> None:
        self.conditions = conditions
        self.populations = populations
        self.nodes: dict[tuple[int, int], EmulatedNode] = {}
        """The nodes that were asked so far, by family and number."""
        self.kinds: dict[tuple[int, int], Kind] = {}
        """The nodes that are of a given kind."""
        self.cut_off: set[str] = set()
        """Hosts of trackers that no packet reaches or leaves at the moment."""
        self.died: dict[tuple[int, int], float] = {}
        """Nodes that have died since the start, and when."""
        self.queries = 0
        self._sockets: dict[Address, EmulatedSocket] = {}
        self._ports = 49152
        self._digest = hashlib.blake2b(digest_size=16)
        self._distances: dict[tuple[int, int], float] = {}
        normal = NormalDist(0.0, conditions.sigma)
        self._quantile = normal.inv_cdf
        shares = 0.0
        self._shares = [(shares := shares + share, kind) for kind, share in conditions.kinds.items()]

    @property
    def digest(self) -> str:
        """A hash of all datagrams so far: equal in two runs that went the same way."""
        return self._digest.hexdigest()

    def contact(self, family: int, number: int) -> Contact:
        """Return the id and the address of a node."""
        population = self.populations[family]
        return Contact(population.node_id(number), population.address(number))

    def node(self, family: int, number: int) -> EmulatedNode:
        """Return a node."""
        node = self.nodes.get((family, number))
        if node is None:
            make = self.kinds.get((family, number)) or self._kind(family, number)
            node = self.nodes[family, number] = make(_View(self, family), number, self.contact(family, number))
        return node

    def is_dead(self, family: int, number: int) -> bool:
        """Return whether a node answers nothing, for ever."""
        key = family, number
        if key in self.kinds:
            return False
        return key in self.died or self.populations[family].trait(number, DEAD) < self.conditions.dead

    def add_nodes(
        self, family: int, nodes: Iterable[tuple[bytes, Address | None]], kind: Kind = EmulatedNode
    ) -> list[int]:
        """Add nodes of one kind with given ids, and addresses of their own or given ones. Return their numbers."""
        added = self.populations[family].add(nodes)
        self.kinds.update(((family, number), kind) for number in added)
        return added

    def closest_known(self, family: int, number: int, target: bytes) -> list[Contact]:
        """Return the contacts closest to a target in the table of a node."""
        population = self.populations[family]
        known = closest_known(population, number, population.node_id(number), target)
        return [self.contact(family, number) for number in known]

    def table(self, family: int, node_id: bytes) -> list[Contact]:
        """Return the contacts in the table of a node that is not one of the emulated ones."""
        number = int.from_bytes(node_id[-4:], "big") + (1 << 32)
        return [self.contact(family, one) for one in table_of(self.populations[family], number, node_id)]

    def of_kind(self, family: int, kind: Kind, count: int) -> list[int]:
        """Return the numbers of some live nodes that are of a kind by their share."""
        numbers = range(len(self.populations[family]))
        found = (one for one in numbers if self._kind(family, one) is kind and not self.is_dead(family, one))
        return [number for number, _ in zip(found, range(count), strict=False)]

    def storing(self, family: int, target: bytes) -> list[EmulatedNode]:
        """Return the nodes that have an item under a target."""
        now = time.monotonic()
        return [
            node
            for (of_family, number), node in self.nodes.items()
            if of_family == family
            and not node.is_empty
            and not self.is_dead(family, number)
            and node.store.has_item(target, now)
        ]

    def open_socket(self, protocol: asyncio.DatagramProtocol, host: str) -> "EmulatedSocket":
        """Open a UDP socket of a tracker. Raise `OSError` if the network has no addresses of this family."""
        if (6 if ":" in host else 4) not in self.populations:
            raise OSError(f"no such address: {host}")
        self._ports += 1
        socket = EmulatedSocket(self, protocol, (host, self._ports))
        self._sockets[socket.address] = socket
        return socket

    def forget(self, socket: "EmulatedSocket") -> None:
        """Note that a socket was closed."""
        self._sockets.pop(socket.address, None)

    def send(self, source: Address, data: bytes, address: Address) -> None:
        """Carry a query to a node."""
        self.queries += 1
        family = 6 if ":" in address[0] else 4
        number = self.populations[family].find(address)
        if number is None or source[0] in self.cut_off or self.is_dead(family, number):
            return
        draw = random.random() / self.conditions.loss if self.conditions.loss else 1.0
        if draw < 0.5:
            return
        way = self._distance(family, number) * random.uniform(*JITTER) / 2
        asyncio.get_running_loop().call_later(way, self._arrive, source, data, family, number, way, draw < 1.0)

    def _arrive(self, source: Address, data: bytes, family: int, number: int, way: float, is_lost: bool) -> None:
        query = wire.read_query(data, source)
        if query is None:
            raise Stalled(f"a tracker has sent {data!r}")
        self._digest.update(b"%d %d " % (family, number) + data)
        for wait, answer in self.node(family, number).answer(query):
            if not is_lost:
                address = self.populations[family].address(number)
                asyncio.get_running_loop().call_later(way + wait, self._deliver, source, answer, address)

    def _deliver(self, to: Address, data: bytes, address: Address) -> None:
        socket = self._sockets.get(to)
        if socket and to[0] not in self.cut_off:
            socket.protocol.datagram_received(data, address)

    def _distance(self, family: int, number: int) -> float:
        """Return the least round-trip time of a node in seconds."""
        distance = self._distances.get((family, number))
        if distance is None:
            share = (self.populations[family].trait(number, DISTANCE) + 1e-5) / 1.0001
            median = self.conditions.round_trip / (sum(JITTER) / 2)
            distance = self._distances[family, number] = max(MIN_ROUND_TRIP, median * exp(self._quantile(share)))
        return distance

    def _kind(self, family: int, number: int) -> Kind:
        trait = self.populations[family].trait(number, KIND)
        return next((kind for share, kind in self._shares if trait < share), EmulatedNode)


class EmulatedSocket(asyncio.DatagramTransport):
    """A UDP socket of a tracker."""

    def __init__(self, network: Mainline, protocol: asyncio.DatagramProtocol, address: Address) -> None:
        super().__init__()
        self.address = address
        self.protocol = protocol
        self._network = network
        self._is_closed = False

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send a datagram."""
        if not self._is_closed:
            self._network.send(self.address, bytes(data), addr)

    def abort(self) -> None:
        """Close the socket."""
        self._is_closed = True
        self._network.forget(self)

    def close(self) -> None:
        """Close the socket."""
        self.abort()


class _View:
    """The network as the nodes of one address family see it."""

    def __init__(self, network: Mainline, family: int) -> None:
        self._network = network
        self._family = family

    def closest_known(self, number: int, target: bytes) -> list[Contact]:
        return self._network.closest_known(self._family, number, target)


_populations: Final[dict[tuple[int, int, float], dict[int, Population]]] = {}


def make_mainline(conditions: Conditions, seed: int) -> Mainline:
    """Return a network. The nodes of a seed are made once in a process."""
    count = round(conditions.nodes / (1 - conditions.dead))
    key = seed, count, conditions.fitting
    if key not in _populations:
        # Only the last ones are kept: they take some hundred megabytes.
        _populations.clear()
    made = _populations.setdefault(key, {})
    for family in conditions.families:
        if family not in made:
            made[family] = Population(seed, count, family, conditions.fitting)
    return Mainline(conditions, {family: made[family].copy() for family in conditions.families})
