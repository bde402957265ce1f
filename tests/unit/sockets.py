"""Peers' sockets without a network: a transport that keeps the bytes, and an endpoint that does nothing by itself."""

from typing import Any

from tracker.net.websocket import WebSocket
from tracker.reasons import CloseReason
from tracker.settings import Connections


class FakeTransport:
    """Keeps the bytes that are written to it."""

    def __init__(self) -> None:
        self.written = b""
        self.is_closed = False

    is_reading = True

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def can_write_eof(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int) -> None:
        pass


class FakeEndpoint:
    """Flushes when told to."""

    settings = Connections()

    def on_open(self, websocket: WebSocket) -> None:
        pass

    def on_closed(self, websocket: WebSocket, reason: CloseReason) -> None:
        pass

    def on_message_dropped(self) -> None:
        pass

    def schedule_flush(self, websocket: WebSocket) -> None:
        pass


def frames(socket: WebSocket) -> list[tuple[int, bytes]]:
    """Return the frames that were sent since the last call, as (opcode, payload).

    The opcode of a compressed message has the bit `COMPRESSED`.
    """
    socket.flush()
    transport: Any = socket.transport
    data, transport.written = transport.written, b""
    found = []
    while data:
        size, start = data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4]), 4
        found.append((data[0] & 0x4F, data[start : start + size]))
        data = data[start + size :]
    return found
