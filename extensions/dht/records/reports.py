"""Reports of visits: where each of them looked, which nodes answered, and which parts of it were believed (sans I/O).

Only `peerservers lookup --explain` needs them. Without an observer, a visit makes none.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from extensions.dht.krpc.client import Found
from extensions.dht.krpc.messages import Address, Item
from extensions.dht.records.slots import Slot, decode_slot
from extensions.entries import Rejected
from extensions.trackers import TrackerEntry

Clock = Callable[[], float]
"""Gives Unix seconds."""


class Lookup:
    """A lookup for the record of a day, which begins now. `target` has 20 bytes."""

    def __init__(self, day: int, target: bytes, clock: Clock) -> None:
        self.day = day
        self.target = target
        self.seconds: float | None = None
        """Its duration; None if it has not ended."""
        self.found = Found()
        self._clock = clock
        self._began = clock()

    def end(self, found: Found) -> None:
        """Note the result of the lookup."""
        self.found, self.seconds = found, max(0.0, self._clock() - self._began)


@dataclass(slots=True)
class Value:
    """A value of a slot, which several nodes may have."""

    seq: int
    size: int
    """Bytes of the value; 0 if it is not a string."""
    entries: list[TrackerEntry]
    """Its valid entries."""
    ignored: Counter[Rejected]
    """The reasons for which parts of it are ignored."""
    nodes: int = 0
    """Nodes that have sent it."""


class Reading(Lookup):
    """A lookup of a slot or shard."""

    def __init__(self, info_hash: bytes, day: int, slot: Slot, target: bytes, clock: Clock) -> None:
        super().__init__(day, target, clock)
        self.slot = slot
        self.values: dict[bytes, Value] = {}
        """By the signature of the item."""
        self._info_hash = info_hash

    def collecting(self, collect: Callable[[Item], None]) -> Callable[[Item], None]:
        """Return a function that notes each valid item of a node, and then calls `collect` with it."""

        def on_item(item: Item) -> None:
            value = self.values.get(item.signature)
            if value is None:
                value = self.values[item.signature] = self._value(item)
            value.nodes += 1
            collect(item)

        return on_item

    def nodes_with(self, tracker_id: str) -> int:
        """Return the number of nodes that have sent a valid entry of a tracker."""
        return sum(
            value.nodes for value in self.values.values() if any(one.tracker_id == tracker_id for one in value.entries)
        )

    def _value(self, item: Item) -> Value:
        ignored: Counter[Rejected] = Counter()
        entries, _ = decode_slot(item.value, self.slot.salt, self._info_hash, self._clock(), ignored)
        return Value(item.seq, len(item.value) if isinstance(item.value, bytes) else 0, entries, ignored)


@dataclass(slots=True)
class HostRequest:
    """A request for a descriptor, sent to one of the addresses of a host."""

    host: str
    address: Address
    fault: str = "no answer in time"
    """The reason why there is no valid descriptor; empty if there is one."""
    entry: TrackerEntry | None = None


@dataclass(slots=True)
class NamedHost:
    """A host that nodes have named."""

    addresses: set[Address] = field(default_factory=set)
    """Its addresses and ports. An IPv6 network counts as one host."""
    nodes: set[Address] = field(default_factory=set)
    """The nodes that have named it."""


@dataclass(slots=True)
class Bep5Report:
    """One use of the BEP 5 fallback."""

    lookups: list[Lookup] = field(default_factory=list)
    named: dict[str, NamedHost] = field(default_factory=dict)
    """By a text that identifies the host."""
    refused: int = 0
    """Addresses, named by nodes, that get no request because they are not global, or their port is 0."""
    requests: list[HostRequest] = field(default_factory=list)

    def begin(self, day: int, target: bytes, clock: Clock) -> Lookup:
        """Add a lookup that begins now."""
        self.lookups.append(Lookup(day, target, clock))
        return self.lookups[-1]

    def note_named(self, node: Address, named: Iterable[tuple[str, Address]], refused: int) -> None:
        """Note the hosts that a node has named, each with an address, and the number of addresses without a request."""
        for host, address in named:
            known = self.named.setdefault(host, NamedHost())
            known.addresses.add(address)
            known.nodes.add(node)
        self.refused += refused

    def request(self, host: str, address: Address) -> HostRequest:
        """Add a request that begins now."""
        self.requests.append(HostRequest(host, address))
        return self.requests[-1]


@dataclass(slots=True)
class VisitReport:
    """One visit of an infohash's records. It grows until the visit ends."""

    info_hash: bytes
    readings: list[Reading] = field(default_factory=list)
    """In the order in which they began."""
    bep5: list[Bep5Report] = field(default_factory=list)
    needs_bep5: bool = False
    """Whether BEP 5 is used because of the state of the slots."""
    is_complete: bool = False
    """Whether the visit has read all that it wanted to read."""

    def begin(self, day: int, slot: Slot, target: bytes, clock: Clock) -> Reading:
        """Add a lookup of a slot or shard that begins now."""
        self.readings.append(Reading(self.info_hash, day, slot, target, clock))
        return self.readings[-1]

    def begin_bep5(self) -> Bep5Report:
        """Add a use of the BEP 5 fallback."""
        self.bep5.append(Bep5Report())
        return self.bep5[-1]


Observer = Callable[[VisitReport], None]
"""Receives the report of each visit as it begins."""
