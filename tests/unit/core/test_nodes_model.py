"""Random message sequences to the nodes of one tracker, against a naive model of one process."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from tests.client import HASH, announce, offers
from tests.unit.core.cluster import Cluster
from tests.unit.fakes import FakeConnection, Json, peer_id
from tracker.core.crossing import WINDOW
from tracker.core.parked import LIFETIME

ids = st.integers(1, 6).map(peer_id)
hashes = st.sampled_from([HASH, "i" * 20])
Key = tuple[str, str]


class ClusterAgainstModel(RuleBasedStateMachine):
    """A peer may be present on several connections, all of which are alive, at one node or at several ones."""

    connections = Bundle("connections")

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster(3)
        self.model: dict[Key, dict[FakeConnection, bool]] = {}
        """For each peer of a swarm, the connections on which it is present, and whether it is a seeder there."""
        self.made: dict[str, tuple[str, str, float]] = {}
        """The swarm of each offer, the peer that made it and the time, until somebody receives it."""
        self.offered: dict[Key, tuple[float, set[str]]] = {}
        """The makers whose offers a peer may have been given, and until when none may go back to them."""
        self.open: list[FakeConnection] = []
        self.next_offer = 0

    @rule(target=connections, number=st.integers(0, 2))
    def connect(self, number: int) -> FakeConnection:
        self.open.append(self.cluster.connect(number))
        return self.open[-1]

    @rule(
        connection=connections,
        who=ids,
        info_hash=hashes,
        left=st.sampled_from([0, 1]),
        event=st.sampled_from([None, "completed"]),
        count=st.integers(0, 4),
    )
    def announces(
        self, connection: FakeConnection, who: str, info_hash: str, left: int, event: str | None, count: int
    ) -> None:
        if connection not in self.open:
            return
        on = self.model.setdefault((info_hash, who), {})
        on[connection] = on.get(connection, False) or left == 0 or event == "completed"
        made = offers(count, start=self.next_offer)
        self.next_offer += count
        self.made.update({offer["offer_id"]: (info_hash, who, self.cluster.now) for offer in made})
        self.cluster.send(connection, announce(who, info_hash, left=left, event=event, offers=made, numwant=4))
        delivered = [(c, message) for c in self.open for message in c.take()]
        assert sum("interval" in message for _, message in delivered) == 1
        received = [self.receive(c, message) for c, message in delivered if "offer" in message]
        # Within one announce, each receiver gets at most one offer.
        own = Counter(c for maker, c in received if maker == who)
        others = {key[1] for key in self.model if key[0] == info_hash and key[1] != who}
        assert all(times <= sum(c in self.model[info_hash, one] for one in others) for c, times in own.items())
        if event != "completed" and count:
            until, makers = self.offered.get((info_hash, who), (0, set()))
            crossing = makers & others if self.cluster.now < until else set()
            assert sum(own.values()) >= min(count, len(others) - len(crossing))
        for maker, receiving in received:
            self.note_offered(info_hash, maker, receiving)

    def receive(self, connection: FakeConnection, message: Json) -> tuple[str, FakeConnection]:
        """Check an offer that a connection has received; return the maker."""
        info_hash, maker, since = self.made.pop(message["offer_id"])
        assert message["peer_id"] == maker
        assert message["info_hash"] == info_hash
        assert since + LIFETIME > self.cluster.now
        assert any(
            connection in on for (swarm, who), on in self.model.items() if swarm == info_hash and who != maker
        ), "its own offer, or that of another swarm"
        return maker, connection

    def note_offered(self, info_hash: str, maker: str, connection: FakeConnection) -> None:
        """Remember whose offers the peers on a connection may have been given: roles may differ between nodes."""
        present = {key[1]: on for key, on in self.model.items() if key[0] == info_hash}
        for who, on in present.items():
            if connection in on and who != maker:
                until, makers = self.offered.get((info_hash, who), (0, set()))
                kept = makers if self.cluster.now < until else set()
                self.offered[info_hash, who] = (self.cluster.now + WINDOW, kept | {maker})

    @rule(seconds=st.sampled_from([1, 20, 46]))
    def time_passes(self, seconds: int) -> None:
        self.cluster.now += seconds

    @rule(connection=connections, who=ids, info_hash=hashes)
    def stops(self, connection: FakeConnection, who: str, info_hash: str) -> None:
        if connection in self.open:
            self.leave((info_hash, who), connection)
            self.cluster.send(connection, announce(who, info_hash, event="stopped"))
            self.take_late()

    @rule(connection=connections)
    def closes(self, connection: FakeConnection) -> None:
        if connection in self.open:
            self.open.remove(connection)
            for key in list(self.model):
                self.leave(key, connection)
            self.cluster.close(connection)
            self.take_late()

    @rule()
    def judges(self) -> None:
        self.cluster.now += 2
        self.cluster.expire()
        self.take_late()

    def take_late(self) -> None:
        """Nothing but a reply comes to anyone."""
        for connection in self.open:
            assert all("interval" in message for message in connection.take())

    def leave(self, key: Key, connection: FakeConnection) -> None:
        on = self.model.get(key, {})
        on.pop(connection, None)
        if not on:
            self.model.pop(key, None)

    @invariant()
    def agrees_with_the_model(self) -> None:
        for info_hash in (HASH, "i" * 20):
            present = {key[1]: on for key, on in self.model.items() if key[0] == info_hash}
            for node in self.cluster.nodes:
                local = {
                    who
                    for who, on in present.items()
                    if any(self.cluster.home[connection] is node for connection in on)
                }
                swarm = node.hub.swarms.get(info_hash)
                assert set(swarm.peers if swarm else ()) == local
                if swarm:
                    challenged = {peer.peer_id for peer in swarm.peers.values() if node.hub.challenges.has(peer)}
                    assert swarm.complete + swarm.incomplete == len(present) + len(
                        challenged & {one for one in local if len({self.cluster.home[c] for c in present[one]}) > 1}
                    )


ClusterAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestClusterAgainstModel = ClusterAgainstModel.TestCase
