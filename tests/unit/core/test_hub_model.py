"""Random message sequences against a naive model of swarms."""

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from tests.client import HASH, Json, announce, answer, offers
from tests.unit.core.members import Members
from tests.unit.fakes import FakeConnection, HubHarness, peer_id
from tracker.core.choice import DAMPING
from tracker.core.crossing import WINDOW
from tracker.core.parked import LIFETIME
from tracker.core.pending import PendingJoin

ids = st.integers(1, 5).map(peer_id)
hashes = st.sampled_from([HASH, "i" * 20])


class PromptHarness(HubHarness):
    """A harness where every peer is asked about, and admitted a moment later."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.asked: list[PendingJoin] = []
        self.hub.pending.require(self.asked.append, self.asked.remove)

    def send(self, connection: FakeConnection, message: object) -> list[Json]:
        super().send(connection, message)
        while self.asked:
            self.hub.admit(self.asked.pop(), self.now, self.outbox)
            self.hub.check_invariants()
        return connection.inbox


class HubAgainstModel(RuleBasedStateMachine):
    """Random message sequences against a naive model."""

    connections = Bundle("connections")
    parks = False
    make_harness: type[HubHarness] = HubHarness

    def __init__(self) -> None:
        super().__init__()
        self.harness = self.make_harness(seed=3)
        if self.parks:
            self.harness.hub.offers.parked.enable(lambda _: None)
        self.made: dict[str, tuple[str, str, FakeConnection, float]] = {}
        """Where each offer was made, by whom, over what, and when; those that were given to somebody are taken out."""
        self.model = Members()
        self.met: set[tuple[str, str, str]] = set()
        """The swarm of each meeting, the peer that remembers it, and the one that it has met."""
        self.answered: dict[tuple[str, str], float] = {}
        """When each peer of a swarm last received an answer."""
        self.offered: dict[tuple[str, str], tuple[float, set[str]]] = {}
        """The makers whose offers a peer of a swarm may have been given, and until when none may go back to them."""
        self.open: list[FakeConnection] = []
        self.next_offer = 0

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
            return None
        joins = (info_hash, who) not in self.model
        connects = not self.model.has((info_hash, who), connection)
        self.model.announce((info_hash, who), connection, left == 0 or event == "completed")
        made = offers(count, start=self.next_offer)
        self.next_offer += count
        self.made.update({offer["offer_id"]: (info_hash, who, connection, self.harness.now) for offer in made})
        self.harness.send(connection, announce(who, info_hash, left=left, event=event, offers=made, numwant=4))

        if connects:
            self.answered.pop((info_hash, who), None)
            self.met = {meeting for meeting in self.met if meeting[:2] != (info_hash, who)}
        others = {
            peer: member.current
            for (key, peer), member in self.model.items()
            if key == info_hash and peer != who and not (count == 1 and self.are_apart(info_hash, who, peer))
        }
        delivered = [(c, message) for c in self.open for message in c.take()]
        replies = [message for c, message in delivered if c is connection and "interval" in message]
        assert len(replies) == 1
        offered = [(c, message) for c, message in delivered if "offer" in message]
        if self.parks and joins and not count and event != "completed":
            return self.is_given_what_waits(connection, info_hash, who, [message for _, message in offered])
        for _, message in offered:
            del self.made[message["offer_id"]]
        until, makers = self.offered.get((info_hash, who), (0, set()))
        crossing = makers & others.keys() if self.harness.now < until else set()
        assert min(count, len(others) - len(crossing)) <= len(offered) <= min(count, len(others))
        self.note_offered(info_hash, offered)
        assert all(message["peer_id"] == who for _, message in offered)
        assert len({message["offer_id"] for _, message in offered}) == len(offered)
        # Each offer went to a different peer: no connection got more than it has peers there.
        share = Counter(id(c) for c, _ in offered)
        assert all(times <= sum(id(owner) == c for owner in others.values()) for c, times in share.items())
        return None

    def note_offered(self, info_hash: str, given: list[tuple[FakeConnection, Json]]) -> None:
        """Remember whose offers the peers on a connection may have been given, but for rooms."""
        present = {who: member for (key, who), member in self.model.items() if key == info_hash}
        if len({member.complete for member in present.values()}) == 1:
            return
        for connection, message in given:
            for who, member in present.items():
                if connection is member.current and who != message["peer_id"]:
                    until, makers = self.offered.get((info_hash, who), (0, set()))
                    kept = makers if self.harness.now < until else set()
                    self.offered[info_hash, who] = (self.harness.now + WINDOW, kept | {message["peer_id"]})

    def are_apart(self, info_hash: str, who: str, other: str) -> bool:
        """Whether two peers have just met, and are not to meet again."""
        soon = self.harness.now < self.answered.get((info_hash, who), 0) + DAMPING
        return soon and (info_hash, who, other) in self.met and (info_hash, other, who) in self.met

    def is_given_what_waits(self, connection: FakeConnection, info_hash: str, who: str, given: list[Json]) -> None:
        """A newcomer without offers: what it gets is of members, one of each, of late, and of nobody else's."""
        makers = [message["peer_id"] for message in given]
        assert len(makers) == len(set(makers))
        for message in given:
            swarm, maker, made_over, since = self.made.pop(message["offer_id"])
            assert (swarm, maker) == (info_hash, message["peer_id"])
            assert self.model.has((info_hash, maker), made_over), "it would not know what to do with an answer"
            assert maker != who
            assert since + LIFETIME > self.harness.now
        assert connection.inbox == []
        self.note_offered(info_hash, [(connection, message) for message in given])

    @rule(seconds=st.sampled_from([1, 20, 46]))
    def time_passes(self, seconds: int) -> None:
        self.harness.now += seconds

    @rule(connection=connections, who=ids, info_hash=hashes)
    def stops(self, connection: FakeConnection, who: str, info_hash: str) -> None:
        if connection not in self.open:
            return
        self.model.leave((info_hash, who), connection)
        self.harness.send(connection, announce(who, info_hash, event="stopped"))
        assert len(connection.take()) == 1

    @rule(connection=connections, who=ids, to=ids, info_hash=hashes)
    def answers(self, connection: FakeConnection, who: str, to: str, info_hash: str) -> None:
        if connection not in self.open:
            return
        # The second answer to an offer is no meeting.
        self.next_offer += 1
        self.harness.send(connection, answer(who, to, f"{self.next_offer - 1:020}", info_hash))
        receiver = self.model.get((info_hash, to))
        got = [c for c in self.open for _ in c.take()]
        sender: str | None = who
        if (info_hash, who) not in self.model:
            # It is taken for an answer of a peer on the same connection.
            on = [peer for (key, peer) in self.model if key == info_hash and self.model.has((key, peer), connection)]
            swarm = self.harness.hub.swarms.get(info_hash)
            stand_in = swarm.peer_on(connection) if swarm else None
            sender = stand_in.peer_id if stand_in else None
            assert sender in on or (sender is None and not on)
        elif not self.model.has((info_hash, who), connection):
            sender = None
        assert got == ([receiver.receiver] if sender and receiver else [])
        if sender and receiver:
            self.met |= {(info_hash, sender, to), (info_hash, to, sender)}
            self.answered[info_hash, to] = self.harness.now

    @rule(connection=connections)
    def closes(self, connection: FakeConnection) -> None:
        if connection in self.open:
            self.open.remove(connection)
            self.harness.hub.close(connection)
            self.model.close(connection)

    @rule(connection=connections, garbage=st.sampled_from([b"{", b"null", b"[]", b'{"action":"announce"}']))
    def talks_nonsense(self, connection: FakeConnection, garbage: bytes) -> None:
        if connection in self.open:
            self.harness.send(connection, garbage)
            (failure,) = connection.take()
            assert "failure reason" in failure

    @invariant()
    def agrees_with_the_model(self) -> None:
        hub = self.harness.hub
        hub.check_invariants()
        # A peer that leaves and comes back is another one.
        self.met = {one for one in self.met if (one[0], one[1]) in self.model and (one[0], one[2]) in self.model}
        self.answered = {key: when for key, when in self.answered.items() if key in self.model}
        actual = {
            (info_hash, who): (peer.connection, peer.complete)
            for info_hash, swarm in hub.swarms.items()
            for who, peer in swarm.peers.items()
        }
        assert actual == {key: (member.current, member.complete) for key, member in self.model.items()}
        parked_offers = hub.offers.parked
        if parked_offers.enabled:
            waiting = [parked for swarm in hub.swarms.values() for parked in parked_offers.of(swarm, self.harness.now)]
            assert all((parked.peer.swarm.info_hash, parked.peer.peer_id) in self.model for parked in waiting)
            assert all(parked.peer.connection in self.open for parked in waiting)
        for connection in self.open:
            owned = {(peer.swarm.info_hash, peer.peer_id) for peer in connection.peers}
            assert owned == {key for key in self.model if self.model.has(key, connection)}


class ParkingHubAgainstModel(HubAgainstModel):
    """The same, where offers that find nobody wait for who comes next."""

    parks = True


class AskingHubAgainstModel(ParkingHubAgainstModel):
    """The same, where extensions admit everybody: that makes no difference."""

    make_harness = PromptHarness


for machine in (HubAgainstModel, ParkingHubAgainstModel, AskingHubAgainstModel):
    machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestHubAgainstModel = HubAgainstModel.TestCase
TestParkingHubAgainstModel = ParkingHubAgainstModel.TestCase
TestAskingHubAgainstModel = AskingHubAgainstModel.TestCase
