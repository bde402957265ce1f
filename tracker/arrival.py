"""A connection that has not said yet what it wants: the PROXY protocol's header, then an HTTP request's head."""

import asyncio
from time import monotonic
from typing import Final, Protocol, cast

from tracker.door import Refused, Visit
from tracker.http import MAX_HEADER
from tracker.proxies import PROXY_V2, ProxyError, proxy_header
from tracker.reasons import Reason

_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Owner(Protocol):
    """What an arrival needs of the endpoint."""

    def waiting(self, arrival: "Arrival", peer: str) -> Visit | None: ...
    def identified(self, arrival: "Arrival", address: str | None) -> bool: ...
    def arrived(self, arrival: "Arrival", head: bytes, data: bytes) -> None: ...
    def arrival_lost(self, arrival: "Arrival", reason: Reason) -> None: ...


class Arrival(asyncio.Protocol):
    """Reads until it is known what is wanted; the owner then gives the transport another protocol."""

    __slots__ = ("data", "deadline", "owner", "refused", "transport", "visit")

    transport: asyncio.Transport
    visit: Visit

    def __init__(self, owner: Owner, timeout: float) -> None:
        self.owner = owner
        self.data = b""
        self.deadline = monotonic() + timeout
        self.refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody has connected."""
        self.transport = cast(asyncio.Transport, transport)
        address = transport.get_extra_info("peername")
        visit = self.owner.waiting(self, address[0] if address else "")
        if visit is None:
            self.refused = True
        else:
            self.visit = visit

    def data_received(self, data: bytes) -> None:
        """Collect the head, within limits."""
        if self.refused:
            # Under TLS, what is on its way still comes after the closing has begun.
            return
        self.data += data
        if self.visit.is_proxy and self.data[:1] == PROXY_V2[:1] and not self._strip_proxy_header():
            return
        end = self.data.find(b"\r\n\r\n")
        if self.data and not self.data[:1].isalpha():
            # Also where a request follows: what begins with its blank line has no head.
            self.refuse(Reason.HANDSHAKE_INVALID, _TOO_LARGE)
        elif 0 <= end <= MAX_HEADER:
            self.owner.arrived(self, self.data[: end + 4], self.data)
        elif end > 0 or len(self.data) > MAX_HEADER:
            self.refuse(Reason.HANDSHAKE_INVALID, _TOO_LARGE)

    def connection_lost(self, _error: Exception | None) -> None:
        """It is gone before it has said what it wants."""
        self.owner.arrival_lost(self, Reason.CONNECTION_LOST)

    def refuse(self, reason: Reason, response: bytes) -> None:
        """Answer and close."""
        self.refused = True
        self.owner.arrival_lost(self, reason)
        self.transport.write(response)
        self.transport.close()

    def _strip_proxy_header(self) -> bool:
        """Whether a header of the PROXY protocol was there, whole, and its client is welcome."""
        try:
            header = proxy_header(self.data)
        except ProxyError:
            self.refuse(Reason.HANDSHAKE_INVALID, b"")
            return False
        if header is None:
            return False
        address, length = header
        self.data = self.data[length:]
        return self.owner.identified(self, address)


def refusal(refused: Refused) -> bytes:
    """The response to a connection that is refused before its request was read."""
    headers = "".join(f"{name}: {value}\r\n" for name, value in refused.headers.items())
    status = refused.status
    start = f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Length: 0\r\n"
    return f"{start}{headers}\r\n".encode()
