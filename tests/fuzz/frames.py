"""WebSocket frames: any pieces give the same messages, and websockets reads the same ones.

The first byte of an input cuts the rest into pieces, and its highest bit agrees on compression.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import CloseCode, Frame, Opcode
from websockets.streams import StreamReader
from websockets.typing import ExtensionName

from tests.fuzz import recorded
from tests.fuzz.target import Target, cut
from tracker.net.deflate import Deflate
from tracker.net.errors import FrameError
from tracker.net.frames import MAX_CONTROL, FrameReader, frame

MAX = 600
"""The longest message: so short that inputs reach the limit."""

HEAD = 14
"""Bytes of the longest head of a frame."""

Result = tuple[list[tuple[int, bytes]], CloseCode | None]
"""The messages and control frames, and the code of the error behind them, if there is one."""

CONTROL = (Opcode.CLOSE, Opcode.PING, Opcode.PONG)
INVALID = {CloseCode.PROTOCOL_ERROR, CloseCode.MESSAGE_TOO_BIG}


def check(data: bytes) -> None:
    """Read the frames at once, in pieces, and with websockets."""
    if not data:
        return
    compressed, stream = data[0] >= 0x80, data[1:]
    own = by_us([stream], compressed)
    assert by_us(cut(stream, data[0] & 0x7F), compressed) == own, "pieces"
    messages, code = own
    other = by_websockets(stream, compressed)
    if code is None:
        # websockets refuses a frame that is too big by less of its head, and fragments before they are complete.
        if other[1] == CloseCode.MESSAGE_TOO_BIG:
            code = by_us([stream + bytes(HEAD + MAX)], compressed)[1]
        assert (messages, code) == other
    else:
        # We refuse some frames by their heads, and websockets only when they are complete.
        assert messages == other[0]
        assert other[1] is None or (code in INVALID and other[1] in INVALID)
    for opcode, payload in messages:
        assert len(payload) <= MAX
        reader = StreamReader()
        reader.feed_data(frame(opcode, payload))
        assert parsed(reader, False, MAX, []) == Frame(Opcode(opcode), payload)


def by_us(pieces: list[bytes], compressed: bool) -> Result:
    """Read frames with the code under test."""
    reader = FrameReader(MAX)
    if compressed:
        reader.deflate = Deflate(0)
    messages: list[tuple[int, bytes]] = []
    try:
        for piece in pieces:
            messages.extend(reader.receive(piece))
            assert reader.buffered < HEAD + MAX
    except FrameError as error:
        return messages, error.code
    return messages, None


def by_websockets(stream: bytes, compressed: bool) -> Result:
    """Read frames with websockets."""
    reader = StreamReader()
    reader.feed_data(stream)
    reader.feed_eof()
    marks = Marks()
    messages: list[tuple[int, bytes]] = []
    first: Opcode | None = None
    payload = b""
    try:
        while (read := parsed(reader, True, MAX - len(payload), [marks] if compressed else [])) is not None:
            if read.opcode in CONTROL:
                messages.append((int(read.opcode), bytes(read.data)))
            elif (read.opcode is Opcode.CONT) == (first is None):
                return messages, CloseCode.PROTOCOL_ERROR
            else:
                first = read.opcode if first is None else first
                payload += read.data
                if read.fin:
                    whole = Frame(first, payload, rsv1=marks.is_compressed)
                    if whole.rsv1:
                        whole = PerMessageDeflate(True, True, 15, 15).decode(whole, max_size=MAX)
                    messages.append((int(first), bytes(whole.data)))
                    first, payload = None, b""
    except ProtocolError:
        return messages, CloseCode.PROTOCOL_ERROR
    except PayloadTooBig:
        return messages, CloseCode.MESSAGE_TOO_BIG
    return messages, None


class Marks(Extension):
    """Notes which messages are compressed. The extension of websockets inflates each fragment when it comes."""

    name = ExtensionName("marks")
    is_compressed = False

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        """Take the mark off the first frame of a message."""
        if frame.opcode in CONTROL or frame.opcode is Opcode.CONT:
            return frame
        self.is_compressed = frame.rsv1
        return replace(frame, rsv1=False)


def parsed(reader: StreamReader, mask: bool, room: int, extensions: Sequence[Extension]) -> Frame | None:
    """Return the next frame as websockets parses it, or None if it is incomplete."""
    head = reader.buffer[:2]
    if len(head) == 2 and head[0] & 8 and head[1] & 0x7F > MAX_CONTROL:
        # websockets accepts a short length in more bytes than it needs (RFC 6455, section 5.2), here as elsewhere.
        raise ProtocolError("a control frame with an extended length")
    parser = Frame.parse(reader.read_exact, mask=mask, max_size=room, extensions=extensions)
    try:
        next(parser)
    except StopIteration as end:
        assert isinstance(end.value, Frame)
        return end.value
    except EOFError:
        return None
    raise AssertionError("websockets waits for more than there is")


def seeds() -> Iterator[bytes]:
    """Yield streams of frames."""
    deflate = Deflate(0)

    def sent(opcode: int, payload: bytes, fin: bool = True, rsv1: bool = False) -> bytes:
        written = Frame(Opcode(opcode), payload, fin).serialize(mask=True)
        return bytes([written[0] | rsv1 << 6]) + written[1:]

    for number, payload in enumerate(payload[:MAX] for payload in recorded.sent()[:8]):
        plain, agreed = bytes([number]), bytes([0x80 | number])
        yield plain + sent(1, payload) + sent(9, b"ping") + sent(2, payload[:50])
        yield plain + sent(1, payload[:5], False) + sent(10, b"") + sent(0, b"x", False) + sent(0, payload[5:99])
        compressed = deflate.compress(payload)
        yield agreed + sent(1, compressed, rsv1=True) + sent(8, b"\x03\xe8bye")
        yield agreed + sent(1, compressed[:9], False, True) + sent(0, compressed[9:])
    for start in range(1, 128, 9):
        yield bytes([start]) + sent(1, bytes(range(256)) * 2) + sent(2, b"x" * MAX)
    yield b"\x81" + sent(2, deflate.compress(bytes(5 * MAX)), rsv1=True)
    yield b"\x00" + sent(1, b"", False) + sent(0, b"", False) * 3 + sent(0, bytes(MAX))
    yield b"\x01" + sent(1, bytes(125)) + sent(1, bytes(126)) + sent(1, bytes(MAX + 1))
    yield b"\x00\x81\xff" + (1 << 40).to_bytes(8) + bytes(4)


TARGET = Target(
    check,
    seeds,
    (b"\x81\x80", b"\x81\xfe", b"\x81\xff", b"\x01\x80", b"\x80\x80", b"\x88\x82", b"\x89\x80", b"\xc1", b"\x00\x80"),
    max_size=3000,
    runs=6000,
)
