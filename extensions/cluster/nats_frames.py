"""Takes the messages for a node out of the bytes that a NATS server sends (sans I/O)."""

from collections.abc import Callable
from typing import Final

_MAX_LINE: Final = 1 << 16
"""Bytes of a line from which on it is passed on in pieces."""

_END: Final = b"\r\n"


class Splitter:
    """The bytes of one connection.

    Args:
        max_payload: The bytes of the longest message that is taken out.

    Attributes:
        receivers: The function that gets the messages of a subject, without headers. It does not raise.
    """

    def __init__(self, max_payload: int) -> None:
        self.receivers: dict[bytes, Callable[[bytes], None]] = {}
        self._max_payload = max_payload
        self._kept: list[bytes] = []
        """The bytes of an incomplete line or message."""
        self._size = 0
        """Their number."""
        self._needed = 0
        """The number from which on they are looked at again."""
        self._passing = 0
        """Bytes of a message that is not taken out, of which the rest is still to come."""

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they come, and return those that remain."""
        if self._kept:
            self._kept.append(data)
            self._size += len(data)
            if self._size < self._needed:
                return b""
            data = b"".join(self._kept)
            self._kept = []
        rest: list[bytes] = []
        position = passed = 0
        """Up to which position all is done; and up to which the bytes that remain are in `rest`."""
        while position < len(data):
            if self._passing:
                step = min(self._passing, len(data) - position)
                self._passing -= step
                position += step
                continue
            line_end = data.find(_END, position)
            if line_end < 0 and len(data) - position < _MAX_LINE:
                break
            start = line_end + 2 if line_end >= 0 else len(data)
            head = data[position : position + 5]
            if line_end < 0 or not head.startswith((b"MSG ", b"HMSG ")):
                position = start
                continue
            fields = data[position:line_end].split()
            has_headers = head.startswith(b"H")
            sizes = fields[-2:] if has_headers else fields[-1:]
            if len(fields) < (5 if has_headers else 4) or not (sizes[0].isdigit() and sizes[-1].isdigit()):
                position = start  # nats-py objects to it.
                continue
            size = int(sizes[-1])
            receive = self.receivers.get(fields[1])
            if receive is None or size > self._max_payload:
                self._passing = size + 2
                position = start
                continue
            end = start + size
            if end + 2 > len(data):
                rest.append(data[passed:position])
                self._keep(data[position:], end + 2 - position)
                return b"".join(rest)
            rest.append(data[passed:position])
            position = passed = end + 2
            receive(data[start + int(sizes[0]) : end] if has_headers else data[start:end])
        rest.append(data[passed:position])
        if position < len(data):
            self._keep(data[position:], 0)
        return b"".join(rest)

    def _keep(self, data: bytes, needed: int) -> None:
        self._kept = [data]
        self._size = len(data)
        self._needed = needed
