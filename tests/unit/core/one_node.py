"""One node of a tracker, whose test is the other ones."""

import json
from collections.abc import Callable
from typing import Any

from tests.client import HASH
from tests.unit.core.test_hub import Recorder
from tests.unit.fakes import FakeConnection, HubHarness, peer_id
from tracker.core.elsewhere import PEER
from tracker.core.nodes import NodePeers
from tracker.core.observers import Counts
from tracker.core.swarm import NodeMember
from tracker.protocol import codec
from tracker.protocol.codec import make_offer
from tracker.protocol.messages import Offer

A, B, C, D = (peer_id(number) for number in range(4))
ONE, OTHER = "1" * 16, "2" * 16


def some(*numbers: int) -> list[Offer]:
    return [make_offer(f"{number:020}", "v=0") for number in numbers]


def decode(message: object) -> Any:
    return codec.decode(json.dumps(message).encode(), 10)


def offered(connection: FakeConnection) -> list[str]:
    """The offer_ids that a connection has received."""
    return [message["offer_id"] for message in connection.take() if "offer" in message]


class Nodes:
    """Writes down what the hub tells the other nodes."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.routed = False

    def opened(self, swarm: Any) -> None:
        self.events.append(("opened", swarm.info_hash))

    def closed(self, swarm: Any) -> None:
        self.events.append(("closed", swarm.info_hash))

    def joined(self, peer: Any, needs_offers: bool) -> None:
        self.events.append(("joined", peer.peer_id, needs_offers))

    def counts(self, info_hashes: list[str] | None, done: Callable[[dict[str, Counts]], None]) -> None:
        done({})

    def left(self, peer: Any) -> None:
        self.events.append(("left", peer.peer_id))

    def completed(self, peer: Any) -> None:
        self.events.append(("completed", peer.peer_id))

    def offers(self, member: NodeMember, peer_id: str, offers: list[Offer], flags: int) -> None:
        self.events.append(("offers", member.node, member.kind, member.peer_id, peer_id, len(offers), flags))

    def offers_to_each(self, members: list[NodeMember], peer_id: str, offers: list[Offer], flags: int) -> None:
        assert len(members) == len(offers) > 1
        for member, offer in zip(members, offers, strict=True):
            self.offers(member, peer_id, [offer], flags)

    def answer(self, answer: Any, complete: bool) -> bool:
        self.events.append(("answer", answer.to_peer_id, complete))
        return self.routed

    def newcomers(self, swarm: Any, count: int) -> None:
        self.events.append(("newcomers", swarm.info_hash, count))

    def linked(self, swarm: Any) -> None: ...

    def returned(self, swarm: Any, peer_id: str, offers: list[Offer], age: float, flags: int) -> bool:
        self.events.append(("returned", peer_id, len(offers), age, flags))
        return self.routed

    def take(self) -> list[tuple[Any, ...]]:
        taken, self.events = self.events, []
        return taken


class OneNode(HubHarness):
    """A node whose test is the other ones."""

    def __init__(self, recorder: Recorder | None = None, **options: Any) -> None:
        super().__init__(recorder, **options)
        self.peers = NodePeers(self.hub, self.outbox)
        self.nodes = Nodes()
        self.peers.attach(self.nodes)

    def add(self, node: str, kind: int, complete: int, incomplete: int = 0, who: str = "") -> NodeMember:
        member = self.peers.add(HASH, node, kind, who, complete > 0)
        assert member
        if kind != PEER:
            self.peers.set(member, complete, incomplete)
        self.hub.check_invariants()
        return member

    def counts_here(self) -> tuple[int, int]:
        swarm = self.hub.swarms[HASH]
        return swarm.complete, swarm.incomplete
