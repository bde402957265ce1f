"""The bytes of a NATS server: in any pieces, the same messages are taken out, and the same bytes remain.

The first byte of an input cuts the rest into pieces.
"""

from collections.abc import Iterator

from extensions.cluster.nats_frames import Splitter
from tests.fuzz.target import Target, cut

LONGEST = 40

Result = tuple[list[tuple[int, bytes]], bytes]


def check(data: bytes) -> None:
    """Feed the bytes at once, and in pieces."""
    if not data:
        return
    stream = data[1:]
    taken, rest = fed([stream])
    in_pieces, rest_of_pieces = fed(cut(stream, data[0]))
    assert in_pieces == taken, "pieces"
    assert rest_of_pieces == rest, "pieces"
    assert all(len(payload) <= LONGEST for _, payload in taken)
    if not taken:
        assert stream.startswith(rest)


def fed(pieces: list[bytes]) -> Result:
    """Return the messages for two receivers, and the bytes that remain."""
    splitter = Splitter(LONGEST)
    taken: list[tuple[int, bytes]] = []
    splitter.receivers[b"a"] = lambda payload: taken.append((0, payload))
    splitter.receivers[b"b.c"] = lambda payload: taken.append((1, payload))
    return taken, b"".join(map(splitter.feed, pieces))


def seeds() -> Iterator[bytes]:
    """Yield what servers send."""
    yield b'\x00INFO {"server_id":"x"}\r\nPING\r\n+OK\r\n'
    yield b"\x01MSG a 1 5\r\nhello\r\nMSG b.c 2 reply 0\r\n\r\nPONG\r\n"
    yield b"\x02HMSG a 1 12 17\r\nNATS/1.0\r\n\r\nhello\r\nMSG other 7 12\r\nMSG a 1 3\r\nx\r\n"
    yield b"\x03MSG a 1 41\r\n" + b"x" * 41 + b"\r\nMSG a 1 x\r\nMSG a 3\r\nHMSG a 1 9\r\n"
    yield b"\x04-ERR 'x'\r\nMSGX a 1 3\r\n\r\n\r\nMSG a 1 5\r\nhel"


TARGET = Target(
    check,
    seeds,
    (
        b"MSG ",
        b"HMSG ",
        b" a 1 ",
        b" b.c 2 ",
        b"\r\n",
        b"PING\r\n",
        b"NATS/1.0\r\n\r\n",
        b"12 17",
        b"\xb2",
        b"-1",
        b"+5",
    ),
    max_size=400,
    runs=5000,
)
