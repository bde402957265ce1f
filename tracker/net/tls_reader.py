"""Reads the data of the event loop's TLS connections into one buffer for all of them.

These are the connections that extensions open (`tracker.net.tls_transport` is the TLS of those that are accepted). If a
protocol takes bytes, uvloop allocates 256 KiB for each read from OpenSSL and then shrinks them to the data. That
leaves holes among longer-lived blocks. A protocol with a buffer of its own avoids this.
"""

import asyncio
from typing import Final, Protocol, cast

_BUFFER: Final = memoryview(bytearray(1 << 16))
"""More than a full read of the socket gives. It is in use only while one protocol takes its data."""


class Reader(Protocol):
    """The methods of an `asyncio.Protocol`, which compiled classes have without deriving from it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool | None: ...
    def connection_lost(self, error: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class TlsReader:
    """The methods of an `asyncio.BufferedProtocol`, for a protocol that takes bytes.

    Attributes:
        protocol: Receives the data from now on; None after the end of the connection. Change it instead of calling
            the transport's `set_protocol`.
    """

    __slots__ = ("protocol",)

    def __init__(self, protocol: Reader) -> None:
        self.protocol: Reader | None = protocol

    def get_buffer(self, _size: int) -> memoryview:
        """Return the buffer for the next data."""
        return _BUFFER

    def buffer_updated(self, size: int) -> None:
        """Take `size` bytes of the buffer."""
        if self.protocol is not None:
            self.protocol.data_received(bytes(_BUFFER[:size]))

    def data_received(self, data: bytes) -> None:
        """Pass on data from an event loop that has buffers of its own: asyncio's knows no class but its own one."""
        if self.protocol is not None:
            self.protocol.data_received(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pass on the transport, whose TLS handshake is done."""
        if self.protocol is not None:
            self.protocol.connection_made(transport)

    def eof_received(self) -> bool | None:
        """Tell the protocol that the other side sends no more; return whether the transport stays open."""
        return self.protocol.eof_received() if self.protocol is not None else None

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the protocol of the end, and forget it, because uvloop keeps methods of this object."""
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            protocol.connection_lost(error)

    def pause_writing(self) -> None:
        """Tell the protocol that the send buffer is full."""
        if self.protocol is not None:
            self.protocol.pause_writing()

    def resume_writing(self) -> None:
        """Tell the protocol that the send buffer has drained."""
        if self.protocol is not None:
            self.protocol.resume_writing()


def share_tls_buffer(transport: asyncio.BaseTransport) -> None:
    """Let the protocol of a transport get its data through the shared buffer, if the transport does TLS."""
    if transport.get_extra_info("ssl_object") is not None:
        of_tls = cast(asyncio.Transport, transport)
        of_tls.set_protocol(cast(asyncio.Protocol, TlsReader(cast(Reader, of_tls.get_protocol()))))
