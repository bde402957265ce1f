"""Random message sequences against a naive model of swarms."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from tests.client import HASH, announce, answer, offers
from tests.unit.fakes import FakeConnection, Room, peer_id

ids = st.integers(1, 5).map(peer_id)
hashes = st.sampled_from([HASH, "i" * 20])


class HubAgainstModel(RuleBasedStateMachine):
    """Random message sequences against a naive model: {(info_hash, peer_id): (connection, is seeder)}."""

    connections = Bundle("connections")

    def __init__(self) -> None:
        super().__init__()
        self.room = Room(seed=3)
        self.model: dict[tuple[str, str], tuple[FakeConnection, bool]] = {}
        self.open: list[FakeConnection] = []

    @rule(target=connections)
    def connect(self) -> FakeConnection:
        self.open.append(FakeConnection())
        return self.open[-1]

    @rule(
        connection=connections,
        who=ids,
        info_hash=hashes,
        left=st.sampled_from([0, 1, None]),
        event=st.sampled_from([None, "started", "completed", "paused"]),
        count=st.integers(0, 4),
    )
    def announces(
        self, connection: FakeConnection, who: str, info_hash: str, left: int | None, event: str | None, count: int
    ) -> None:
        if connection not in self.open:
            return
        was_seeder = self.model.get((info_hash, who), (None, False))[1]
        self.model[info_hash, who] = (connection, was_seeder or left == 0 or event == "completed")
        self.room.send(connection, announce(who, info_hash, left=left, event=event, offers=offers(count), numwant=4))

        others = {peer: owner for (key, peer), (owner, _) in self.model.items() if key == info_hash and peer != who}
        delivered = [(c, message) for c in self.open for message in c.take()]
        replies = [message for c, message in delivered if c is connection and "interval" in message]
        assert len(replies) == 1
        offered = [(c, message) for c, message in delivered if "offer" in message]
        assert len(offered) == min(count, len(others))
        assert all(message["peer_id"] == who for _, message in offered)
        assert len({message["offer_id"] for _, message in offered}) == len(offered)
        # Each offer went to a different peer: no connection got more than it has peers there.
        share = Counter(id(c) for c, _ in offered)
        assert all(times <= sum(id(owner) == c for owner in others.values()) for c, times in share.items())

    @rule(connection=connections, who=ids, info_hash=hashes)
    def stops(self, connection: FakeConnection, who: str, info_hash: str) -> None:
        if connection not in self.open:
            return
        if self.model.get((info_hash, who), (None, False))[0] is connection:
            del self.model[info_hash, who]
        self.room.send(connection, announce(who, info_hash, event="stopped"))
        assert len(connection.take()) == 1

    @rule(connection=connections, who=ids, to=ids, info_hash=hashes)
    def answers(self, connection: FakeConnection, who: str, to: str, info_hash: str) -> None:
        if connection not in self.open:
            return
        self.room.send(connection, answer(who, to, "o" * 20, info_hash))
        allowed = self.model.get((info_hash, who), (None, False))[0] is connection
        receiver = self.model.get((info_hash, to), (None, False))[0]
        got = [c for c in self.open for _ in c.take()]
        assert got == ([receiver] if allowed and receiver else [])

    @rule(connection=connections)
    def closes(self, connection: FakeConnection) -> None:
        if connection in self.open:
            self.open.remove(connection)
            self.room.hub.close(connection)
            self.model = {key: value for key, value in self.model.items() if value[0] is not connection}

    @rule(connection=connections, garbage=st.sampled_from([b"{", b"null", b"[]", b'{"action":"announce"}']))
    def talks_nonsense(self, connection: FakeConnection, garbage: bytes) -> None:
        if connection in self.open:
            self.room.send(connection, garbage)
            (failure,) = connection.take()
            assert "failure reason" in failure

    @invariant()
    def agrees_with_the_model(self) -> None:
        hub = self.room.hub
        hub.check()
        actual = {
            (info_hash, who): (peer.connection, peer.complete)
            for info_hash, swarm in hub.swarms.items()
            for who, peer in swarm.peers.items()
        }
        assert actual == self.model
        for connection in self.open:
            owned = {(peer.swarm.info_hash, peer.peer_id) for peer in connection.peers}
            assert owned == {key for key, (owner, _) in self.model.items() if owner is connection}


HubAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestHubAgainstModel = HubAgainstModel.TestCase
