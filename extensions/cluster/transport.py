"""Transports of messages between nodes: the interface, and a bus in one process for tests and measurements.

A transport carries opaque bytes. It may lose, double and reorder messages: `extensions.cluster.session` notices, and
repairs. All calls, in both directions, are made on the event loop.
"""

from collections.abc import Callable
from typing import Final, Protocol

Random = Callable[[], float]
"""A source of uniform floats in [0, 1)."""

MAX_PAYLOAD: Final = 1 << 20
"""The longest message of a transport that sets no other limit, in bytes. It is the default limit of NATS."""

MIN_PAYLOAD: Final = 1 << 16
"""The limit that a transport must have at least: no statement about a swarm is longer, but several offers may be."""


class Transport(Protocol):
    """Carries messages between the nodes of one tracker. A node is named by its id of 16 hex digits."""

    max_payload: int
    """The longest message, in bytes. May change while the transport is not connected."""
    needs_mac: bool
    """Whether other programs could write messages: then each one carries a MAC."""

    async def start(
        self,
        node_id: str,
        receive: Callable[[bytes], None],
        lost: Callable[[str], None],
        connected: Callable[[bool], None],
    ) -> None:
        """Start to carry messages, under the id of this node.

        Return although no connection can be made yet: the transport tries again by itself.

        Args:
            node_id: The id of this node: 16 hex digits.
            receive: Called with each message for this node, and with each broadcast of another node. It does not raise.
            lost: Called with the id of a node whose connection has ended for certain: it cannot be reached any more.
            connected: Called with True when the transport works, and with False when it no longer does.
        """
        ...

    async def stop(self) -> None:
        """Send all buffered messages, if that takes no longer than a second, and close all connections."""
        ...

    def send(self, to: str, payload: bytes) -> bool:
        """Send a message to one node. Return False if it cannot be sent now: not connected, unknown node, full buffer.

        The caller counts the message as dropped. True is no promise that it arrives.
        """
        ...

    def broadcast(self, payload: bytes) -> None:
        """Send a message to all other nodes that can be reached now."""
        ...

    def pending(self, to: str) -> int:
        """Return the bytes that wait to be written for a node: senders hold messages back while there are many.

        A transport that cannot write to any node now, but soon may again, returns as many as can wait at most.
        """
        ...


def _never() -> float:
    return 1.0


class Bus:
    """Connects the `InProcess` transports of one process.

    Messages wait in `waiting` until `step` or `run` delivers them: a test decides when, and in which order. By default
    they are neither lost nor doubled nor reordered. The probabilities may be changed at any time.

    `random` decides the fate of each message; without it, nothing happens to any.
    """

    def __init__(self, random: Random = _never) -> None:
        self.loss = 0.0
        """The share of messages that are lost."""
        self.doubling = 0.0
        """The share of messages that arrive twice."""
        self.reordering = 0.0
        """The probability with which a step delivers any waiting message instead of the oldest."""
        self.nodes: dict[str, InProcess] = {}
        self.waiting: list[tuple[str, str, bytes]] = []
        """Sender, receiver and payload of the messages that were sent and not yet delivered, the oldest first."""
        self.messages = 0
        self.bytes = 0
        """Messages and bytes that were sent so far."""
        self._cut: set[tuple[str, str]] = set()
        self._random = random

    def transport(self, max_payload: int = MAX_PAYLOAD, needs_mac: bool = False) -> "InProcess":
        """Return a new transport on this bus."""
        return InProcess(self, max_payload, needs_mac)

    def cut(self, one: str, other: str) -> None:
        """From now on lose all messages between two nodes."""
        self._cut |= {(one, other), (other, one)}

    def mend(self) -> None:
        """Carry messages between all nodes again."""
        self._cut.clear()

    def put(self, sender: str, receiver: str, payload: bytes) -> None:
        """Take a message, which may get lost or doubled."""
        self.messages += 1
        self.bytes += len(payload)
        if (sender, receiver) in self._cut or self._random() < self.loss:
            return
        self.waiting.append((sender, receiver, payload))
        if self._random() < self.doubling:
            self.waiting.append((sender, receiver, payload))

    def step(self) -> bool:
        """Deliver one message. Return False if there is none."""
        if not self.waiting:
            return False
        index = 0
        if self._random() < self.reordering:
            index = int(self._random() * len(self.waiting))
        _, receiver, payload = self.waiting.pop(index)
        node = self.nodes.get(receiver)
        if node is not None:
            node.deliver(payload)
        return True

    def run(self) -> None:
        """Deliver all messages, also those that are sent meanwhile."""
        while self.step():
            pass


class InProcess(Transport):
    """The transport of one node on a `Bus`."""

    def __init__(self, bus: Bus, max_payload: int = MAX_PAYLOAD, needs_mac: bool = False) -> None:
        self.max_payload = max_payload
        self.needs_mac = needs_mac
        self.buffered: dict[str, int] = {}
        """The results of `pending`, for tests of slow nodes: bytes by node id."""
        self._bus = bus
        self._node_id = ""
        self._receive: Callable[[bytes], None] | None = None
        self._lost: Callable[[str], None] | None = None

    async def start(
        self,
        node_id: str,
        receive: Callable[[bytes], None],
        lost: Callable[[str], None],
        connected: Callable[[bool], None],
    ) -> None:
        self.begin(node_id, receive, lost, connected)

    def begin(
        self,
        node_id: str,
        receive: Callable[[bytes], None],
        lost: Callable[[str], None],
        connected: Callable[[bool], None],
    ) -> None:
        """Start without an event loop."""
        self._node_id = node_id
        self._receive = receive
        self._lost = lost
        self._bus.nodes[node_id] = self
        connected(True)

    async def stop(self) -> None:
        self.end()

    def end(self) -> None:
        """Stop without an event loop."""
        self._bus.nodes.pop(self._node_id, None)
        self._receive = None

    def send(self, to: str, payload: bytes) -> bool:
        if self._receive is None or to not in self._bus.nodes:
            return False
        self._bus.put(self._node_id, to, payload)
        return True

    def broadcast(self, payload: bytes) -> None:
        if self._receive is not None:
            for node_id in self._bus.nodes:
                if node_id != self._node_id:
                    self._bus.put(self._node_id, node_id, payload)

    def pending(self, to: str) -> int:
        return self.buffered.get(to, 0)

    def deliver(self, payload: bytes) -> None:
        """Pass a message to the node."""
        if self._receive is not None:
            self._receive(payload)

    def lose(self, node_id: str) -> None:
        """Report that another node's connection has ended."""
        if self._lost is not None:
            self._lost(node_id)
