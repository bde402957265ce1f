"""Random messages and verdicts against a naive model of members and of those that wait."""

from math import inf
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from tests.client import announce, offers
from tests.unit.core.members import Members
from tests.unit.core.test_hub_model import hashes, ids
from tests.unit.fakes import FakeConnection, HubHarness
from tracker.core.pending import PendingJoin
from tracker.reasons import DropReason


class Waiting(NamedTuple):
    """What the model knows of a peer that waits."""

    connection: FakeConnection
    key: tuple[str, str]
    announces: list[tuple[bool, int]]
    """Of each, in order: whether it makes a seeder, and its number of offers."""


class AdmissionAgainstModel(RuleBasedStateMachine):
    """Verdicts come whenever they like, and meanwhile everything goes on."""

    connections = Bundle("connections")

    def __init__(self) -> None:
        super().__init__()
        self.harness = HubHarness(seed=5)
        self.asked: list[PendingJoin] = []
        self.decided: list[PendingJoin] = []
        self.harness.hub.pending.require(self.asked.append, self.asked.remove)
        self.members = Members()
        self.ended: set[tuple[str, str]] = set()
        """The members whose admission has ended."""
        self.waiting: list[Waiting] = []
        self.open: list[FakeConnection] = []
        self.next_offer = 0

    @rule(target=connections)
    def connect(self) -> FakeConnection:
        self.open.append(FakeConnection())
        return self.open[-1]

    @rule(connection=connections, who=ids, info_hash=hashes, complete=st.booleans(), count=st.integers(0, 3))
    def announces(self, connection: FakeConnection, who: str, info_hash: str, complete: bool, count: int) -> None:
        if connection not in self.open:
            return
        key = (info_hash, who)
        made = offers(count, start=self.next_offer)
        self.next_offer += count
        self.harness.send(connection, announce(who, info_hash, left=0 if complete else 1, offers=made))
        if self.members.has(key, connection) and key not in self.ended:
            self.members.announce(key, connection, complete)
            assert len([message for message in connection.take() if "interval" in message]) == 1
            assert self.relayed() <= count
            return
        known = self.wait_of(connection, key)
        if known:
            self.waiting.remove(known)
        self.waiting.append(Waiting(connection, key, [*(known.announces if known else []), (complete, count)]))
        assert all(c.take() == [] for c in self.open), "nothing comes of it yet"

    @rule(data=st.data(), admits=st.booleans(), lasts=st.booleans())
    def verdict(self, data: st.DataObject, admits: bool, lasts: bool) -> None:
        if not self.asked:
            return
        join = data.draw(st.sampled_from(self.asked))
        self.asked.remove(join)
        self.decided.append(join)
        wait = self.wait_of(join.connection, (join.info_hash, join.peer_id))  # type: ignore[arg-type]
        assert wait
        if not admits:
            self.waiting.remove(wait)
            hub = self.harness.hub
            hub.reject(join, DropReason.ADMISSION_DENIED, "no", self.harness.now, self.harness.outbox)
            told = wait.connection.take()
            assert [message["failure reason"] for message in told] == ["no"] * len(wait.announces)
            if wait.key in self.ended:
                self.leaves(wait.key, wait.connection)
        else:
            self.waiting.remove(wait)
            self.members.announce(wait.key, wait.connection, any(complete for complete, _ in wait.announces))
            now = self.harness.now
            self.harness.hub.admit(join, now, self.harness.outbox, inf if lasts else now)
            self.ended.discard(wait.key)
            if not lasts:
                self.ended.add(wait.key)
            told = wait.connection.inbox
            assert len([message for message in told if "interval" in message]) == len(wait.announces)
            assert told[0].keys() >= {"interval"}, "its reply comes first"
            others = sum(key[0] == wait.key[0] for key in self.members) - 1
            assert self.relayed() == sum(min(count, others) for _, count in wait.announces)

    @rule(data=st.data(), admits=st.booleans())
    def comes_late(self, data: st.DataObject, admits: bool) -> None:
        """A verdict on one that waits no more."""
        if self.decided:
            join = data.draw(st.sampled_from(self.decided))
            hub, outbox = self.harness.hub, self.harness.outbox
            if admits:
                hub.admit(join, self.harness.now, outbox)
            else:
                hub.reject(join, DropReason.ADMISSION_TIMEOUT, "late", self.harness.now, outbox)
            assert all(connection.inbox == [] for connection in self.open)

    @rule(connection=connections, who=ids, info_hash=hashes)
    def stops(self, connection: FakeConnection, who: str, info_hash: str) -> None:
        if connection not in self.open:
            return
        key = (info_hash, who)
        wait = self.wait_of(connection, key)
        if wait:
            self.waiting.remove(wait)
        self.leaves(key, connection)
        self.harness.send(connection, announce(who, info_hash, event="stopped"))
        assert len(connection.take()) == 1

    @rule(connection=connections)
    def closes(self, connection: FakeConnection) -> None:
        if connection in self.open:
            self.open.remove(connection)
            self.harness.hub.close(connection)
            for key in list(self.members):
                self.leaves(key, connection)
            self.waiting = [wait for wait in self.waiting if wait.connection is not connection]

    @invariant()
    def agrees_with_the_model(self) -> None:
        hub = self.harness.hub
        hub.check_invariants()
        assert {
            (info_hash, who): (peer.connection, peer.complete)
            for info_hash, swarm in hub.swarms.items()
            for who, peer in swarm.peers.items()
        } == {key: (member.current, member.complete) for key, member in self.members.items()}
        asked = {(id(join.connection), (join.info_hash, join.peer_id)): len(join.announces) for join in self.asked}
        assert asked == {(id(wait.connection), wait.key): len(wait.announces) for wait in self.waiting}

    def leaves(self, key: tuple[str, str], connection: FakeConnection) -> None:
        self.members.leave(key, connection)
        self.ended &= self.members.keys()

    def wait_of(self, connection: FakeConnection, key: tuple[str, str]) -> Waiting | None:
        return next((wait for wait in self.waiting if wait.connection is connection and wait.key == key), None)

    def relayed(self) -> int:
        """How many offers have come, each of them once."""
        ids = [message["offer_id"] for connection in self.open for message in connection.take() if "offer" in message]
        assert len(ids) == len(set(ids))
        return len(ids)


AdmissionAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestAdmissionAgainstModel = AdmissionAgainstModel.TestCase
