"""Who may connect: the client's address behind proxies, its limits, the origin of its page (sans I/O)."""

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Protocol

from tracker.access.addresses import Addresses, AddressLimits, Quota, TooManyConnections, contains, networks
from tracker.access.forwarded import client_address, numeric
from tracker.access.lists import AccessLists
from tracker.reasons import RejectReason
from tracker.settings import Settings

RETRY_AFTER: Final = 60
"""Seconds after which a client that was refused for want of room is asked to come again."""


class Headers(Protocol):
    """A request's headers, names in any case."""

    def get_all(self, key: str) -> list[str]: ...


class Refused(Exception):
    """A connection that is not served."""

    def __init__(self, reason: RejectReason, status: HTTPStatus) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.status = status
        self.headers = {} if status is HTTPStatus.FORBIDDEN else {"Retry-After": str(RETRY_AFTER)}


@dataclass(slots=True)
class ConnectionInfo:
    """A connection's client: its numeric address, and what it may use; none if it is exempt from limits.

    `is_proxy`: this is a trusted proxy, and whose connection it is shows when the request's head is read.
    """

    address: str
    quota: Quota | None = None
    is_proxy: bool = field(default=False)


@dataclass(frozen=True, slots=True)
class SocketBudget:
    """How many sockets there may be: WebSockets, and others, that are none yet or ask for a page."""

    connections: int
    others: int

    @classmethod
    def of(cls, files: int, wanted: int) -> "SocketBudget":
        """What so many open files have room for; `wanted` WebSockets, or as many as possible if 0."""
        # The rest: the log, the DHT, links to other trackers, files.
        reserve = max(32, min(1000, files // 10))
        others = max(16, min(4096, files // 10))
        most = max(1, files - reserve - others)
        return cls(min(wanted, most) if wanted else most, others)


class ConnectionGate:
    """Lets clients in, and counts those of each address. What it refuses it raises as `Refused`."""

    def __init__(self, settings: Settings, access: AccessLists, room: "SocketBudget") -> None:
        self.access = access
        self.room = room
        self.addresses = Addresses(AddressLimits.from_settings(settings.limits))
        self._proxies = networks(settings.server.trusted_proxies)

    def change(self, settings: Settings, access: AccessLists, room: "SocketBudget") -> None:
        """Other rules from now on; whom they would not let in may stay."""
        self.access, self.room = access, room
        self.addresses.change(AddressLimits.from_settings(settings.limits))
        self._proxies = networks(settings.server.trusted_proxies)

    def arrive(self, peer: str, now: float) -> ConnectionInfo:
        """Somebody has connected from a numeric address. Raises `Refused`."""
        address = numeric(peer) or "::"
        if contains(self._proxies, address):
            return ConnectionInfo(address, is_proxy=True)
        return ConnectionInfo(address, self._enter(address, now))

    def identify(self, visit: ConnectionInfo, address: str | None, headers: Headers | None, now: float) -> None:
        """A trusted proxy has told whose connection it is, by the PROXY protocol (`address`) or in a request's headers.

        Raises `Refused`.
        """
        if not visit.is_proxy:
            return
        if headers is not None:
            address = client_address(
                visit.address, self._proxies, headers.get_all("X-Forwarded-For"), headers.get_all("Forwarded")
            )
        if address is None or contains(self._proxies, address):
            return
        visit.address, visit.is_proxy = address, False
        visit.quota = self._enter(address, now)

    def admit(self, headers: Headers, connections: int) -> None:
        """A client asks for a WebSocket, beside so many that are open. Raises `Refused`."""
        if connections >= self.room.connections:
            raise Refused(RejectReason.TOO_MANY_CONNECTIONS, HTTPStatus.SERVICE_UNAVAILABLE)
        origins = headers.get_all("Origin")
        if not self.access.admits(origins[0] if origins else None):
            raise Refused(RejectReason.ORIGIN_DENIED, HTTPStatus.FORBIDDEN)

    def leave(self, quota: Quota | None, now: float) -> None:
        """A connection has ended."""
        self.addresses.leave(quota, now)

    def _enter(self, address: str, now: float) -> Quota | None:
        try:
            return self.addresses.enter(address, now)
        except TooManyConnections:
            raise Refused(RejectReason.ADDRESS_CONNECTIONS, HTTPStatus.TOO_MANY_REQUESTS) from None
