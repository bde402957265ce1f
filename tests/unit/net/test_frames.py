"""Frames: valid ones in any pieces, and invalid ones."""

from contextlib import suppress
from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import CloseCode, Frame
from websockets.frames import Opcode as Kind

from tracker.net.errors import FrameError
from tracker.net.frames import BINARY, CLOSE, CONTINUATION, MAX_FRAGMENTS, PING, PONG, TEXT, FrameReader, frame

MAX = 70_000

Message = tuple[int, bytes]


def sent(opcode: int, payload: bytes, fin: bool = True) -> bytes:
    """Return a frame as a client of `websockets` sends it."""
    return Frame(Kind(opcode), payload, fin).serialize(mask=True)


def read(*pieces: bytes, reader: FrameReader | None = None) -> list[Message]:
    reader = reader or FrameReader(MAX)
    return [message for piece in pieces for message in reader.receive(piece)]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Return the data in pieces."""
    ends = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(ends)]


def refused(*pieces: bytes) -> CloseCode:
    with pytest.raises(FrameError) as caught:
        read(*pieces)
    return caught.value.code


payloads = st.binary(max_size=300) | st.sampled_from([125, 126, 127, 65_535, 65_536, MAX]).map(bytes)
control = st.tuples(st.sampled_from([CLOSE, PING, PONG]), st.binary(max_size=125))
data = st.tuples(st.sampled_from([TEXT, BINARY]), st.lists(payloads, min_size=1, max_size=4))


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[Message]]:
    """Return sent data and the messages in it, in one or more frames, with control frames between any two."""
    written, expected = b"", list[Message]()

    def interrupt() -> bytes:
        between = draw(st.lists(control, max_size=2))
        expected.extend(between)
        return b"".join(sent(*each) for each in between)

    for opcode, parts in draw(st.lists(data, max_size=5)):
        if sum(map(len, parts)) > MAX:
            continue
        for number, part in enumerate(parts):
            written += interrupt()
            written += sent(CONTINUATION if number else opcode, part, fin=number == len(parts) - 1)
        expected.append((opcode, b"".join(parts)))
    return written + interrupt(), expected


@given(streams(), st.lists(st.integers(0, 1 << 20), max_size=20))
def test_messages_are_the_same_in_any_pieces(stream: tuple[bytes, list[Message]], places: list[int]) -> None:
    written, expected = stream
    assert read(*cut(written, places)) == expected


def test_byte_by_byte() -> None:
    written = sent(TEXT, b"a" * 200) + sent(PING, b"b") + sent(BINARY, b"c" * 65_536)
    pieces = [written[place : place + 1] for place in range(len(written))]
    assert read(*pieces) == [(TEXT, b"a" * 200), (PING, b"b"), (BINARY, b"c" * 65_536)]


def test_only_an_incomplete_frame_is_buffered() -> None:
    reader = FrameReader(MAX)
    assert read(sent(TEXT, b"x" * 1000) + sent(TEXT, b"y" * 50)[:20], reader=reader) == [(TEXT, b"x" * 1000)]
    assert reader.buffered == 20
    read(sent(TEXT, b"y" * 50)[20:], reader=reader)
    assert reader.buffered == 0


@pytest.mark.parametrize(
    "broken",
    [
        sent(CONTINUATION, b"x"),
        sent(TEXT, b"x", fin=False) + sent(TEXT, b"x"),
        sent(TEXT, b"x", fin=False) + sent(BINARY, b"x", fin=False),
        bytes([0x81 | 0x40, 0x80]),
        bytes([0x81 | 0x20, 0x80]),
        bytes([0x89 | 0x10, 0x80]),
        bytes([PING, 0x80]),
        bytes([0x80 | PING, 0x80 | 126, 0, 126]),
        bytes([0x83, 0x80]),
        bytes([0x8B, 0x80]),
        Frame(Kind(TEXT), b"x").serialize(mask=False),
        Frame(Kind(CLOSE), b"").serialize(mask=False),
    ],
    # The masks are random, and the name of a test must be the same in every run.
    ids=count(),
)
def test_protocol_errors_are_found_without_further_data(broken: bytes) -> None:
    assert refused(broken) == CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize("size", [MAX + 1, 1 << 40, (1 << 64) - 1])
def test_a_frame_that_is_too_big_is_refused_by_its_head(size: int) -> None:
    head = bytes([0x81, 0x80 | 127]) + size.to_bytes(8) + b"mask"
    assert refused(head) == CloseCode.MESSAGE_TOO_BIG


def test_fragments_are_bounded_in_size_and_number() -> None:
    half = sent(TEXT, bytes(MAX // 2), fin=False)
    more = sent(CONTINUATION, bytes(MAX // 2), fin=False)
    assert read(half, more) == []
    assert refused(half, more, sent(CONTINUATION, b"x")) == CloseCode.MESSAGE_TOO_BIG
    empty = sent(CONTINUATION, b"", fin=False)
    assert read(sent(TEXT, b"", fin=False), empty * (MAX_FRAGMENTS - 2), sent(CONTINUATION, b"")) == [(TEXT, b"")]
    assert refused(sent(TEXT, b"", fin=False), empty * MAX_FRAGMENTS) == CloseCode.MESSAGE_TOO_BIG


def test_messages_before_an_error_are_read() -> None:
    messages = FrameReader(MAX).receive(sent(TEXT, b"x") + b"\xff\xff")
    assert next(messages) == (TEXT, b"x")
    with pytest.raises(FrameError):
        next(messages)


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=5))
def test_garbage_raises_nothing_but_a_frame_error(garbage: bytes, places: list[int]) -> None:
    with suppress(FrameError):
        read(*cut(garbage, places))


@given(control | st.tuples(st.sampled_from([TEXT, BINARY]), payloads))
def test_frames_are_written_as_websockets_writes_them(message: Message) -> None:
    opcode, payload = message
    assert frame(opcode, payload) == Frame(Kind(opcode), payload).serialize(mask=False)
