"""WebSocket frames as a server reads and writes them (RFC 6455, section 5; sans I/O).

One `FrameReader` per connection keeps only the bytes of an incomplete frame: it parses received data in place. It also
reassembles fragmented messages, and inflates compressed ones.
"""

from collections.abc import Iterator
from enum import IntEnum
from struct import Struct
from typing import Final

from websockets.frames import CloseCode

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform without websockets' compiled part
    from websockets.utils import apply_mask

from tracker.net.deflate import Deflate
from tracker.net.errors import FrameError

MAX_FRAGMENTS: Final = 1024
"""Frames of one message. Without a limit, a message could have empty frames without end."""

MAX_CONTROL: Final = 125
"""Bytes of payload in a control frame (section 5.5)."""

_FIN: Final = 0x80
_RSV: Final = 0x70
_OPCODE: Final = 0x0F
_CONTROL: Final = 0x08
_MASKED: Final = 0x80
_FINAL_TEXT: Final = 0x81
_MEDIUM: Final = 126
_LONG: Final = 127

_medium_head: Final = Struct("!BBH").pack
_long_head: Final = Struct("!BBQ").pack


class Opcode(IntEnum):
    """The opcode of a frame (section 5.2). A fragmented message has the opcode of its first frame."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


CONTINUATION: Final = int(Opcode.CONTINUATION)
TEXT: Final = int(Opcode.TEXT)
BINARY: Final = int(Opcode.BINARY)
CLOSE: Final = int(Opcode.CLOSE)
PING: Final = int(Opcode.PING)
PONG: Final = int(Opcode.PONG)

COMPRESSED: Final = 0x40
"""The bit RSV1 in the first frame of a compressed message (RFC 7692, section 6)."""

_KNOWN: Final = frozenset(map(int, Opcode))


class FrameReader:
    """Parses the frames of a client, up to messages of `max_size` bytes.

    Attributes:
        deflate: Inflates compressed messages, if the connection may have them.
        compressed: Bytes of the last compressed message. Set it to 0 after a look.
    """

    __slots__ = ("_fragments", "_partial", "_wanted", "compressed", "deflate", "max_size")

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self.deflate: Deflate | None = None
        self.compressed = 0
        self._partial: bytearray | None = None
        self._wanted = 0
        self._fragments: _Fragments | None = None

    @property
    def buffered(self) -> int:
        """The number of bytes kept of an incomplete frame."""
        return len(self._partial) if self._partial is not None else 0

    def receive(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the messages and control frames that `data` completes, as pairs of opcode and payload.

        The iterator must be exhausted before the next call.

        Raises:
            FrameError: A frame is invalid or too large. The reader cannot be used any more.
        """
        if self._partial is not None:
            self._partial += data
            if len(self._partial) < self._wanted:
                return
            data = bytes(self._partial)
            self._partial = None
        start, available = 0, len(data)
        while True:
            wanted = start + 2
            if available < wanted:
                break
            first, size = data[start], data[start + 1]
            if size < _MASKED or first != _FINAL_TEXT or self._fragments is not None:
                self._check(first, size)
            size -= _MASKED
            begin = start + 6
            if size == _MEDIUM:
                begin = wanted = start + 8
                if available < wanted:
                    break
                size = data[start + 2] << 8 | data[start + 3]
            elif size == _LONG:
                begin = wanted = start + 14
                if available < wanted:
                    break
                size = int.from_bytes(data[start + 2 : start + 10])
            if size > self.max_size:
                raise FrameError(CloseCode.MESSAGE_TOO_BIG)
            wanted = begin + size
            if available < wanted:
                break
            payload = apply_mask(data[begin:wanted], data[begin - 4 : begin])
            start = wanted
            if first == _FINAL_TEXT:
                yield TEXT, payload
            elif first & _CONTROL:
                yield first & _OPCODE, payload
            else:
                message = self._assembled(first, payload)
                if message is not None:
                    yield message
        if start < available:
            # Appending to a bytearray does not copy it, however small the pieces.
            self._partial = bytearray(data[start:])
            self._wanted = wanted - start

    def _check(self, first: int, second: int) -> None:
        opcode = first & _OPCODE
        if second < _MASKED or opcode not in _KNOWN:
            raise FrameError(CloseCode.PROTOCOL_ERROR)
        if first & _RSV and (self.deflate is None or first & (_RSV | _CONTROL) != COMPRESSED or opcode == CONTINUATION):
            raise FrameError(CloseCode.PROTOCOL_ERROR)
        if opcode & _CONTROL:
            if not first & _FIN or second - _MASKED > MAX_CONTROL:
                raise FrameError(CloseCode.PROTOCOL_ERROR)
        elif (opcode == CONTINUATION) == (self._fragments is None):
            raise FrameError(CloseCode.PROTOCOL_ERROR)

    def _assembled(self, first: int, payload: bytes) -> tuple[int, bytes] | None:
        """Take a binary frame or a fragment; return the message that it completes, or None."""
        if self._fragments is None:
            if first & _FIN:
                return first & _OPCODE, self._inflated(payload) if first & COMPRESSED else payload
            self._fragments = _Fragments(first)
        fragments = self._fragments
        fragments.size += len(payload)
        fragments.parts.append(payload)
        if fragments.size > self.max_size or len(fragments.parts) > MAX_FRAGMENTS:
            raise FrameError(CloseCode.MESSAGE_TOO_BIG)
        if not first & _FIN:
            return None
        self._fragments = None
        payload = b"".join(fragments.parts)
        return fragments.first & _OPCODE, self._inflated(payload) if fragments.first & COMPRESSED else payload

    def _inflated(self, payload: bytes) -> bytes:
        assert self.deflate is not None  # checked with the head of the frame
        self.compressed = len(payload)
        return self.deflate.inflate(payload, self.max_size)


class _Fragments:
    """The fragments of an incomplete message. `first` is the first byte of its first frame."""

    __slots__ = ("first", "parts", "size")

    def __init__(self, first: int) -> None:
        self.first = first
        self.parts: list[bytes] = []
        self.size = 0


def frame(opcode: int, payload: bytes) -> bytes:
    """Return a whole message or control frame as a server sends it: unmasked, in one frame.

    `opcode` may have the bit `COMPRESSED`.
    """
    size = len(payload)
    if size < _MEDIUM:
        return bytes((_FIN | opcode, size)) + payload
    if size < 1 << 16:
        return _medium_head(_FIN | opcode, _MEDIUM, size) + payload
    return _long_head(_FIN | opcode, _LONG, size) + payload
