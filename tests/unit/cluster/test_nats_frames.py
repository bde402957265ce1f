"""The messages in the bytes of a NATS server: in any pieces, each is taken out once, and all else stays."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extensions.cluster.nats_frames import Splitter

LONGEST = 40

others = st.sampled_from(
    [
        b"PING\r\n",
        b"PONG\r\n",
        b'INFO {"a":1}\r\n',
        b"-ERR 'x'\r\n",
        b"+OK\r\n",
        b"MSG other 7 12\r\nMSG a 1 3\r\nx\r\n",
        b"MSG a.b 7 2\r\n\r\n\r\n",
        b"HMSG other 7 reply 4 6\r\nabcdef\r\n",
        b"MSG a 1 %d\r\n%b\r\n" % (LONGEST + 1, b"x" * (LONGEST + 1)),
        b"MSG a 1 x\r\n",
        b"MSG a 3\r\n",
        b"HMSG a 1 9\r\n",
        b"MSGX a 1 3\r\n",
        b"\r\n",
    ]
)
payloads = st.binary(max_size=LONGEST) | st.sampled_from([b"\r\n", b"PING\r\n", b"MSG a 1 3\r\n"])


def as_message(payload: bytes, headers: bytes, reply: bytes) -> bytes:
    if headers:
        sizes = len(headers), len(headers) + len(payload)
        return b"HMSG a 1 %b%d %d\r\n%b%b\r\n" % (reply, *sizes, headers, payload)
    return b"MSG a 1 %b%d\r\n%b\r\n" % (reply, len(payload), payload)


messages = st.tuples(
    payloads.filter(lambda one: len(one) <= 20), st.just(b"") | st.binary(max_size=20), st.sampled_from([b"", b"r "])
)


@given(sent=st.lists(others | messages, max_size=8), data=st.data())
def test_messages_are_taken_out(sent: list[Any], data: st.DataObject) -> None:
    stream = b"".join(one if isinstance(one, bytes) else as_message(*one) for one in sent)
    splitter = Splitter(LONGEST)
    taken: list[bytes] = []
    splitter.receivers[b"a"] = taken.append
    rest = b""
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        rest += splitter.feed(stream[:size])
        stream = stream[size:]
    assert taken == [one[0] for one in sent if not isinstance(one, bytes)]
    assert rest == b"".join(one for one in sent if isinstance(one, bytes))


def test_a_message_of_many_pieces_is_joined_once() -> None:
    """The time to take it must not grow with the square of its size."""
    splitter = Splitter(1 << 20)
    taken: list[bytes] = []
    splitter.receivers[b"a"] = taken.append
    payload = bytes(range(256)) * 4096
    stream = b"MSG a 1 %d\r\n%b\r\nPING\r\n" % (len(payload), payload)
    rest = b"".join(splitter.feed(stream[at : at + 100]) for at in range(0, len(stream), 100))
    assert (taken, rest) == ([payload], b"PING\r\n")


@pytest.mark.parametrize("size", [10, 70_000, 200_000])
def test_a_long_line_is_passed_on(size: int) -> None:
    line = b"INFO " + b"x" * size + b"\r\n"
    splitter = Splitter(LONGEST)
    taken: list[bytes] = []
    splitter.receivers[b"a"] = taken.append
    stream = line + as_message(b"hello", b"", b"")
    rest = b"".join(splitter.feed(stream[at : at + 999]) for at in range(0, len(stream), 999))
    assert (taken, rest) == ([b"hello"], line)
