"""The parts of a node, put together (sans I/O)."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from extensions.cluster.counts import CountFinder
from extensions.cluster.envelope import Sealer
from extensions.cluster.gateway import GatewayChoice
from extensions.cluster.hearing import Hearing
from extensions.cluster.links import Links
from extensions.cluster.members import Member, Members
from extensions.cluster.owners import Owners
from extensions.cluster.questions import Questions
from extensions.cluster.reasons import Left, Refused
from extensions.cluster.relay import Relay
from extensions.cluster.session import Sessions
from extensions.cluster.shares import SharedSwarms
from extensions.cluster.streams import NodeStream, Receiver, Streams
from extensions.cluster.telling import Telling
from extensions.cluster.transport import Transport
from extensions.cluster.work import Work
from tracker.extension import NodePeers, Swarm


class Listener(Protocol):
    """Is told of the cluster, for the log and the metrics. Its methods return at once and do not raise."""

    def node_joined(self, member: Member) -> None: ...
    def node_left(self, member: Member, why: Left) -> None: ...
    def gateway_changed(self, is_here: bool, node_id: str) -> None: ...
    def refused(self, reason: Refused, sender: str) -> None: ...
    def round_trip(self, seconds: float) -> None: ...
    def accept(self, opening: bytes, stream: NodeStream) -> Receiver | None: ...


class Load(Protocol):
    """This node, as its heartbeats describe it."""

    label: str
    group: str
    version: str
    tracker_id: str
    started: int
    is_capable: bool

    def numbers(self) -> tuple[int, int, int, int]:
        """Return the numbers of connections, swarms, seeders and leechers."""
        ...


class Parts:
    """The parts of one node.

    `clock` returns seconds on any monotonic clock, and `wake` makes the node flush in the next turn of the event loop.
    """

    def __init__(
        self,
        node_id: str,
        load: Load,
        sealer: Sealer,
        transport: Transport,
        peers: NodePeers,
        swarms: Mapping[str, Swarm],
        clock: Callable[[], float],
        wake: Callable[[], None],
        listener: Listener,
    ) -> None:
        self.node_id: Final = node_id
        self.load = load
        self.sealer = sealer
        self.transport = transport
        self.clock = clock
        self.wake = wake
        self.listener = listener
        self.refused: Counter[Refused] = Counter()
        self.members = Members(node_id, load.is_capable)
        self.gateway = GatewayChoice(self.members, clock())
        self.sessions = Sessions(sealer, transport, wake)
        self.work = Work(wake)
        self.shared = SharedSwarms(peers, swarms, self.work)
        self.links = Links(peers, self.sessions, self.shared, swarms, self.work, clock)
        self.shared.on_dropped = self.links.dropped
        self.telling = Telling(self.shared, swarms, clock)
        self.hearing = Hearing(
            node_id, peers, self.sessions, self.shared, self.telling, swarms, clock, self.links.on_first
        )
        self.owners = Owners(node_id, self.sessions, swarms, self.work, self.hearing.on_shares)
        self.relay = Relay(peers, self.sessions, clock)
        self.streams = Streams(self.sessions, listener.accept)
        self.questions = Questions(self.sessions, transport, clock)
        self.counts = CountFinder(node_id, self.owners, swarms, self.sessions, self.questions, wake)

    def directory_of(self, key: str) -> set[str]:
        """Return the nodes that have a swarm, as far as this node knows as the owner of its infohash."""
        return set(self.owners.directory.holders(key))
