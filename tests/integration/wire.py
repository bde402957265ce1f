"""A client that writes its own bytes."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.client import PATIENCE
from tests.conftest import TrackerProcess

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


class WireClient:
    """A client that writes its own bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def frame(self, opcode: int, payload: bytes, fin: bool = True, rsv: int = 0, masked: bool = True) -> None:
        """Write one frame."""
        head = bytes([fin << 7 | rsv << 4 | opcode])
        mask = 0x80 if masked else 0
        if len(payload) < 126:
            head += bytes([mask | len(payload)])
        elif len(payload) < 1 << 16:
            head += struct.pack("!BH", mask | 126, len(payload))
        else:
            head += struct.pack("!BQ", mask | 127, len(payload))
        self.writer.write(head + (bytes(4) if masked else b"") + payload)

    async def receive(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload."""
        first, length = await asyncio.wait_for(self.reader.readexactly(2), PATIENCE)
        if length == 126:
            (length,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
        return first & 0xF, await self.reader.readexactly(length)

    async def close_code(self) -> int:
        """Wait for the tracker's close frame."""
        while True:
            opcode, payload = await self.receive()
            if opcode == 8:
                return int.from_bytes(payload[:2], "big")

    async def gone(self) -> None:
        """Wait for the end of the connection."""
        try:
            while await asyncio.wait_for(self.reader.read(65536), PATIENCE):
                pass
        except ConnectionError:
            pass


@asynccontextmanager
async def wire(tracker: TrackerProcess, request: bytes | None = HANDSHAKE) -> AsyncIterator[WireClient]:
    reader, writer = await asyncio.open_connection(tracker.host, tracker.port)
    try:
        if request is not None:
            writer.write(request + b"\r\n")
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
            assert head.startswith(b"HTTP/1.1 101"), head
        yield WireClient(reader, writer)
    finally:
        writer.transport.abort()


class Recorder:
    """Takes what a `WireClient` writes."""

    data = b""

    def write(self, data: bytes) -> None:
        self.data += data
