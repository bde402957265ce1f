"""TLS of accepted connections (RFC 8446), with OpenSSL, above the event loop's transport of the socket.

The event loop's own TLS allocates 256 KiB for each connection. Blocks of that size fill the gaps that other blocks have
left in the heap, so a tracker whose connections come and go grows for hours. Here, a connection has no more than
OpenSSL needs.
"""

import asyncio
import ssl
from contextlib import suppress
from typing import Any, Final, cast

from tracker.net.tls_reader import Reader

RECORD: Final = 1 << 14
"""Bytes of plaintext that a record holds at most (RFC 8446, section 5.1)."""

PIECE: Final = 1 << 13
"""Bytes that OpenSSL gets together. It keeps a buffer for the largest piece until the end of the connection."""

VAIN: Final = 64
"""Records without data that a connection may have, and one more for as many with data.

The handshake has about five. Further ones are key updates (RFC 8446, section 4.6.3), which no client needs often: each
takes up to 19 microseconds, and the answer takes 27 bytes of the send buffer.
"""

_HEADER: Final = 5
"""Bytes of a record before its fragment (RFC 8446, section 5.1)."""

_PLAINTEXT: Final = memoryview(bytearray(RECORD))
"""The content of one record. It is in use only while one connection reads."""


class TlsTransport:
    """The server's side of one TLS connection: a protocol for the socket's transport, and a transport for `reader`.

    It has the methods of `asyncio.Protocol`, and of `asyncio.Transport` those that the connections of an endpoint use.
    The reader gets `connection_made` at once, and data when the TLS handshake is done. If that fails, `connection_lost`
    gets the `ssl.SSLError`.
    """

    __slots__ = (
        "_error",
        "_header",
        "_incoming",
        "_is_half_open",
        "_is_open",
        "_outgoing",
        "_reader",
        "_received",
        "_skipped",
        "_ssl",
        "_transport",
        "_vain",
    )

    def __init__(self, reader: Reader, context: ssl.SSLContext) -> None:
        self._reader: Reader | None = reader
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        # According to the types in typeshed, `read` never returns a number. A compiled module would check that.
        self._ssl: Any = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._transport: asyncio.Transport | None = None
        self._is_open = False
        """Whether the handshake is done."""
        self._is_half_open = False
        """Whether the other side sends no more, and the reader still does."""
        self._header = b""
        """The beginning of a record's header, whose rest has not arrived."""
        self._skipped = 0
        """The bytes that come before the header of the next record."""
        self._received = 0
        self._vain = 0
        """Records with data, and others."""
        self._error: Exception | None = None
        """The error of TLS that has ended the connection."""

    # The protocol of the socket's transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to serve the socket."""
        self._transport = cast(asyncio.Transport, transport)
        if self._reader is not None:
            self._reader.connection_made(cast(asyncio.BaseTransport, self))

    def data_received(self, data: bytes) -> None:
        """Decrypt records, and pass on their content together."""
        transport = self._transport
        assert transport is not None
        if self._is_half_open:
            # OpenSSL reads nothing behind the closure alert, so it would only keep the data.
            return
        parts: list[bytes] = []
        is_over = False
        error: ssl.SSLError | None = None
        try:
            if len(data) <= PIECE:
                is_over = self._take(data, parts)
            else:
                for start in range(0, len(data), PIECE):
                    is_over = self._take(data[start : start + PIECE], parts)
                    if is_over:
                        break
        except ssl.SSLError as failed:
            error = failed
        # Besides the handshake, the answer to a key update, or an alert that tells the error.
        if self._outgoing.pending:
            transport.write(self._outgoing.read())
        reader = self._reader
        if parts and reader is not None:
            reader.data_received(parts[0] if len(parts) == 1 else b"".join(parts))
        if error is not None:
            self._error = error
            transport.close()
        elif is_over:
            # The reader may be another one now.
            reader = self._reader
            self._is_half_open = reader is not None and bool(reader.eof_received())
            if not self._is_half_open:
                self.close()

    def eof_received(self) -> bool:
        """Return whether the transport stays open: without the closure alert, the data may have been cut off."""
        return self._is_half_open

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the reader, and forget it."""
        reader, self._reader = self._reader, None
        # Otherwise this object and the transport would keep each other in memory.
        self._transport = None
        if reader is not None:
            reader.connection_lost(self._error or error)

    def pause_writing(self) -> None:
        """Tell the reader that the send buffer is full."""
        if self._reader is not None:
            self._reader.pause_writing()

    def resume_writing(self) -> None:
        """Tell the reader that the send buffer has drained."""
        if self._reader is not None:
            self._reader.resume_writing()

    # The transport of the reader.

    def write(self, data: bytes) -> None:
        """Encrypt and send."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if len(data) <= RECORD:
            self._ssl.write(data)
            transport.write(self._outgoing.read())
            return
        for start in range(0, len(data), RECORD):
            self._ssl.write(data[start : start + RECORD])
            transport.write(self._outgoing.read())

    def close(self) -> None:
        """Send the closure alert behind all data, and close.

        The other side need not answer the alert (RFC 8446, section 6.1).
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._is_open:
            # It wants to read the other side's alert, or has read something else.
            with suppress(ssl.SSLError):
                self._ssl.unwrap()
            if self._outgoing.pending:
                transport.write(self._outgoing.read())
        transport.close()

    def abort(self) -> None:
        """Close the socket at once."""
        if self._transport is not None:
            self._transport.abort()

    def is_closing(self) -> bool:
        """Return whether the connection is closing or closed."""
        return self._transport is None or self._transport.is_closing()

    def pause_reading(self) -> None:
        """Read no more of the socket."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read the socket again."""
        if self._transport is not None:
            self._transport.resume_reading()

    def can_write_eof(self) -> bool:
        """Return False: the closure alert is only sent by `close`."""
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the bytes of the send buffer from which on it is full, and up to which it has drained."""
        if self._transport is not None:
            self._transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Return the bytes of the send buffer."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the `ssl_object`, or information about the socket."""
        if name == "ssl_object":
            return self._ssl
        return self._transport.get_extra_info(name, default) if self._transport is not None else default

    def set_protocol(self, protocol: Reader) -> None:
        """Let another protocol read from now on."""
        self._reader = protocol

    def _take(self, data: bytes, parts: list[bytes]) -> bool:
        """Let OpenSSL take some bytes, and add what they complete to `parts`.

        Return whether the other side has sent its closure alert. Raises `ssl.SSLError`.
        """
        before = len(parts)
        self._incoming.write(data)
        is_over = False
        try:
            if not self._is_open:
                self._ssl.do_handshake()
                self._is_open = True
            while self._incoming.pending:
                size: int = self._ssl.read(RECORD, _PLAINTEXT)
                if not size:
                    is_over = True
                    break
                parts.append(bytes(_PLAINTEXT[:size]))
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            is_over = True
        received = len(parts) - before
        self._received += received
        # A record that is not complete counts as one without data, until it is.
        self._vain += self._records_in(data) - received
        if self._vain > VAIN + self._received // VAIN:
            raise ssl.SSLError("too many records without data")
        return is_over

    def _records_in(self, data: bytes) -> int:
        """Return the number of records whose headers are completed by the next bytes."""
        start = self._skipped
        if self._header:
            data = self._header + data
        size, records = len(data), 0
        while size - start >= _HEADER:
            start += _HEADER + (data[start + 3] << 8 | data[start + 4])
            records += 1
        self._header = data[start:]
        self._skipped = max(0, start - size)
        return records
