"""The bytes between a node and a NATS server: nats-py's stream, with a short way for the messages of nodes.

nats-py takes about twenty calls and three tasks for a message in each direction. Here a message to a subject of this
node goes from the read buffer to its receiver, and one to another node is written at once. All else, as INFO, PING and
errors, is nats-py's.
"""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from nats.aio.transport import TcpTransport

from extensions.cluster.nats_frames import Splitter
from extensions.cluster.transport import MAX_PAYLOAD
from tracker.extension import share_tls_buffer

CLOSE_TIMEOUT: Final = 1.0
READ_BUFFER: Final = 1 << 18
_MANY: Final = 1 << 18
"""Bytes of messages up to which they are not counted anew in each turn."""
_END: Final = b"\r\n"


class NatsStream(TcpTransport):
    """nats-py's stream, which can be cut off at any time, and whose end is told by reading only."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._splitter = Splitter(MAX_PAYLOAD)
        self._fresh = 0
        """Bytes of messages of which some may not have reached uvloop's buffer: it takes them at the end of a turn."""
        self._is_counting = False

    @property
    def receivers(self) -> dict[bytes, Callable[[bytes], None]]:
        """The functions that get messages, by subject. They do not raise. nats-py gets those above `MAX_PAYLOAD`."""
        return self._splitter.receivers

    def __bool__(self) -> bool:
        # Otherwise the client makes another one.
        return True

    @property
    def is_tls(self) -> bool:
        """Whether the stream is encrypted."""
        return self._io_writer is not None and self._io_writer.get_extra_info("ssl_object") is not None

    @property
    def buffered(self) -> int:
        """The bytes that wait to be written."""
        if self._io_writer is None or self._io_writer.transport.is_closing():
            return 0
        return max(int(self._io_writer.transport.get_write_buffer_size()), self._fresh)

    def publish(self, subject: bytes, payload: bytes) -> None:
        """Send a message."""
        size = len(payload)
        self.writelines([b"PUB %b %d\r\n" % (subject, size), payload, _END])
        self._fresh += size
        if self._fresh > _MANY and not self._is_counting:
            self._is_counting = True
            asyncio.get_running_loop().call_soon(self._count_anew)

    def abort(self) -> None:
        """Close the connection at once."""
        for writer in (self._io_writer, self._bare_io_writer):
            if writer is not None:
                writer.transport.abort()

    async def connect(self, uri: Any, buffer_size: int, connect_timeout: int) -> None:  # noqa: ARG002
        await super().connect(uri, READ_BUFFER, connect_timeout)

    async def connect_tls(self, uri: Any, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int) -> None:
        await super().connect_tls(uri, ssl_context, buffer_size, connect_timeout)
        if self._io_writer is not None:
            share_tls_buffer(self._io_writer.transport)

    async def read(self, buffer_size: int) -> bytes:  # noqa: ARG002
        return self._splitter.feed(bytes(await super().read(READ_BUFFER)))

    def write(self, payload: bytes) -> None:
        if self._io_writer is not None and not self._io_writer.transport.is_closing():
            self._io_writer.write(payload)

    def writelines(self, payload: list[bytes]) -> None:
        if self._io_writer is not None and not self._io_writer.transport.is_closing():
            self._io_writer.writelines(payload)

    def _count_anew(self) -> None:
        self._is_counting = False
        self._fresh = 0

    async def drain(self) -> None:
        with suppress(OSError):
            await super().drain()  # type: ignore[no-untyped-call]

    async def wait_closed(self) -> None:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await super().wait_closed()  # type: ignore[no-untyped-call]
