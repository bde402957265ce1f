"""Nodes of one tracker without sockets: each has a hub of its own, and a list of messages that wait for `settle`.

A simple form of the extension `cluster`, for tests of everything beside it: every node knows which nodes share a swarm.
No message is lost, and all messages of one node to another one arrive in order.
"""

from collections import deque
from collections.abc import Callable
from functools import partial

from tests.unit.fakes import FakeConnection, HubHarness
from tracker.core.elsewhere import LEECHERS, LINKED, PEER, SEEDERS
from tracker.core.members import linked_counts
from tracker.core.nodes import NodePeers
from tracker.core.observers import Nodes
from tracker.core.swarm import NodeMember, Peer, Swarm
from tracker.protocol.messages import Answer, Offer


class MemoryNode(Nodes):
    """What the hub of one node tells the others."""

    def __init__(self, cluster: "MemoryCluster", harness: HubHarness, name: str) -> None:
        self.harness = harness
        self.name = name
        self.peers = NodePeers(harness.hub, harness.outbox)
        self.peers.attach(self)
        self.told: dict[str, tuple[int, int]] = {}
        """The numbers of linked peers that the others were told, by infohash."""
        self._cluster = cluster
        self._routes: dict[tuple[str, str], dict[MemoryNode, None]] = {}
        """The nodes from which offers of a peer came, by infohash and peer_id."""

    def opened(self, swarm: Swarm) -> None:
        holders = self._cluster.holders.setdefault(swarm.info_hash, {})
        others = [other for other in holders if other is not self]
        holders[self] = None
        gateway = self._cluster.gateway
        if gateway is not None and gateway is not self:
            self._send(gateway, gateway.peers.hold, swarm.info_hash)
            if gateway not in holders:
                others.append(gateway)
        for other in others:
            self._send(other, other.found, swarm.info_hash, self)
        if gateway is self:
            self.peers.hold(swarm.info_hash)

    def found(self, info_hash: str, newcomer: "MemoryNode") -> None:
        """Tell a node that has just opened a swarm of our peers. It places its parked offers on them."""
        if info_hash in self.harness.hub.swarms:
            for peer in self.harness.hub.swarms[info_hash].peers.values():
                self._send(newcomer, newcomer.learn, info_hash, self, peer.peer_id, peer.complete, False, True)
            self.told.pop(info_hash, None)
            self.linked(self.harness.hub.swarms[info_hash])

    def closed(self, swarm: Swarm) -> None:
        holders = self._cluster.holders[swarm.info_hash]
        del holders[self]
        gateway = self._cluster.gateway
        for other in self._cluster.nodes:
            if other is not self and gateway is not self:
                self._send(other, other.peers.remove_all, swarm.info_hash, self.name)
        if not holders and gateway is not None:
            self._send(gateway, self._cluster.release, swarm.info_hash)

    def joined(self, peer: Peer, needs_offers: bool) -> None:
        for other in self._sharing(peer.swarm.info_hash):
            self._send(other, other.learn, peer.swarm.info_hash, self, peer.peer_id, peer.complete, needs_offers, False)

    def learn(
        self, info_hash: str, node: "MemoryNode", peer_id: str, complete: bool, needs_offers: bool, is_found: bool
    ) -> None:
        """Take notice of a peer at another node."""
        now = self.harness.now
        if self._cluster.numbers:
            member = self.peers.add(info_hash, node.name, SEEDERS if complete else LEECHERS)
            if member is None:
                return
            swarm = node.harness.hub.swarms.get(info_hash)
            count = 0 if swarm is None else len(swarm.seeders if complete else swarm.leechers)
            self.peers.set(member, count * complete, count * (not complete))
        else:
            member = self.peers.add(info_hash, node.name, PEER, peer_id, complete)
        self.peers.challenge(info_hash, peer_id, now)
        if member and needs_offers:
            self.peers.give_parked(member, 1, now)
        elif member and is_found:
            self.peers.place_parked(member, 1, now)

    def left(self, peer: Peer) -> None:
        for other in self._sharing(peer.swarm.info_hash):
            self._send(other, other.forget, peer.swarm.info_hash, self, peer.peer_id)

    def forget(self, info_hash: str, node: "MemoryNode", peer_id: str) -> None:
        """Take notice that a peer has left another node."""
        swarm = node.harness.hub.swarms.get(info_hash)
        if self._cluster.numbers and swarm:
            for kind, count in ((SEEDERS, len(swarm.seeders)), (LEECHERS, len(swarm.leechers))):
                member = self.peers.get(info_hash, node.name, kind)
                if member:
                    self.peers.set(member, count * (kind == SEEDERS), count * (kind == LEECHERS))
        member = self.peers.get(info_hash, node.name, PEER, peer_id)
        if member and (swarm is None or peer_id not in swarm.peers):
            self.peers.set(member, 0, 0)

    def completed(self, peer: Peer) -> None:
        self.left(peer)
        self.joined(peer, False)

    def offers(self, member: NodeMember, peer_id: str, offers: list[Offer], flags: int) -> None:
        to = self._cluster.named[member.node]
        kept = [offer.detached() for offer in offers]
        self._send(to, to.take, member.swarm.info_hash, self, member.kind, member.peer_id, peer_id, kept, flags)

    def take(
        self,
        info_hash: str,
        node: "MemoryNode",
        kind: int,
        receiver: str,
        peer_id: str,
        offers: list[Offer],
        flags: int,
    ) -> None:
        """Deliver offers of another node. Those that find no receiver go back."""
        self._routes.setdefault((info_hash, peer_id), {})[node] = None
        now = self.harness.now
        if kind == LINKED:
            rest = self.peers.deliver_linked(info_hash, peer_id, offers, now, flags)
        else:
            rest = self.peers.deliver(info_hash, peer_id, offers, now, kind, receiver, flags)
        if rest:
            self._send(node, node.take_back, info_hash, self, kind, receiver, peer_id, rest, 0.0, flags)

    def take_back(
        self,
        info_hash: str,
        node: "MemoryNode",
        kind: int,
        receiver: str,
        peer_id: str,
        offers: list[Offer],
        age: float,
        flags: int,
    ) -> None:
        """Place offers again that another node has returned."""
        refused = self.peers.add(info_hash, node.name, kind) if kind != PEER else None
        if kind == PEER:
            refused = self.peers.get(info_hash, node.name, kind, receiver)
        self.peers.place_again(info_hash, peer_id, offers, refused, self.harness.now, age, flags)

    def answer(self, answer: Answer, complete: bool) -> bool:
        nodes = self._routes.get((answer.info_hash, answer.to_peer_id), {})
        kept = answer.detached()
        for node in nodes:
            self._send(node, node.take_answer, kept, complete)
        return bool(nodes)

    def take_answer(self, answer: Answer, complete: bool) -> None:
        """Deliver an answer of another node."""
        self.peers.deliver_answer(answer, self.harness.now, complete)

    def newcomers(self, swarm: Swarm, count: int) -> None:
        for other in self._sharing(swarm.info_hash):
            self._send(other, other.take_newcomers, swarm.info_hash, self, count)

    def take_newcomers(self, info_hash: str, gateway: "MemoryNode", count: int) -> None:
        """Place parked offers on newcomers behind links."""
        member = self.peers.get(info_hash, gateway.name, LINKED)
        if member:
            self.peers.give_parked(member, count, self.harness.now)

    def linked(self, swarm: Swarm) -> None:
        if self._cluster.gateway is self:
            for other in self._sharing(swarm.info_hash):
                self._send(other, self._tell_linked, swarm.info_hash, other)

    def _tell_linked(self, info_hash: str, other: "MemoryNode") -> None:
        swarm = self.harness.hub.swarms.get(info_hash)
        member = other.peers.add(info_hash, self.name, LINKED)
        if member:
            other.peers.set(member, *(linked_counts(swarm) if swarm else (0, 0)))

    def returned(self, swarm: Swarm, peer_id: str, offers: list[Offer], age: float, flags: int) -> bool:
        nodes = self._routes.get((swarm.info_hash, peer_id), {})
        kept = [offer.detached() for offer in offers]
        for node in list(nodes)[-1:]:
            self._send(node, node.take_back, swarm.info_hash, self, LINKED, "", peer_id, kept, age, flags)
        return bool(nodes)

    def _sharing(self, info_hash: str) -> list["MemoryNode"]:
        sharing = dict(self._cluster.holders.get(info_hash, {}))
        if self._cluster.gateway:
            sharing[self._cluster.gateway] = None
        return [other for other in sharing if other is not self]

    def _send(self, to: "MemoryNode", function: Callable[..., None], *arguments: object) -> None:
        self._cluster.waiting.append((to, partial(function, *arguments)))


class MemoryCluster:
    """The nodes of one tracker; the first one is the gateway. `numbers`: they tell only the numbers of their peers."""

    def __init__(self, harnesses: list[HubHarness], numbers: bool = False) -> None:
        self.numbers = numbers
        self.holders: dict[str, dict[MemoryNode, None]] = {}
        """The nodes with local peers in each swarm."""
        self.waiting: deque[tuple[MemoryNode, Callable[[], None]]] = deque()
        self.nodes = [MemoryNode(self, harness, f"{number:016x}") for number, harness in enumerate(harnesses)]
        self.named = {node.name: node for node in self.nodes}
        self.gateway: MemoryNode | None = self.nodes[0]
        self.places: dict[FakeConnection, MemoryNode] = {}
        """The node of each connection."""

    def node_of(self, connection: FakeConnection) -> MemoryNode:
        """Return the node of a connection: the nodes in turn."""
        return self.places.setdefault(connection, self.nodes[len(self.places) % len(self.nodes)])

    def release(self, info_hash: str) -> None:
        """Close a swarm at the gateway, if no node has it."""
        if self.gateway and not self.holders.get(info_hash):
            self.gateway.peers.release(info_hash)

    def settle(self) -> bool:
        """Deliver all messages. Return whether there were any."""
        had_any = bool(self.waiting)
        for _ in range(100_000):
            if not self.waiting:
                return had_any
            _, deliver = self.waiting.popleft()
            deliver()
            for node in self.nodes:
                node.harness.hub.check_invariants()
        raise AssertionError("each message causes the next one, without end")
