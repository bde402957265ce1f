"""Several hubs that are the nodes of one tracker, connected by a queue: a simple form of an extension for that."""

from collections import deque
from collections.abc import Callable
from typing import Any

from tests.client import HASH, announce
from tests.unit.fakes import FakeConnection, HubHarness, Json
from tracker.core.elsewhere import LEECHERS, LINKED, PEER, SEEDERS
from tracker.core.nodes import NodePeers
from tracker.core.observers import Counts, Observer
from tracker.core.swarm import NodeMember, Peer, Swarm
from tracker.protocol.messages import Answer, Offer

FEW = 16
"""Local peers of a swarm up to which a node tells them one by one."""


class Node(HubHarness):
    """A node, and its hub's interface to the others."""

    def __init__(self, cluster: "Cluster", name: str, observer: Observer | None, **options: Any) -> None:
        super().__init__(observer, **options)
        self.name = name
        self.cluster = cluster
        self.peers = NodePeers(self.hub, self.outbox)
        self.peers.attach(self)
        self.routes: dict[tuple[str, str], dict[str, None]] = {}
        """The nodes that offers of a peer came from."""
        self.returned_offers = 0

    def post(self, function: Callable[..., object], *arguments: object) -> None:
        self.cluster.queue.append((function, arguments))

    @property
    def others(self) -> list["Node"]:
        return [node for node in self.cluster.nodes if node is not self]

    # The interface `Nodes`

    def opened(self, swarm: Swarm) -> None:
        self.post(self.cluster.on_opened, self, swarm.info_hash)

    def closed(self, swarm: Swarm) -> None:
        self.post(self.cluster.on_changed, self, swarm.info_hash)

    def joined(self, peer: Peer, needs_offers: bool) -> None:
        self.post(self.cluster.on_joined, self, peer.swarm.info_hash, peer.peer_id, needs_offers)

    def left(self, peer: Peer) -> None:
        self.post(self.cluster.on_changed, self, peer.swarm.info_hash)

    def completed(self, peer: Peer) -> None:
        self.post(self.cluster.on_changed, self, peer.swarm.info_hash)

    def offers(self, member: NodeMember, peer_id: str, offers: list[Offer], flags: int) -> None:
        assert offers
        assert member.kind != PEER or len(offers) == 1
        info_hash = member.swarm.info_hash
        kept = [offer.detached() for offer in offers]
        self.post(self.cluster.on_offers, self, info_hash, member, peer_id, kept, flags)

    def offers_to_each(self, members: list[NodeMember], peer_id: str, offers: list[Offer], flags: int) -> None:
        assert len(members) == len(offers) > 1
        assert len({member.node for member in members}) == 1
        kept = [offer.detached() for offer in offers]
        self.post(self.cluster.on_offers_to_each, self, members, peer_id, kept, flags)

    def answer(self, answer: Answer, complete: bool) -> bool:
        names = self.routes.get((answer.info_hash, answer.to_peer_id), {})
        for name in names:
            node = self.cluster.by_name.get(name)
            if node:
                self.post(self.cluster.on_answer, node, answer.detached(), complete)
        return bool(names)

    def newcomers(self, swarm: Swarm, count: int) -> None:
        self.post(self.cluster.on_newcomers, self, swarm.info_hash, count)

    def linked(self, swarm: Swarm) -> None:
        self.post(self.cluster.tell_linked, swarm.info_hash)

    def returned(self, swarm: Swarm, peer_id: str, offers: list[Offer], age: float, flags: int) -> bool:
        names = self.routes.get((swarm.info_hash, peer_id), {})
        for name in names:
            maker = self.cluster.by_name[name]
            kept = [offer.detached() for offer in offers]
            self.post(self.cluster.on_returned, maker, swarm.info_hash, peer_id, kept, None, flags, age)
        return bool(names)

    def counts(  # type: ignore[override]
        self, info_hashes: list[str] | None, done: Callable[[dict[str, Counts]], None]
    ) -> None:
        self.post(self.cluster.on_sought, self, info_hashes, done)


class Cluster:
    """The nodes of one tracker, whose messages arrive as soon as a step is done, in order.

    With a `gateway`, the first node holds all swarms.
    """

    def __init__(self, size: int, seed: int = 1, gateway: bool = False, observer: Any = None, **rules: Any) -> None:
        self.queue: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self.nodes = [
            Node(self, f"{number:016x}", None if number else observer, seed=seed + number, **rules)
            for number in range(size)
        ]
        self.by_name = {node.name: node for node in self.nodes}
        self.gateway = self.nodes[0] if gateway else None
        self.by_role = False
        """Whether a node tells its seeders one by one while they are few, even if its leechers are many."""
        self.home: dict[FakeConnection, Node] = {}
        self._next = 0

    @property
    def now(self) -> float:
        return self.nodes[0].now

    @now.setter
    def now(self, now: float) -> None:
        for node in self.nodes:
            node.now = now

    def connect(self, number: int | None = None) -> FakeConnection:
        """Return a new connection to a node; they take turns unless a number is given."""
        connection = FakeConnection()
        if number is None:
            number = self._next = (self._next + 1) % len(self.nodes)
        self.home[connection] = self.nodes[number % len(self.nodes)]
        return connection

    def send(self, connection: FakeConnection, message: object) -> list[Json]:
        """Apply a message at the node of its connection, and deliver what the nodes tell each other."""
        if connection not in self.home:
            self._next = (self._next + 1) % len(self.nodes)
            self.home[connection] = self.nodes[self._next]
        self.home[connection].send(connection, message)
        self.run()
        return connection.inbox

    def join(
        self, peer_id: str, number: int | None = None, info_hash: str = HASH, left: int = 1, **fields: Any
    ) -> FakeConnection:
        """Return a new connection with one peer, whose reply is taken already."""
        connection = self.connect(number)
        self.send(connection, announce(peer_id, info_hash, left=left, **fields))
        connection.inbox = [message for message in connection.inbox if "interval" not in message]
        return connection

    def close(self, connection: FakeConnection) -> None:
        self.home[connection].hub.close(connection)
        self.run()

    def expire(self) -> None:
        for node in list(self.nodes):
            node.expire()
        self.run()

    def end(self, number: int) -> None:
        """End a node, as if its process was killed."""
        node = self.nodes.pop(number)
        del self.by_name[node.name]
        for other in self.nodes:
            other.peers.forget_node(node.name)
        self.run()

    def run(self) -> None:
        """Deliver all messages."""
        steps = 0
        while self.queue:
            function, arguments = self.queue.popleft()
            function(*arguments)
            steps += 1
            assert steps < 100_000, "messages go round and round"
        for node in self.nodes:
            node.hub.check_invariants()

    def counts(self, info_hash: str = HASH) -> list[tuple[int, int]]:
        """Return the counts at each node that has the swarm."""
        swarms = [node.hub.swarms.get(info_hash) for node in self.nodes]
        return [(swarm.complete, swarm.incomplete) for swarm in swarms if swarm]

    # What arrives

    def on_opened(self, node: Node, info_hash: str) -> None:
        if self.gateway:
            self.gateway.peers.hold(info_hash)
        for other in node.others:
            self.tell(other, node, info_hash)
            self.tell(node, other, info_hash)
            for member in self.members(node, other, info_hash):
                node.peers.place_parked(member, member.complete + member.incomplete, node.now)
        self.tell_linked(info_hash)

    def on_joined(self, node: Node, info_hash: str, peer_id: str, needs_offers: bool) -> None:
        for other in node.others:
            self.tell(node, other, info_hash)
            other.peers.challenge(info_hash, peer_id, other.now)
            if needs_offers:
                member = other.peers.get(info_hash, node.name, PEER, peer_id)
                member = member or next(iter(self.members(other, node, info_hash)), None)
                if member:
                    other.peers.give_parked(member, 1, other.now)

    def on_changed(self, node: Node, info_hash: str) -> None:
        for other in node.others:
            self.tell(node, other, info_hash)
        if self.gateway and not any(info_hash in n.hub.swarms and n.hub.swarms[info_hash].peers for n in self.nodes):
            self.gateway.peers.release(info_hash)

    def on_offers(
        self, sender: Node, info_hash: str, member: NodeMember, peer_id: str, offers: list[Offer], flags: int
    ) -> None:
        node = self.by_name.get(member.node)
        if node is None:
            return
        routes = node.routes.setdefault((info_hash, peer_id), {})
        routes[sender.name] = None
        if member.kind == LINKED:
            rest = node.peers.deliver_linked(info_hash, peer_id, offers, node.now, flags)
        else:
            rest = node.peers.deliver(info_hash, peer_id, offers, node.now, member.kind, member.peer_id, flags)
        if rest:
            sender.returned_offers += len(rest)
            self.queue.append((self.on_returned, (sender, info_hash, peer_id, rest, member, flags, 0.0)))

    def on_offers_to_each(
        self, sender: Node, members: list[NodeMember], peer_id: str, offers: list[Offer], flags: int
    ) -> None:
        node = self.by_name.get(members[0].node)
        if node is None:
            return
        info_hash = members[0].swarm.info_hash
        node.routes.setdefault((info_hash, peer_id), {})[sender.name] = None
        receivers = [member.peer_id for member in members]
        for position in node.peers.deliver_to_each(info_hash, peer_id, receivers, offers, node.now, flags):
            sender.returned_offers += 1
            arguments = (sender, info_hash, peer_id, [offers[position]], members[position], flags, 0.0)
            self.queue.append((self.on_returned, arguments))

    def on_returned(
        self,
        node: Node,
        info_hash: str,
        peer_id: str,
        offers: list[Offer],
        member: NodeMember | None,
        flags: int,
        age: float,
    ) -> None:
        if member is None and self.gateway:
            member = node.peers.get(info_hash, self.gateway.name, LINKED)
        node.peers.place_again(info_hash, peer_id, offers, member, node.now, age, flags)

    def on_sought(self, node: Node, info_hashes: list[str] | None, done: Callable[[dict[str, Counts]], None]) -> None:
        done({key: one for other in node.others for key, one in other.hub.scrapes.counts_here(info_hashes).items()})

    def on_answer(self, node: Node, answer: Answer, complete: bool) -> None:
        node.peers.deliver_answer(answer, node.now, complete)

    def on_newcomers(self, gateway: Node, info_hash: str, count: int) -> None:
        self.tell_linked(info_hash)
        for node in gateway.others:
            member = node.peers.get(info_hash, gateway.name, LINKED)
            if member:
                node.peers.give_parked(member, count, node.now)

    def tell_linked(self, info_hash: str) -> None:
        """Tell all nodes the counts of linked peers at the gateway."""
        swarm = self.gateway and self.gateway.hub.swarms.get(info_hash)
        if self.gateway and swarm:
            counts = [sum(one.complete for one in swarm.remotes), sum(one.incomplete for one in swarm.remotes)]
            for node in self.gateway.others:
                member = node.peers.add(info_hash, self.gateway.name, LINKED)
                if member:
                    node.peers.set(member, *counts)

    def members(self, at: Node, node: Node, info_hash: str) -> list[NodeMember]:
        """Return the members of a node at another one."""
        swarm = node.hub.swarms.get(info_hash)
        ids = list(swarm.peers) if swarm else []
        found = [at.peers.get(info_hash, node.name, kind) for kind in (SEEDERS, LEECHERS)]
        found += [at.peers.get(info_hash, node.name, PEER, peer_id) for peer_id in ids]
        return [member for member in found if member]

    def tell(self, node: Node, to: Node, info_hash: str) -> None:
        """Tell a node the local peers of another one: while there are few one by one, otherwise by number."""
        if node not in self.nodes or to not in self.nodes:
            return
        swarm = node.hub.swarms.get(info_hash)
        seeders, leechers = (swarm.seeders, swarm.leechers) if swarm else ([], [])
        known: dict[str, bool] = {}
        for kind, pool in ((SEEDERS, seeders), (LEECHERS, leechers)):
            are_few = len(pool if self.by_role else seeders + leechers) <= FEW
            known |= {peer.peer_id: peer.complete for peer in pool if are_few}
            count = 0 if are_few else len(pool)
            member = to.peers.add(info_hash, node.name, kind)
            if member:
                to.peers.set(member, count if kind == SEEDERS else 0, count if kind == LEECHERS else 0)
        there = to.hub.swarms.get(info_hash)
        for peer_id in list(there.nodes.ids) if there and there.nodes else []:
            gone = to.peers.get(info_hash, node.name, PEER, peer_id)
            if gone and peer_id not in known:
                to.peers.set(gone, 0, 0)
        for peer_id, complete in known.items():
            to.peers.add(info_hash, node.name, PEER, peer_id, complete)
