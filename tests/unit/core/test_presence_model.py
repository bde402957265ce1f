"""Connections, announces, answers and deaths against a naive model of presence.

The model in short: a client has one or two connections, at home, and each of them lives or is dead. Strangers announce
its peer_id from other networks. As long as the client has a living connection,

1. each offer that another peer makes it reaches the living connection that announced last, unless a ping is open;
2. each answer reaches the connection that made the offer;
3. it counts once.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.client import Json, announce, answer, offers
from tests.unit.fakes import FakeConnection, HubHarness, peer_id
from tracker.core.presence import OFFER_LIFETIME, PING_GAP, PING_TIMEOUT

CLIENT, OTHER = peer_id(1), peer_id(2)


class PresenceAgainstModel(RuleBasedStateMachine):
    """One client with two connections at most, one other peer, and three strangers."""

    def __init__(self) -> None:
        super().__init__()
        self.harness = HubHarness(seed=7)
        self.other = self.harness.join(OTHER)
        self.living: list[FakeConnection] = []
        """The client's connections in the order of their last announces."""
        self.strangers = [FakeConnection(f"198.51.100.{number}") for number in range(3)]
        self.made: dict[str, tuple[FakeConnection, float]] = {}
        """The connection and the time of each of the client's offers."""
        self.next_offer = 0

    def offers(self, count: int) -> list[Json]:
        made = offers(count, start=self.next_offer)
        self.next_offer += count
        return made

    @initialize()
    def joins(self) -> None:
        self.announces(FakeConnection(), 1)

    def announces(self, connection: FakeConnection, count: int) -> None:
        made = self.offers(count)
        self.made.update({offer["offer_id"]: (connection, self.harness.now) for offer in made})
        self.harness.send(connection, announce(CLIENT, offers=made))
        self.living = [*(living for living in self.living if living is not connection), connection]

    @rule(count=st.integers(0, 2))
    def opens_a_second_connection(self, count: int) -> None:
        if len(self.living) < 2:
            self.announces(FakeConnection(), count)

    @rule(index=st.integers(0, 1), count=st.integers(0, 2))
    def announces_again(self, index: int, count: int) -> None:
        self.announces(self.living[index % len(self.living)], count)

    @rule(index=st.integers(0, 1), ends=st.sampled_from(["closes", "stops", "dies"]))
    def loses_a_connection(self, index: int, ends: str) -> None:
        if len(self.living) < 2:
            return
        connection = self.living.pop(index)
        self.made = {offer_id: made for offer_id, made in self.made.items() if made[0] is not connection}
        if ends == "closes":
            self.harness.hub.close(connection)
        elif ends == "stops":
            self.harness.send(connection, announce(CLIENT, event="stopped"))
        else:
            connection.last_received = 0.0
            # Its client makes up for it with the next announce.
            self.announces(self.living[0], 0)

    @rule(
        number=st.integers(0, 2),
        event=st.sampled_from([None, "stopped", "completed"]),
        count=st.integers(0, 2),
        repeats=st.booleans(),
    )
    def a_stranger_announces(self, number: int, event: str | None, count: int, repeats: bool) -> None:
        made = self.offers(count)
        if repeats:
            made = [{**offer, "offer_id": known} for offer, known in zip(made, self.made, strict=False)]
        self.harness.send(self.strangers[number], announce(CLIENT, event=event, offers=made))

    @rule(number=st.integers(0, 2))
    def a_stranger_closes(self, number: int) -> None:
        self.harness.hub.close(self.strangers[number])
        self.strangers[number] = FakeConnection(f"198.51.100.{number}")

    @rule(seconds=st.sampled_from([0.1, PING_TIMEOUT, PING_GAP, 25.0]))
    def time_passes(self, seconds: float) -> None:
        self.harness.now += seconds
        self.harness.expire()

    @rule()
    def is_offered_one(self) -> None:
        self.silence()
        self.harness.send(self.other, announce(OTHER, offers=self.offers(1)))
        assert [len(self.offered(connection)) for connection in self.living] == [*[0] * (len(self.living) - 1), 1]
        assert all(self.offered(stranger) == [] for stranger in self.strangers)

    @rule(data=st.data())
    def is_answered(self, data: st.DataObject) -> None:
        fresh = [offer_id for offer_id, (_, since) in self.made.items() if since + OFFER_LIFETIME > self.harness.now]
        if not fresh:
            return
        offer_id = data.draw(st.sampled_from(fresh))
        self.silence()
        self.harness.send(self.other, answer(OTHER, CLIENT, offer_id))
        maker, _ = self.made[offer_id]
        for connection in self.living:
            got = [message for message in connection.take() if "answer" in message]
            assert len(got) == (connection is maker)

    @invariant()
    def counts_once(self) -> None:
        if self.living:
            assert sum(self.harness.counts()) == 2

    def silence(self) -> None:
        for connection in (*self.living, *self.strangers, self.other):
            connection.take()

    def offered(self, connection: FakeConnection) -> list[Json]:
        return [message for message in connection.take() if "offer" in message]


PresenceAgainstModel.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestPresenceAgainstModel = PresenceAgainstModel.TestCase
