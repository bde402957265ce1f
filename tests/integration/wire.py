"""A client that composes its own bytes."""

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address

from tests.client import PATIENCE
from tests.conftest import TrackerProcess
from tracker.access.proxy_protocol import SIGNATURE_V2
from tracker.server import Server

CLIENT = "192.0.2.7"
"""The address of a client behind a proxy."""

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


class WireClient:
    """A client that composes its own bytes."""

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
        """Return the opcode and the payload of the next frame."""
        first, length = await asyncio.wait_for(self.reader.readexactly(2), PATIENCE)
        if length == 126:
            (length,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
        return first & 0xF, await self.reader.readexactly(length)

    async def close_code(self) -> int:
        """Wait for the tracker's close frame; return its code."""
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


class Tunnel:
    """A TLS client that decides itself which bytes it sends together."""

    def __init__(self, wire: WireClient, context: ssl.SSLContext) -> None:
        self.wire = wire
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    def hello(self) -> bytes:
        """Return the ClientHello without sending it."""
        with suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._outgoing.read()

    async def handshake(self, data: bytes = b"") -> None:
        """Finish the TLS handshake, and send data in one piece with its last message."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._exchange()
            else:
                break
        self.write(data)

    def write(self, data: bytes) -> None:
        """Send some data."""
        if data:
            self._tls.write(data)
        self.wire.writer.write(self._outgoing.read())

    async def read(self) -> bytes:
        """Return all data until the other side's closure alert (`close_notify`)."""
        read = b""
        while True:
            try:
                piece = self._tls.read(65536)
            except ssl.SSLWantReadError:
                await self._exchange()
            except ssl.SSLZeroReturnError:
                return read
            else:
                if not piece:
                    return read
                read += piece

    async def _exchange(self) -> None:
        self.wire.writer.write(self._outgoing.read())
        data = await asyncio.wait_for(self.wire.reader.read(65536), PATIENCE)
        if not data:
            raise ConnectionResetError("the end")
        self._incoming.write(data)


def proxy_header(address: str = CLIENT) -> bytes:
    """Return a header of the PROXY protocol, version 2."""
    packed = ip_address(address).packed
    family = 0x11 if len(packed) == 4 else 0x21
    body = packed + bytes(len(packed) + 4)
    return SIGNATURE_V2 + bytes([0x21, family]) + len(body).to_bytes(2, "big") + body


def proxy_line(address: str = CLIENT) -> bytes:
    """Return a header of the PROXY protocol, version 1."""
    to = f"TCP6 {address} ::1" if ":" in address else f"TCP4 {address} 10.0.0.1"
    return f"PROXY {to} 4711 443\r\n".encode()


async def connected(server: Server, data: bytes = b"") -> WireClient:
    """Connect to a tracker in this process, and write `data`."""
    reader, writer = await asyncio.open_connection(*server.addresses[0])
    writer.write(data)
    return WireClient(reader, writer)


def in_use(server: Server) -> int:
    """Return the number of connections that count against the limits of an address."""
    return sum(server.endpoint.gate.addresses.connections().values())


class Recorder:
    """Records the data that a `WireClient` writes."""

    data = b""

    def write(self, data: bytes) -> None:
        self.data += data
