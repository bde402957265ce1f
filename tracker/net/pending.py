"""A connection that has not said yet what it wants: the PROXY protocol's header, TLS, then an HTTP request's head."""

import asyncio
import socket
import ssl
from contextlib import suppress
from http import HTTPStatus
from time import monotonic
from typing import Any, Final, Protocol, cast

from tracker.access.forwarded import PROXY_V2, ProxyError, header_size, proxy_header
from tracker.access.gate import ConnectionInfo, Refused
from tracker.net.handshake import refusal
from tracker.net.http import MAX_HEADER
from tracker.net.listener import dismiss
from tracker.reasons import CloseReason

_TOO_LARGE: Final = refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
_SPEAKS_TLS: Final = refusal(HTTPStatus.BAD_REQUEST, text="This port speaks TLS: use wss:// or https://")

_TLS_START: Final = b"\x16"
"""What a connection under TLS begins with: a record of its handshake."""

_NO_TIMEOUT: Final = 1e6
"""Seconds. The endpoint's sweep looks after the time of the whole arrival."""


class Owner(Protocol):
    """What an arrival needs of the endpoint."""

    def identified(self, arrival: "PendingConnection", address: str | None) -> Refused | None: ...
    def arrived(self, arrival: "PendingConnection", transport: asyncio.Transport, head: bytes, data: bytes) -> None: ...
    def arrival_lost(self, arrival: "PendingConnection", reason: CloseReason | None) -> None: ...


class PendingConnection(asyncio.Protocol):
    """Reads until it is known what is wanted; the owner then gives the transport another protocol.

    Before there is a transport, no more bytes are taken from the socket than belong to the PROXY protocol's header:
    what follows is for TLS, which reads from the socket itself.
    """

    __slots__ = (
        "_data",
        "_ending",
        "_may_be_proxied",
        "_opening",
        "_owner",
        "_reason",
        "_socket",
        "_tls",
        "_transport",
        "deadline",
        "visit",
    )

    def __init__(
        self, owner: Owner, accepted: socket.socket, visit: ConnectionInfo, timeout: float, tls: ssl.SSLContext | None
    ) -> None:
        self.visit = visit
        self.deadline = monotonic() + timeout
        self._owner = owner
        self._socket = accepted
        self._tls = tls
        self._may_be_proxied = visit.is_proxy
        self._data = b""
        self._opening: asyncio.Task[Any] | None = None
        self._transport: asyncio.Transport | None = None
        self._ending = False
        self._reason: CloseReason | None = None
        """Why we end it; None also if it was rejected, which is counted elsewhere."""

    def start(self) -> None:
        """Read what comes first."""
        if self._tls or self._may_be_proxied:
            asyncio.get_running_loop().add_reader(self._socket, self._look)
        else:
            self._open()

    def abort(self, reason: CloseReason) -> None:
        """Cut it."""
        if not self._ending:
            self._ending, self._reason = True, reason
        if self._transport:
            self._transport.abort()
        elif self._opening:
            # Which ends the handshake. Cancelling the task would leave open what it has only just begun with.
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        else:
            self._end(reason)

    def refuse(self, reason: CloseReason | None, response: bytes) -> None:
        """Answer a request and close. It counts until it is gone: under TLS that is when the client agrees."""
        assert self._transport
        self._ending, self._reason = True, reason
        self._transport.write(response)
        self._transport.close()

    # Without a transport.

    def _look(self) -> None:
        try:
            first = self._socket.recv(1, socket.MSG_PEEK)
            while self._may_be_proxied and (self._data or first == PROXY_V2[:1]) and first:
                self._data += self._socket.recv(header_size(self._data) - len(self._data))
                header = proxy_header(self._data)
                if header:
                    self._data, self._may_be_proxied = b"", False
                    refused = self._owner.identified(self, header[0])
                    if refused:
                        self._stop_looking()
                        dismiss(self._socket, b"" if self._tls else refusal(refused.status, refused.headers))
                        return
                first = self._socket.recv(1, socket.MSG_PEEK)
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

    def _end(self, reason: CloseReason, answer: bytes = b"") -> None:
        self._stop_looking()
        dismiss(self._socket, answer)
        self._owner.arrival_lost(self, reason)

    def _stop_looking(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)

    def _open(self) -> None:
        loop = asyncio.get_running_loop()
        timeout = _NO_TIMEOUT if self._tls else None
        self._opening = loop.create_task(
            loop.connect_accepted_socket(lambda: self, self._socket, ssl=self._tls, ssl_handshake_timeout=timeout)
        )
        self._opening.add_done_callback(self._opened)

    def _opened(self, opening: asyncio.Task[Any]) -> None:
        self._opening = None
        error = None if opening.cancelled() else opening.exception()
        if self._transport is None:
            self._socket.close()
            lost = CloseReason.TLS_FAILED if isinstance(error, ssl.SSLError) else CloseReason.CONNECTION_LOST
            self._owner.arrival_lost(self, self._reason if self._ending else lost)

    # With a transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client can be read from."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Collect the head, within limits."""
        transport = self._transport
        if transport is None or self._ending:
            # What is on its way still comes after the closing has begun.
            return
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if not self._data[:1].isalpha():
            # Also where a request follows: what begins with its blank line has no head.
            self.refuse(CloseReason.HANDSHAKE_INVALID, _TOO_LARGE)
        elif 0 <= end <= MAX_HEADER:
            self._owner.arrived(self, transport, self._data[: end + 4], self._data)
        elif end > 0 or len(self._data) > MAX_HEADER:
            self.refuse(CloseReason.HANDSHAKE_INVALID, _TOO_LARGE)

    def connection_lost(self, _error: Exception | None) -> None:
        """It is gone before it has said what it wants."""
        self._owner.arrival_lost(self, self._reason if self._ending else CloseReason.CONNECTION_LOST)
