"""Trackers without sockets that are all linked with each other, and clients that announce to several of them."""

from collections import deque
from collections.abc import Container, Iterable
from itertools import combinations

from extensions.federation.events import Interest, MayHave, Offered, Opened, Refused
from extensions.federation.neighbour import Account, Neighbour
from extensions.federation.session import Session
from extensions.federation.wire import fits
from tests.client import Json, announce, offers
from tests.unit.fakes import FakeConnection, HubHarness, peer_id
from tests.unit.federation.here import Here
from tests.unit.federation.links import dialing, listening, shake_hands, tracker_id
from tests.unit.federation.nodes_in_memory import MemoryCluster
from tracker.protocol.messages import Answer, Offer


class MemoryLink(Neighbour):
    """One end of a link. Its messages wait until the mesh delivers them."""

    def __init__(self, here: Here, session: Session, knows_marks: bool) -> None:
        self.account = Account(here.now)
        self.session = session
        self.out: deque[bytes] = deque()
        self._here = here
        self._knows_marks = knows_marks

    @property
    def tracker_id(self) -> str:
        return self.session.tracker_id

    @property
    def knows_marks(self) -> bool:
        return self._knows_marks

    def may_have(self, tag: int) -> bool:
        return self.session.may_have(tag)

    def show(self, messages: Iterable[bytes]) -> None:
        self.out += messages

    def leave_swarm(self, info_hash: str) -> None:
        self.out += self.session.leave_swarm(info_hash)

    def forget_swarm(self, info_hash: str) -> None:
        self.session.forget_swarm(info_hash)

    def tell(self, counts: Iterable[tuple[str, int, int]], reply: bool) -> None:
        self.out += self.session.tell(counts, reply)

    def tell_present(self, swarms: Iterable[tuple[str, list[str], list[str]]], reply: bool) -> None:
        self.out += self.session.tell_present(swarms, reply)

    def counts(self, info_hash: str) -> tuple[int, int]:
        return self.session.counts(info_hash)

    def offer(self, info_hash: str, peer_id: str, offers: list[Offer]) -> list[Offer]:
        messages = self.session.offer(info_hash, peer_id, offers)
        self.out += messages
        return [offer for offer in offers if fits(offer.description.sdp)] if messages else []

    def refuse(self, info_hash: str, peer_id: str, offer_ids: list[str], known: bool) -> None:
        self.out += self.session.refuse(info_hash, peer_id, offer_ids, known)

    def answer(self, answer: Answer) -> None:
        self.out += self.session.answer(answer)

    def receive(self, message: bytes) -> None:
        """Apply a message, which is a frame of its own."""
        exchange = self._here.exchange
        events, _ = self.session.receive(message)
        for event in events:
            if isinstance(event, Interest):
                exchange.on_counts(self, event)
            elif isinstance(event, MayHave):
                exchange.on_may_have(self, event.info_hashes, event.has_opened)
            elif isinstance(event, Offered):
                exchange.on_offers(self, event.info_hash, event.peer_id, event.offers)
            elif isinstance(event, Refused):
                exchange.on_refused(self, event.info_hash, event.peer_id, event.offer_ids, event.known)
            elif isinstance(event, Answer):
                exchange.on_answer(self, event)
            else:
                assert isinstance(event, Opened)
        exchange.on_frame_end(self)
        while self.account.backlog:
            exchange.on_frame_end(self)


class Client:
    """A client that announces to several trackers, over one connection each. The offers are the same, as Trystero's."""

    def __init__(self, mesh: "MemoryMesh", number: int, trackers: Iterable[int]) -> None:
        self.peer_id = peer_id(number)
        self.connections = {tracker: FakeConnection() for tracker in sorted(trackers)}
        self._mesh = mesh

    def announce(self, count: int, again: list[Json] | None = None) -> list[Json]:
        """Make new offers, or the same ones again, on all trackers. Return them."""
        made = again or offers(count, start=self._mesh.number_of_offers(count))
        for tracker, connection in self.connections.items():
            message = announce(self.peer_id, offers=made, numwant=count)
            self._mesh.harness_of(tracker, connection).send(connection, message)
        return made

    def join(self, tracker: int) -> None:
        """Connect to another tracker; announce to it later."""
        self.connections.setdefault(tracker, FakeConnection())

    def leave(self, *trackers: int) -> None:
        """Close the connections to some trackers, by default to all."""
        for tracker in trackers or list(self.connections):
            connection = self.connections.pop(tracker)
            self._mesh.harness_of(tracker, connection).hub.close(connection)

    def counted(self) -> dict[int, tuple[int, int]]:
        """Return complete and incomplete in the last reply of each tracker; then forget all messages so far."""
        found = {}
        for tracker, connection in self.connections.items():
            replies = [message for message in connection.take() if "interval" in message]
            found[tracker] = replies[-1]["complete"], replies[-1]["incomplete"]
        return found

    def take_offers(self) -> list[tuple[str, str, int]]:
        """Return the offers received since the last call: their maker, offer_id, and the tracker that gave them."""
        return [
            (message["peer_id"], message["offer_id"], tracker)
            for tracker, connection in self.connections.items()
            for message in connection.take()
            if "offer" in message
        ]


class MemoryMesh:
    """Trackers that are all linked with each other, unless `linked` is false.

    `trusting`: they are listed. `speaking`: those that know marks; others have the older form of the protocol. `nodes`:
    the number of nodes of the first tracker.
    """

    def __init__(
        self,
        count: int,
        *,
        linked: bool = True,
        trusting: bool = True,
        speaking: Container[int] = range(100),
        nodes: int = 1,
    ) -> None:
        self.trackers = [Here() for _ in range(count)]
        self.cluster: MemoryCluster | None = None
        if nodes > 1:
            self.cluster = MemoryCluster(self.trackers[0], nodes)
        self.links: dict[tuple[int, int], MemoryLink] = {}
        """The ends by the numbers of their tracker and of the other one."""
        self._offers = 0
        for number, tracker in enumerate(self.trackers):
            tracker.exchange = tracker.exchange_of(tracker_id(number + 1))
            tracker.park()
        for one, other in combinations(range(count), 2) if linked else ():
            sessions = (
                dialing(one + 1, swarms=self.trackers[one].swarms),
                listening(other + 1, swarms=self.trackers[other].swarms),
            )
            shake_hands(*sessions)
            for number, there, session in ((one, other, sessions[0]), (other, one, sessions[1])):
                speaks = number in speaking and there in speaking
                link = self.links[number, there] = MemoryLink(self.trackers[number], session, speaks)
                self.trackers[number].exchange.add(link)
                if trusting:
                    self.trackers[number].trusted.add(link)

    def harness_of(self, tracker: int, connection: FakeConnection) -> HubHarness:
        """Return the hub of a client's connection to a tracker."""
        if tracker == 0 and self.cluster:
            return self.cluster.node_of(connection)
        return self.trackers[tracker]

    def number_of_offers(self, more: int) -> int:
        """Return the number of all offers so far, and count more."""
        self._offers += more
        return self._offers - more

    async def settle(self) -> None:
        """Deliver everything that is under way."""
        is_done = False
        while not is_done:
            is_done = True
            for tracker in self.trackers:
                await tracker.settle()
            if self.cluster:
                self.cluster.settle()
                is_done = not self.trackers[0].events
            for (number, there), link in self.links.items():
                if link.out:
                    is_done = False
                    self.links[there, number].receive(link.out.popleft())
        for tracker in self.trackers:
            tracker.hub.check_invariants()

    async def tell(self) -> None:
        """Have all trackers tell each other of changes."""
        await self.settle()
        for tracker in self.trackers:
            await tracker.exchange.tell_changes()
        await self.settle()
