"""The messages of one node to another: numbers, epochs, bounds."""

import random
from collections.abc import Callable

import pytest

from extensions.cluster.envelope import OVERHEAD, SINGLE, STREAM, Sealer
from extensions.cluster.numbers import AGAIN, ASK_AGAIN, FRESH, GAP, LATE, MAX_ASK_AGAIN, MAX_OLD
from extensions.cluster.reasons import Dropped, Resync
from extensions.cluster.session import HIGH_WATER, MAX_CONTROL, MAX_TRAFFIC, Session, Sessions
from extensions.cluster.transport import Transport
from extensions.cluster.wire import AskAgain, Begin, Closed, Done, Opened, Ping, Shares, Tick, encode, messages_in

HERE, THERE = "1" * 16, "2" * 16


class Line(Transport):
    """Keeps what is sent."""

    def __init__(self, max_payload: int = 1 << 20) -> None:
        self.max_payload = max_payload
        self.needs_mac = False
        self.sent: list[tuple[int, int, int, list[object]]] = []
        """Kind, epoch, number and messages."""
        self.works = True
        self.waiting = 0
        self.read = Sealer(THERE, "test", None)

    async def start(
        self,
        node_id: str,
        receive: Callable[[bytes], None],
        lost: Callable[[str], None],
        connected: Callable[[bool], None],
    ) -> None: ...

    async def stop(self) -> None: ...

    def send(self, to: str, payload: bytes) -> bool:
        if self.works:
            kind, _, epoch, seq = self.read.open(payload)
            assert len(payload) <= self.max_payload
            self.sent.append((kind, epoch, seq, messages_in(payload)))
        return self.works

    def broadcast(self, payload: bytes) -> None: ...

    def pending(self, to: str) -> int:
        return self.waiting

    def take(self, kind: int = STREAM) -> list[list[object]]:
        """Return the messages of the envelopes of a kind since the last call, and forget all."""
        sent, self.sent = self.sent, []
        return [messages for one, _, _, messages in sent if one == kind]


class Pair:
    """A session and what it has sent."""

    def __init__(self, max_payload: int = 1 << 20) -> None:
        self.line = Line(max_payload)
        self.wakes = 0
        self.sessions = Sessions(Sealer(HERE, "test", None), self.line, self.wake)
        self.session: Session = self.sessions.add(THERE, 100.0)
        self.now = 100.0
        self.session.begin([], self.now)
        self.flush()
        self.line.take()

    def wake(self) -> None:
        self.wakes += 1

    def flush(self) -> None:
        ready, self.sessions.ready = self.sessions.ready, []
        for session in ready:
            session.flush(self.now)

    def tick(self, seconds: float) -> None:
        for _ in range(round(10 * seconds)):
            self.now += 0.1
            self.session.tick(self.now)


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_what_one_turn_has_is_one_message_with_statements_first(pair: Pair) -> None:
    pair.session.put_traffic(encode(Ping(1)))
    pair.session.put_control(encode(Done()))
    pair.session.opened("a")
    pair.session.opened("b")
    pair.session.closed("a")
    pair.flush()
    assert pair.wakes == 2, "once to begin, once for all of these"
    assert pair.line.sent == [(STREAM, 1, 2, [Done(), Opened(["a", "b"]), Closed(["a"]), Ping(1)])]
    pair.flush()
    assert len(pair.line.sent) == 1


def test_a_long_turn_is_several_messages_in_order() -> None:
    pair = Pair(max_payload=OVERHEAD + 100)
    for number in range(30):
        pair.session.put_control(encode(Shares(f"{number:020}", [], False)))
    pair.session.put_traffic(encode(Ping(1)))
    pair.flush()
    assert [seq for _, _, seq, _ in pair.line.sent] == list(range(2, 2 + len(pair.line.sent)))
    sent = [message for messages in pair.line.take() for message in messages]
    assert [message.key for message in sent if isinstance(message, Shares)] == [f"{number:020}" for number in range(30)]
    assert sent[-1] == Ping(1)


def test_a_message_that_is_too_long_for_the_transport_is_dropped_and_counted() -> None:
    pair = Pair(max_payload=OVERHEAD + 100)
    pair.session.put_traffic(encode(Shares("x" * 60, [], False)))
    pair.session.put_traffic(bytes(101))
    pair.flush()
    assert len(pair.line.take()) == 1
    assert pair.sessions.dropped == {Dropped.TOO_LONG: 1}


def test_messages_wait_while_the_transport_is_full(pair: Pair) -> None:
    pair.line.waiting = HIGH_WATER + 1
    pair.session.put_control(encode(Done()))
    pair.flush()
    pair.flush()
    assert pair.line.take() == []
    pair.line.waiting = 0
    pair.flush()
    assert pair.line.take() == [[Done()]]


def test_the_oldest_offers_are_dropped_if_too_many_wait(pair: Pair) -> None:
    pair.line.waiting = HIGH_WATER + 1
    size = 1 << 16
    for number in range(2 * MAX_TRAFFIC // size):
        assert pair.session.put_traffic(number.to_bytes(4, "big") + bytes(size - 4))
        pair.flush()
    assert pair.session.traffic_bytes == MAX_TRAFFIC
    assert pair.sessions.dropped == {Dropped.SLOW_NODE: MAX_TRAFFIC // size}


def test_if_too_many_statements_wait_all_are_told_again_later(pair: Pair) -> None:
    pair.line.waiting = HIGH_WATER + 1
    part = encode(Shares("x" * 60, ["0" * 16] * 1000, False))
    for _ in range(MAX_CONTROL // len(part) + 2):
        pair.session.put_control(part)
    assert pair.session.must_begin
    assert pair.session.control_bytes == 0
    assert pair.sessions.resyncs == {Resync.SLOW_NODE: 1}
    assert not pair.session.can_begin(pair.now + 10), "the transport is still full"
    pair.line.waiting = 0
    assert pair.session.can_begin(pair.now + 10)
    pair.session.begin([encode(Done())], pair.now + 10)
    pair.flush()
    assert pair.line.take()[-1] == [Done(), Begin(0, True)]


def test_after_too_many_statements_nothing_follows_in_the_same_epoch(pair: Pair) -> None:
    """The receiver would take it for everything."""
    pair.line.waiting = HIGH_WATER + 1
    part = encode(Shares("x" * 60, ["0" * 16] * 1000, False))
    for _ in range(MAX_CONTROL // len(part)):
        pair.session.put_control(part)
    while pair.session.control_bytes < MAX_CONTROL - 20:
        pair.session.put_control(encode(Done()))
    pair.session.opened("x" * 60)
    pair.session.put_control(encode(Done()))
    assert pair.session.must_begin
    pair.line.waiting = 0
    pair.flush()
    assert pair.line.take() == []


def test_if_the_transport_takes_no_statements_a_new_epoch_begins(pair: Pair) -> None:
    pair.line.works = False
    pair.session.put_control(encode(Done()))
    pair.session.put_traffic(encode(Ping(1)))
    pair.flush()
    assert pair.sessions.dropped == {Dropped.NOT_SENT: 1}
    assert pair.sessions.resyncs == {Resync.NOT_SENT: 1}
    assert not pair.session.can_begin(pair.now), "not at once: it has just begun"
    assert pair.session.can_begin(pair.now + 1)


def test_if_the_transport_takes_no_offers_they_are_lost_alone(pair: Pair) -> None:
    pair.line.works = False
    pair.session.put_traffic(encode(Ping(1)))
    pair.flush()
    pair.line.works = True
    pair.session.put_traffic(encode(Ping(2)))
    pair.flush()
    assert pair.line.sent == [(STREAM, 1, 2, [Ping(2)])], "with the number of the lost one"
    assert not pair.session.must_begin


def test_nothing_is_sent_to_a_node_that_is_gone(pair: Pair) -> None:
    pair.session.put_traffic(encode(Ping(1)))
    session = pair.sessions.remove(THERE)
    pair.flush()
    session.put_control(encode(Done()))
    session.opened("a")
    assert not session.put_traffic(encode(Ping(2)))
    pair.flush()
    assert pair.line.take() == []
    assert session.take_traffic() == [encode(Ping(1))]
    assert session.take_traffic() == []
    assert pair.sessions.dropped == {Dropped.NO_ROUTE: 1}


class TestWhatArrives:
    def test_numbers(self, pair: Pair) -> None:
        accept = pair.session.accept
        assert accept(5, 1, 0.0) == AGAIN
        assert accept(5, 2, 0.0) == FRESH
        assert accept(5, 2, 0.0) == LATE
        assert accept(5, 1, 0.0) == LATE
        assert accept(4, 9, 0.0) == LATE
        assert not pair.session.has_missed
        assert accept(5, 4, 0.0) == GAP
        assert pair.session.has_missed
        assert accept(5, 3, 0.0) == LATE
        assert accept(5, 5, 0.0) == FRESH
        assert accept(6, 1, 0.0) == AGAIN
        assert not pair.session.has_missed
        assert accept(7, 2, 0.0) == GAP, "the first message is missing"

    def test_a_tick_shows_that_the_last_message_is_missing(self, pair: Pair) -> None:
        pair.session.accept(5, 1, 0.0)
        assert pair.session.accept_tick(5, 1, 0.0)
        assert pair.session.accept_tick(4, 9, 0.0)
        assert not pair.session.has_missed
        assert not pair.session.accept_tick(5, 2, 0.0)
        assert pair.session.has_missed

    def test_a_tick_shows_that_the_beginning_of_an_epoch_is_missing(self, pair: Pair) -> None:
        pair.session.accept(5, 1, 0.0)
        assert not pair.session.accept_tick(6, 1, 0.0)
        assert pair.session.accept(6, 1, 0.0) == LATE

    def test_each_epoch_has_a_holder_of_its_own(self, pair: Pair) -> None:
        first = pair.session.holder
        pair.session.accept(5, 1, 0.0)
        second = pair.session.holder
        pair.session.accept(6, 1, 0.0)
        assert pair.session.old_holders == [first, second]
        assert pair.session.holder.is_alive

    def test_epochs_that_are_never_complete_do_not_take_ever_more_memory(self, pair: Pair) -> None:
        holders = []
        for epoch in range(1, 3 * MAX_OLD):
            pair.session.accept(epoch, 1, 100)
            holders.append(pair.session.holder)
        assert len(pair.session.old_holders) == MAX_OLD
        assert [holder.is_alive for holder in holders] == [False] * (2 * MAX_OLD - 1) + [True] * MAX_OLD

    def test_a_missing_message_is_asked_for_until_a_new_epoch_begins(self, pair: Pair) -> None:
        pair.session.accept(5, 1, pair.now)
        pair.session.accept(5, 3, pair.now)
        pair.line.take()
        pair.tick(0.1)
        assert AskAgain(5) in [message for messages in pair.line.take(SINGLE) for message in messages]
        pair.tick(ASK_AGAIN + 0.1)
        assert AskAgain(5) in [message for messages in pair.line.take(SINGLE) for message in messages]
        pair.session.accept(6, 1, pair.now)
        pair.tick(60)
        assert AskAgain(5) not in [message for messages in pair.line.take(SINGLE) for message in messages]

    def test_a_bad_network_is_not_asked_all_the_time(self, pair: Pair) -> None:
        epoch = 1
        for _ in range(1000):
            pair.session.accept(epoch, 1, pair.now)
            pair.session.accept(epoch, 3, pair.now)
            pair.tick(0.5)
            if any(AskAgain(epoch) in messages for messages in pair.line.take(SINGLE)):
                epoch += 1
        assert 500 / MAX_ASK_AGAIN <= epoch < 500 / MAX_ASK_AGAIN + 10


def test_the_last_number_is_repeated_ever_more_rarely(pair: Pair) -> None:
    pair.tick(0.9)
    assert not any(Tick() in messages for messages in pair.line.take(SINGLE))
    pair.tick(0.2)
    assert any(Tick() in messages for messages in pair.line.take(SINGLE))
    pair.tick(300)
    assert 5 < sum(Tick() in messages for messages in pair.line.take(SINGLE)) < 15


def test_a_round_trip_is_measured_once(pair: Pair) -> None:
    pair.tick(0.1)
    (number,) = [one.number for messages in pair.line.take(SINGLE) for one in messages if isinstance(one, Ping)]
    assert pair.session.ponged(number + 1, pair.now) < 0
    assert pair.session.ponged(number, pair.now + 0.25) == 0.25
    assert pair.session.ponged(number, pair.now + 9) < 0


def test_whatever_is_lost_doubled_or_late_is_noticed() -> None:
    """A receiver that has missed a message of the present epoch knows it, once the last number has come."""
    chance = random.Random(3)
    for _ in range(300):
        receiver = Pair().session
        sent = [(epoch, seq) for epoch in (1, 2) for seq in range(1, chance.randrange(2, 6))]
        arriving = [one for one in sent if chance.random() < 0.8 for _ in range(chance.choice([1, 1, 2]))]
        if chance.random() < 0.3:
            chance.shuffle(arriving)
        applied = [one for one in arriving if receiver.accept(*one, 0.0) != LATE]
        receiver.accept_tick(*sent[-1], 0.0)
        assert len(set(applied)) == len(applied)
        assert applied == sorted(applied)
        missing = {one for one in sent if one[0] == 2} - set(applied)
        assert receiver.has_missed == bool(missing)
