"""A connection until its first request head is whole: the PROXY protocol's header, TLS, then the head.

All of it must be done within one timeout, which the endpoint's sweep enforces.
"""

import asyncio
import re
import socket
import ssl
from contextlib import suppress
from http import HTTPStatus
from time import monotonic
from typing import Any, Final, Protocol, cast

from tracker.access.gate import ConnectionInfo, Refused
from tracker.access.proxy_protocol import ProxyError, may_be_header, proxy_header
from tracker.net.listener import dismiss
from tracker.net.request import MAX_HEAD
from tracker.net.response import refusal
from tracker.net.tls_reader import Reader
from tracker.net.tls_transport import TlsTransport
from tracker.reasons import CloseReason

_NOT_HTTP: Final = refusal(HTTPStatus.BAD_REQUEST)
_LINE_TOO_LONG: Final = refusal(HTTPStatus.REQUEST_URI_TOO_LONG)
_TOO_LARGE: Final = refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
_SPEAKS_TLS: Final = refusal(HTTPStatus.BAD_REQUEST, text="This port speaks TLS: use wss:// or https://")

_LINE_END: Final = b"\r\n"
_BLANK_LINE: Final = b"\r\n\r\n"
_EMPTY_LINES: Final = re.compile(rb"\A(?:\r\n)+")

_TLS_START: Final = b"\x16"
"""The first byte of a TLS connection: its first record is of the type `handshake`."""

_PEEK: Final = 512
"""Bytes that are looked at together for a PROXY header."""


class Owner(Protocol):
    """The methods that a pending connection calls on the endpoint."""

    def on_identified(self, pending: "PendingConnection", address: str | None) -> Refused | None:
        """Take the client's address from a PROXY header; return the refusal if the client is over a limit."""

    def on_head(self, pending: "PendingConnection", transport: asyncio.Transport, head: bytes, rest: bytes) -> None:
        """Take over the transport with a whole request head, or call `refuse`."""

    def on_lost(self, pending: "PendingConnection", reason: CloseReason | None) -> None:
        """Count off the connection, which has ended; a rejected connection has no reason."""


class PendingConnection(asyncio.Protocol):
    """Reads the request head, then hands the transport to the WebSocket or HTTP protocol.

    While there is no transport, it takes no more bytes from the socket than the PROXY header has: TLS reads all bytes
    behind it from the socket itself.
    """

    __slots__ = (
        "_data",
        "_ending",
        "_may_be_proxied",
        "_opening",
        "_owner",
        "_reason",
        "_refusal",
        "_socket",
        "_tls",
        "_transport",
        "deadline",
        "info",
    )

    def __init__(
        self, owner: Owner, accepted: socket.socket, info: ConnectionInfo, timeout: float, tls: ssl.SSLContext | None
    ) -> None:
        self.info = info
        self.deadline = monotonic() + timeout
        self._owner = owner
        self._socket = accepted
        self._tls = tls
        self._may_be_proxied = info.is_proxy
        self._data = b""
        self._refusal = b""
        """The response to a client that is over a limit, whatever it requests."""
        self._opening: asyncio.Task[Any] | None = None
        self._transport: asyncio.Transport | None = None
        self._ending = False
        self._reason: CloseReason | None = None
        """Why the tracker ends the connection. None also if it was rejected, because rejections are counted apart."""

    @property
    def is_upgraded(self) -> bool:
        """Whether its opening handshake is done, by another worker."""
        return False

    def start(self) -> None:
        """Start to read."""
        if self._tls or self._may_be_proxied:
            asyncio.get_running_loop().add_reader(self._socket, self._look)
        else:
            self._open()

    def abort(self, reason: CloseReason) -> None:
        """Close the connection at once."""
        if not self._ending:
            self._ending, self._reason = True, reason
        if self._transport:
            self._transport.abort()
        elif self._opening:
            # To cancel the task could leave a transport open that it has just made.
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        else:
            self._end(reason)

    def hand_to(self, protocol: Reader) -> None:
        """Let another protocol serve the transport from now on."""
        assert self._transport
        self._transport.set_protocol(cast(asyncio.Protocol, protocol))

    def refuse(self, reason: CloseReason | None, response: bytes) -> None:
        """Send a response and close. The connection counts until its socket is closed."""
        assert self._transport
        self._ending, self._reason = True, reason
        self._transport.write(response)
        self._transport.close()

    # Without a transport.

    def _look(self) -> None:
        """Read a PROXY header, then look at the next byte, which tells TLS from HTTP."""
        try:
            if self._may_be_proxied:
                refused = self._read_proxy_header()
                if refused and self._tls:
                    # Without a response: a TLS handshake costs too much for a client that is over a limit.
                    self._stop_looking()
                    dismiss(self._socket, b"")
                    self._owner.on_lost(self, None)
                    return
                if refused:
                    # The proxy still sends the request. If it met a closed socket, it would not read the response.
                    self._refusal = refusal(refused.status, refused.headers)
            first = self._data[:1] or self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except ProxyError:
            self._end(CloseReason.HANDSHAKE_INVALID)
        except OSError:
            self._end(CloseReason.CONNECTION_LOST)
        else:
            if not first:
                self._end(CloseReason.CONNECTION_LOST)
            elif self._tls is None or first == _TLS_START:
                self._stop_looking()
                self._open()
            else:
                self._end(CloseReason.HANDSHAKE_INVALID, _SPEAKS_TLS if first.isalpha() else b"")

    def _read_proxy_header(self) -> Refused | None:
        """Read a PROXY header if there is one. Return the refusal if its client is over a limit.

        If a method like `POST` arrives in pieces, its start may be read, too. It stays in `_data`.

        Raises:
            BlockingIOError: The next bytes have not arrived.
            OSError: The connection is lost.
            ProxyError: The header is invalid.
        """
        while True:
            peeked = self._socket.recv(_PEEK, socket.MSG_PEEK)
            if not peeked:
                raise ConnectionAbortedError
            data = self._data + peeked
            if not may_be_header(data):
                self._may_be_proxied = False
                return None
            header = proxy_header(data)
            size = header[1] if header else len(data)
            self._data += self._socket.recv(size - len(self._data))
            if header:
                self._data, self._may_be_proxied = b"", False
                return self._owner.on_identified(self, header[0])

    def _end(self, reason: CloseReason, response: bytes = b"") -> None:
        self._stop_looking()
        dismiss(self._socket, response)
        self._owner.on_lost(self, reason)

    def _stop_looking(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)

    def _open(self) -> None:
        """Make the transport, which does the TLS handshake."""
        loop = asyncio.get_running_loop()
        protocol = cast(asyncio.Protocol, TlsTransport(self, self._tls) if self._tls else self)
        self._opening = loop.create_task(loop.connect_accepted_socket(lambda: protocol, self._socket))
        self._opening.add_done_callback(self._opened)

    def _opened(self, opening: asyncio.Task[Any]) -> None:
        self._opening = None
        if not opening.cancelled():
            # An exception that is never looked at would be logged.
            opening.exception()
        if self._transport is None:
            self._socket.close()
            self._owner.on_lost(self, self._reason if self._ending else CloseReason.CONNECTION_LOST)

    # With a transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, which is open now."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Collect the request head, up to its maximum size."""
        transport = self._transport
        if transport is None or self._ending:
            # Data that was already on its way can follow the start of the closing.
            return
        # A head in many small pieces is not searched anew with each of them.
        searched = max(0, len(self._data) - len(_BLANK_LINE) + 1)
        self._data += data
        if self._data.startswith(b"\r"):
            # Empty lines before the request line are ignored (RFC 9112, section 2.2).
            self._data = _EMPTY_LINES.sub(b"", self._data)
            if self._data in (b"", b"\r"):
                return
            searched = 0
        end = self._data.find(_BLANK_LINE, searched)
        if not self._data[:1].isalpha():
            # TLS on a port without it, a PROXY header from a client that is no trusted proxy, or garbage.
            self.refuse(CloseReason.HANDSHAKE_INVALID, _NOT_HTTP)
        elif self._refusal and end >= 0:
            self.refuse(None, self._refusal)
        elif 0 <= end <= MAX_HEAD:
            end += len(_BLANK_LINE)
            self._owner.on_head(self, transport, self._data[:end], self._data[end:])
        elif end > 0 or len(self._data) > MAX_HEAD:
            is_long_line = _LINE_END not in self._data[:MAX_HEAD]
            self.refuse(CloseReason.HANDSHAKE_INVALID, _LINE_TOO_LONG if is_long_line else _TOO_LARGE)

    def connection_lost(self, error: Exception | None) -> None:
        """Report the end of the connection."""
        lost = CloseReason.TLS_FAILED if isinstance(error, ssl.SSLError) else CloseReason.CONNECTION_LOST
        self._owner.on_lost(self, self._reason if self._ending else lost)


class HandedConnection(PendingConnection):
    """A WebSocket that another worker has handed over: its opening handshake is done.

    Args:
        owner: As of `PendingConnection`.
        taken: The socket.
        info: Its client.
        timeout: Seconds until it must be open.
        head: The head of the request that has opened it.
        data: The bytes that were received behind it.
    """

    __slots__ = ("_head",)

    def __init__(
        self, owner: Owner, taken: socket.socket, info: ConnectionInfo, timeout: float, head: bytes, data: bytes
    ) -> None:
        super().__init__(owner, taken, info, timeout, None)
        self._head = head
        self._data = data

    @property
    def is_upgraded(self) -> bool:
        return True

    def start(self) -> None:
        """Make the transport."""
        self._open()

    def refuse(self, reason: CloseReason | None, response: bytes) -> None:  # noqa: ARG002
        """Close: it is too late for a response."""
        assert self._transport
        self._ending, self._reason = True, reason
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open the WebSocket."""
        super().connection_made(transport)
        self._owner.on_head(self, cast(asyncio.Transport, transport), self._head, self._data)
