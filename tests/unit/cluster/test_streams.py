"""Streams and questions between nodes."""

import pytest

from extensions.cluster.questions import MAX_ANSWER, MAX_WAITING, Reply
from extensions.cluster.reasons import Dropped
from extensions.cluster.session import HIGH_WATER, MAX_TRAFFIC, Session
from extensions.cluster.streams import MAX_PIECE, MAX_STREAMS, NodeStream
from extensions.cluster.transport import MIN_PAYLOAD
from tests.unit.cluster.world import Station, World


class End:
    """One end of a stream."""

    def __init__(self) -> None:
        self.heard: list[bytes | str] = []
        self.stream: NodeStream | None = None

    def on_data(self, data: bytes) -> None:
        self.heard.append(data)

    def on_end(self) -> None:
        self.heard.append("end")


class Streams:
    """Two nodes, of which the second accepts streams."""

    def __init__(self) -> None:
        self.world = World(2)
        self.here, self.there = self.world.stations
        self.accepted: list[End] = []
        self.there.log.receivers = self.accept

    def accept(self, opening: bytes, stream: NodeStream) -> End | None:
        if opening == b"no":
            return None
        end = End()
        end.heard.append(opening)
        end.stream = stream
        self.accepted.append(end)
        return end

    @property
    def session(self) -> Session:
        return self.here.node.parts.sessions.by_id[self.there.node_id]

    def open(self, opening: bytes = b"hello") -> End:
        end = End()
        end.stream = self.here.node.parts.streams.open(self.session, opening, end)
        assert end.stream
        self.world.settle()
        return end

    @property
    def numbers(self) -> tuple[int, int]:
        """The numbers of open streams."""
        return len(self.here.node.parts.streams), len(self.there.node.parts.streams)


@pytest.fixture
def streams() -> Streams:
    return Streams()


def test_pieces_come_in_both_directions_in_order(streams: Streams) -> None:
    one = streams.open()
    (other,) = streams.accepted
    assert one.stream
    assert other.stream
    for number in range(5):
        assert one.stream.send(b"%d" % number)
        assert other.stream.send(b"%d back" % number)
    streams.world.settle()
    assert other.heard == [b"hello", b"0", b"1", b"2", b"3", b"4"]
    assert one.heard == [b"%d back" % number for number in range(5)]
    one.stream.send(bytes(MAX_PIECE))
    one.stream.end()
    streams.world.settle()
    assert other.heard[-2:] == [bytes(MAX_PIECE), "end"]
    assert "end" not in one.heard, "it has ended the stream itself"
    assert not other.stream.send(b"late")
    assert streams.numbers == (0, 0)


def test_both_nodes_open_streams_with_the_same_numbers(streams: Streams) -> None:
    streams.here.log.receivers = streams.accept
    one = streams.open(b"from here")
    back = End()
    session = streams.there.node.parts.sessions.by_id[streams.here.node_id]
    back.stream = streams.there.node.parts.streams.open(session, b"from there", back)
    streams.world.settle()
    assert one.stream
    assert back.stream
    one.stream.send(b"1")
    back.stream.send(b"2")
    streams.world.settle()
    assert [end.heard for end in streams.accepted] == [[b"from here", b"1"], [b"from there", b"2"]]


def test_a_stream_that_is_not_accepted_ends(streams: Streams) -> None:
    end = streams.open(b"no")
    assert end.heard == ["end"]
    assert streams.numbers == (0, 0)


def test_a_lost_piece_ends_the_stream_at_both_ends(streams: Streams) -> None:
    one = streams.open()
    assert one.stream
    one.stream.send(b"lost")
    streams.here.turn()
    streams.world.bus.waiting.clear()
    one.stream.send(b"next")
    streams.world.settle()
    assert streams.accepted[0].heard == [b"hello", "end"]
    assert one.heard == ["end"]
    assert streams.numbers == (0, 0)


def test_streams_end_with_the_node(streams: Streams) -> None:
    one = streams.open()
    streams.world.kill(streams.there)
    streams.world.pass_time(5)
    assert one.heard == ["end"]
    assert one.stream
    assert not one.stream.send(b"late")
    assert streams.numbers[0] == 0


def test_streams_end_when_this_node_stops(streams: Streams) -> None:
    one = streams.open()
    streams.world.stop(streams.here)
    streams.world.settle()
    assert one.heard == ["end"]
    assert streams.accepted[0].heard == [b"hello", "end"]


def test_a_stream_ends_if_the_other_node_is_slow_instead_of_taking_memory(streams: Streams) -> None:
    one = streams.open()
    assert one.stream
    streams.here.transport.buffered[streams.there.node_id] = HIGH_WATER + 1
    sent = 0
    while one.stream.send(bytes(MAX_PIECE)):
        sent += MAX_PIECE
        assert sent < 2 * MAX_TRAFFIC
    assert one.heard == ["end"]
    streams.here.transport.buffered.clear()
    streams.world.settle()
    assert streams.accepted[0].heard[-1] == "end"


def test_a_node_may_open_a_limited_number(streams: Streams) -> None:
    ends = [streams.open() for _ in range(MAX_STREAMS + 1)]
    assert ends[-1].heard == ["end"]
    assert ends[0].heard == []
    assert streams.there.node.parts.sessions.dropped == {Dropped.TOO_MANY_STREAMS: 1}
    assert ends[0].stream
    ends[0].stream.end()
    streams.world.settle()
    assert streams.open().heard == []


class Asking:
    """Three nodes that answer questions."""

    def __init__(self, max_payload: int = 1 << 20) -> None:
        self.world = World(3, max_payload=max_payload)
        self.here, *self.others = self.world.stations
        self.got: list[dict[str, bytes]] = []
        self.replies: list[Reply] = []

    def answer(self, station: Station, kind: str, answer: bytes) -> None:
        station.node.parts.questions.on_ask(kind, lambda data, reply: reply(data + answer))

    def ask(self, kind: str, data: bytes = b"") -> None:
        nodes = [station.node_id for station in self.others]
        self.here.node.parts.questions.ask(kind, data, nodes, 1.0, self.got.append)
        self.world.settle()


def test_all_answers_come_at_once() -> None:
    asking = Asking()
    for number, station in enumerate(asking.others):
        asking.answer(station, "kind", b"%d" % number)
    asking.ask("kind", b"data")
    assert asking.got == [{station.node_id: b"data%d" % number for number, station in enumerate(asking.others)}]


def test_a_long_answer_comes_in_parts() -> None:
    asking = Asking(MIN_PAYLOAD)
    text = bytes(range(256)) * 1000
    asking.answer(asking.others[0], "kind", text)
    asking.answer(asking.others[1], "kind", bytes(MAX_ANSWER + 1))
    asking.ask("kind")
    assert asking.got == [{asking.others[0].node_id: text, asking.others[1].node_id: b""}]
    assert asking.others[1].node.parts.sessions.dropped == {Dropped.TOO_LONG: 1}


def test_answers_that_come_too_late_are_dropped() -> None:
    asking = Asking()
    first, second = asking.others
    asking.answer(first, "kind", b"in time")
    second.node.parts.questions.on_ask("kind", lambda _, reply: asking.replies.append(reply))
    asking.ask("kind")
    assert asking.got == []
    asking.world.pass_time(1.2)
    assert asking.got == [{first.node_id: b"in time"}]
    asking.replies[0](b"late")
    asking.replies[0](b"twice")
    asking.world.settle()
    assert asking.here.node.parts.sessions.dropped == {Dropped.LATE: 1}


def test_a_node_that_dies_is_not_waited_for() -> None:
    asking = Asking()
    first, second = asking.others
    asking.answer(first, "kind", b"answer")
    second.node.parts.questions.on_ask("kind", lambda _, reply: asking.replies.append(reply))
    asking.ask("kind")
    asking.here.node.lost(second.node_id)
    assert asking.got == [{first.node_id: b"answer"}]


def test_an_unknown_question_has_an_empty_answer() -> None:
    asking = Asking()
    asking.ask("unknown")
    assert asking.got == [{station.node_id: b"" for station in asking.others}]


def test_questions_that_wait_are_bounded() -> None:
    asking = Asking()
    for station in asking.others:
        station.node.parts.questions.on_ask("kind", lambda _, reply: asking.replies.append(reply))
    for _ in range(MAX_WAITING + 2):
        asking.ask("kind")
    assert asking.got == [{}, {}]
    asking.here.node.parts.questions.ask("kind", b"", ["0" * 16], 1.0, asking.got.append)
    assert asking.got[2:] == [{}], "there is no such node"
