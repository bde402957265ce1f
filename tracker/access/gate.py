"""The decision which connections are served: by address, its limits, and the origin of the page (sans I/O)."""

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Protocol

from tracker.access.addresses import (
    Addresses,
    AddressLimits,
    Quota,
    TooManyConnections,
    TooManyNewConnections,
    contains,
    networks,
)
from tracker.access.forwarded import InvalidAddress, client_address, named_address, numeric
from tracker.access.lists import AccessLists
from tracker.reasons import RejectReason
from tracker.settings import Settings

RETRY_AFTER: Final = 60
"""Seconds in `Retry-After` for a client that is refused because of a number of connections."""

RATE_RETRY_AFTER: Final = 5
"""The same for a client that is over a rate. Its allowance grows all the time."""

LOCAL: Final = "127.0.0.1"
"""The address of a proxy that has none, because it has connected to the Unix-domain socket."""

_LIMITS: Final = frozenset((HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS))
_RATES: Final = frozenset((RejectReason.CONNECTION_RATE, RejectReason.PAGE_RATE))


class Headers(Protocol):
    """The field lines of a request, by names in any case."""

    def get_all(self, key: str) -> list[str]: ...


class Refused(Exception):
    """A connection is not served.

    Attributes:
        reason: The reason for the metrics and the log.
        status: The status of the response.
        headers: The headers of the response.
    """

    def __init__(self, reason: RejectReason, status: HTTPStatus) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.status = status
        seconds = RATE_RETRY_AFTER if reason in _RATES else RETRY_AFTER
        self.headers = {"Retry-After": str(seconds)} if status in _LIMITS else {}


@dataclass(slots=True)
class ConnectionInfo:
    """The client of a connection.

    Attributes:
        address: The numeric address of the client, or of the trusted proxy while the client is not known.
        quota: The quota of that address, or None if it is exempt from limits.
        is_proxy: Whether the address is that of a trusted proxy, which may give the client's.
        head: The head of the request that opens a WebSocket, from the request line to the blank line.
        is_new: Whether the connection comes from the client, and not from another worker, which has charged it.
    """

    address: str
    quota: Quota | None = None
    is_proxy: bool = field(default=False)
    head: bytes = b""
    is_new: bool = True


@dataclass(frozen=True, slots=True)
class SocketBudget:
    """Limits on the number of sockets.

    Attributes:
        connections: WebSockets.
        others: All other connections: pending ones and HTTP requests.
    """

    connections: int
    others: int

    @classmethod
    def of(cls, files: int, wanted: int) -> "SocketBudget":
        """Divide a limit of open files. `wanted` is the number of WebSockets, or 0 for as many as possible."""
        # The reserve is for the log, the DHT, links to other trackers, and files.
        reserve = max(32, min(1000, files // 10))
        others = max(16, min(4096, files // 10))
        most = max(1, files - reserve - others)
        return cls(min(wanted, most) if wanted else most, others)


class ConnectionGate:
    """Admits connections, and counts those of each address."""

    def __init__(self, settings: Settings, access: AccessLists, room: "SocketBudget") -> None:
        self.access = access
        self.room = room
        self.addresses = Addresses(AddressLimits.from_settings(settings.limits))
        self._proxies = networks(settings.server.trusted_proxies)
        self._address_header = settings.server.client_address_header

    def change(self, settings: Settings, access: AccessLists, room: "SocketBudget") -> None:
        """Apply other rules to new connections; open connections stay."""
        self.access, self.room = access, room
        self.addresses.change(AddressLimits.from_settings(settings.limits))
        self._proxies = networks(settings.server.trusted_proxies)
        self._address_header = settings.server.client_address_header

    def arrive(self, peer: str | None, now: float, *, is_new: bool = True) -> ConnectionInfo:
        """Count a connection from a numeric address, or from a Unix-domain socket, which has none.

        A peer on a Unix-domain socket is a trusted proxy: only processes can connect that its file's mode admits.
        `is_new` is False for a connection that another worker has accepted and charged.

        Raises:
            Refused: The address has too many connections, or opens them too fast.
        """
        if peer is None:
            return ConnectionInfo(LOCAL, is_proxy=True, is_new=is_new)
        address = numeric(peer) or "::"
        if contains(self._proxies, address):
            return ConnectionInfo(address, is_proxy=True, is_new=is_new)
        return ConnectionInfo(address, self._enter(address, now, is_new), is_new=is_new)

    def identify(self, info: ConnectionInfo, address: str | None, headers: Headers | None, now: float) -> None:
        """Count the connection of a trusted proxy for the client, if the proxy gives its address.

        Args:
            info: The connection. Nothing happens if it does not come from a trusted proxy, or its client is known.
            address: The address from a PROXY header, or None.
            headers: The request's field lines, or None before there is a request. They replace `address`.
            now: The time in seconds.

        Raises:
            Refused: The client's address has too many connections or opens them too fast, or the proxy gives an
                invalid one.
        """
        if not info.is_proxy:
            return
        if headers is not None:
            address = self._forwarded(headers)
        if address is None or contains(self._proxies, address):
            return
        info.address, info.is_proxy = address, False
        info.quota = self._enter(address, now, info.is_new)

    def charge_page(self, info: ConnectionInfo, now: float) -> None:
        """Charge a request for a page to the address of an identified client.

        Raises:
            Refused: The address asks for pages too fast.
        """
        if info.quota is not None and not info.quota.charge_page(now):
            raise Refused(RejectReason.PAGE_RATE, HTTPStatus.TOO_MANY_REQUESTS)

    def admit(self, headers: Headers, connections: int) -> None:
        """Admit a WebSocket besides the number of open ones.

        Raises:
            Refused: There are too many WebSockets, or the access lists deny the origin of the page.
        """
        if connections >= self.room.connections:
            raise Refused(RejectReason.TOO_MANY_CONNECTIONS, HTTPStatus.SERVICE_UNAVAILABLE)
        origins = headers.get_all("Origin")
        if not self.access.admits(origins[0] if origins else None):
            raise Refused(RejectReason.ORIGIN_DENIED, HTTPStatus.FORBIDDEN)

    def leave(self, quota: Quota | None, now: float) -> None:
        """Count off a connection that has ended."""
        self.addresses.leave(quota, now)

    def _forwarded(self, headers: Headers) -> str | None:
        """Return the client's address in the field lines of a trusted proxy. Raises `Refused`."""
        if self._address_header:
            try:
                return named_address(headers.get_all(self._address_header))
            except InvalidAddress:
                # Neither the proxy's address nor one of several is a safe guess: a client might evade its limits.
                raise Refused(RejectReason.CLIENT_ADDRESS, HTTPStatus.BAD_REQUEST) from None
        return client_address(self._proxies, headers.get_all("X-Forwarded-For"), headers.get_all("Forwarded"))

    def _enter(self, address: str, now: float, is_new: bool) -> Quota | None:
        try:
            return self.addresses.enter(address, now, is_new=is_new)
        except TooManyConnections:
            raise Refused(RejectReason.ADDRESS_CONNECTIONS, HTTPStatus.TOO_MANY_REQUESTS) from None
        except TooManyNewConnections:
            raise Refused(RejectReason.CONNECTION_RATE, HTTPStatus.TOO_MANY_REQUESTS) from None
