"""WebSocket connections on the public port.

A connection begins as an `_Arrival`, which reads the request's head; then it is either a WebSocket (picows' protocol
object with a `Client` or an extension's channel behind it) or plain HTTP (`tracker.http`). One sweep for all
connections does what would otherwise be timers of each: time limits, pings, silent peers.
"""

import asyncio
import logging
import re
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from itertools import islice
from time import monotonic
from typing import Any, Final, cast

import structlog
from picows import (
    WSAutoPingStrategy,
    WSCloseCode,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
)
from picows.picows import WSProtocol  # type: ignore[attr-defined]

from tracker.http import MAX_HEADER, HttpConnection, Route
from tracker.hub import Hub, Outgoing
from tracker.protocol import Malformed
from tracker.reasons import Reason
from tracker.settings import Connections
from tracker.swarm import Peer
from tracker.websocket import WebSocket

SWEEP_PERIOD: Final = 0.25
SWEEP_ROUND: Final = 20
"""The sweep runs every so many seconds and gets round all connections in so many runs."""

_READ_BUFFER: Final = 2048

_RECEIVE_BUFFER: Final = 65536
"""Bytes that the kernel holds of what a client has sent. All of it is read, and kept room for, in one go: with the
megabytes that it would take by itself, a few flooding clients could hold up everybody for seconds."""

# picows logs as errors what any client can cause; only what comes of an exception is a fault of ours, and of those in
# `on_ws_connected` it logs no more than the words. Without an adapter it makes a logger for each connection.
_quiet = logging.getLogger("tracker.picows")
_quiet.setLevel(logging.ERROR)
_quiet.addFilter(lambda record: record.exc_info is not None or "exception from" in record.msg)
_quiet_adapter: Final = logging.LoggerAdapter(_quiet, {})

_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

_UPGRADE = re.compile(rb"\r\nupgrade[ \t]*:[^\r]*websocket", re.IGNORECASE)

Accept = Callable[[], WebSocket]


class Endpoint:
    """The public port's connections. Its counters are read by the metrics."""

    def __init__(self, hub: Hub, settings: Connections) -> None:
        self.hub = hub
        self.settings = settings
        self.websockets: set[WebSocket] = set()
        self.opened = 0
        self.closed: Counter[Reason] = Counter()
        self.message_sizes = [0] * 65
        """Messages received by the bit length of their size in bytes."""
        self.bytes_received = 0
        self.bytes_sent = 0
        self._routes: dict[str, Route] = {}
        self._subprotocols: dict[str, Accept] = {}
        self._servers: list[asyncio.Server] = []
        self._arrivals: set[_Arrival] = set()
        self._http: set[HttpConnection] = set()
        self._sweep_round: Iterator[WebSocket] = iter(())
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._draining = False
        self._all_gone = asyncio.Event()

    def add_route(self, path: str, route: Route) -> None:
        """Serve an HTTP path. Raises `ValueError` if it is taken."""
        if path in self._routes:
            raise ValueError(f"{path} is taken")
        self._routes[path] = route

    def add_subprotocol(self, name: str, accept: Accept) -> None:
        """Serve a WebSocket subprotocol. Raises `ValueError` if it is taken."""
        if name in self._subprotocols:
            raise ValueError(f"{name} is taken")
        self._subprotocols[name] = accept

    async def listen(self, hosts: list[str], port: int) -> list[tuple[str, int]]:
        """Start to accept; the (address, port) pairs listened on. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        sockets: list[socket.socket] = []
        try:
            for host in hosts:
                for bound in _bind(host, port, alone=len(hosts) == 1):
                    sockets.append(bound)
                    # With port 0, all addresses share the port that the first one got.
                    port = bound.getsockname()[1]
            for bound in sockets:
                self._servers.append(await loop.create_server(lambda: _Arrival(self), sock=bound, backlog=4096))
        except BaseException:
            for bound in sockets:
                bound.close()
            raise
        self._sweep_timer = loop.call_later(SWEEP_PERIOD, self._sweep)
        return [bound.getsockname()[:2] for bound in sockets]

    @property
    def accepting(self) -> bool:
        """Whether new connections are welcome."""
        return bool(self._servers) and not self._draining

    async def close(self, patience: float, before_channels: Awaitable[None]) -> None:
        """Stop accepting, close every WebSocket with 1001, and cut what is still there after `patience` seconds.

        Channels stay until `before_channels` is done: their extensions may have a last word to say.
        """
        deadline = monotonic() + patience
        self._draining = True
        for server in self._servers:
            server.close()
        for arrival in list(self._arrivals):
            arrival.transport.abort()
        for connection in list(self._http):
            connection.transport.close()
        clients = [websocket for websocket in self.websockets if isinstance(websocket, Client)]
        for number, client in enumerate(clients, 1):
            client.close(WSCloseCode.GOING_AWAY, Reason.SHUTDOWN)
            if number % 500 == 0:
                await asyncio.sleep(0)
        await before_channels
        for websocket in list(self.websockets):
            websocket.close(WSCloseCode.GOING_AWAY, Reason.SHUTDOWN)
        self._note_gone()
        try:
            await asyncio.wait_for(self._all_gone.wait(), deadline - monotonic())
        except TimeoutError:
            self.abort()
        if self._sweep_timer:
            self._sweep_timer.cancel()

    def abort(self) -> None:
        """Cut every connection at once."""
        for websocket in list(self.websockets):
            websocket.abort(Reason.SHUTDOWN)
        for connection in list(self._http):
            connection.transport.abort()

    def send(self, out: Outgoing) -> None:
        """Send what the hub says."""
        for client, data in out:
            if client.send(data):
                self.bytes_sent += len(data)

    def connected(self, websocket: WebSocket) -> None:
        """A WebSocket's handshake is done."""
        self.websockets.add(websocket)

    def disconnected(self, websocket: WebSocket, reason: Reason) -> None:
        """A WebSocket has ended."""
        self.websockets.discard(websocket)
        self.closed[reason] += 1
        self._note_gone()

    def slow(self, _websocket: WebSocket) -> None:
        """A message was dropped because its receiver does not keep up."""
        self.hub.tally.dropped[Reason.SLOW_RECEIVER] += 1

    def arrived(self, arrival: "_Arrival", head: bytes, data: bytes) -> None:
        """A request's head (with its blank line) is complete; `data` is all that was received."""
        self._arrivals.discard(arrival)
        if _UPGRADE.search(head):
            self._upgrade(arrival.transport, data)
        else:
            connection = HttpConnection(arrival.transport, data, self._routes, self._http_closed)
            self._http.add(connection)
            arrival.transport.set_protocol(connection)

    def arrival_lost(self, arrival: "_Arrival", reason: Reason) -> None:
        """A connection ended before it said what it wants."""
        if arrival in self._arrivals:
            self._arrivals.discard(arrival)
            self.closed[reason] += 1

    def waiting(self, arrival: "_Arrival") -> None:
        """A connection was accepted."""
        self.opened += 1
        self._arrivals.add(arrival)

    def _upgrade(self, transport: asyncio.Transport, data: bytes) -> None:
        protocol = WSProtocol(
            None,  # host and path are a client's
            None,
            False,
            self._admit,
            _quiet_adapter,
            True,  # disconnect_on_exception
            None,  # handshake timeout: the whole request is here
            False,  # pings are the sweep's
            0.0,
            0.0,
            WSAutoPingStrategy.PING_WHEN_IDLE,
            False,  # pongs are `WebSocket`'s
            self.settings.max_message_size,
            None,
            _READ_BUFFER,
        )
        # uvloop looks at the kind of protocol when it starts to read, not when it is set.
        transport.pause_reading()
        transport.set_protocol(cast(asyncio.BaseProtocol, protocol))
        transport.resume_reading()
        protocol.connection_made(transport)
        while data:
            view = protocol.get_buffer(-1)
            size = min(len(view), len(data))
            view[:size] = data[:size]
            data = data[size:]
            protocol.buffer_updated(size)
        response = protocol.transport.response
        if response is None or response.status != HTTPStatus.SWITCHING_PROTOCOLS:
            self.closed[Reason.HANDSHAKE_INVALID] += 1

    def _admit(self, request: WSUpgradeRequest) -> Any:
        if self._draining:
            return WSUpgradeResponseWithListener(
                WSUpgradeResponse.create_error_response(HTTPStatus.SERVICE_UNAVAILABLE), None
            )
        # picows wants the word alone; Firefox sends "keep-alive, Upgrade".
        if "upgrade" in request.headers.get("Connection", "").lower():
            request.headers["Connection"] = "Upgrade"
        request.headers["Upgrade"] = "websocket"
        wanted = ",".join(request.headers.getall("Sec-WebSocket-Protocol", [])).split(",")
        for name in map(str.strip, wanted):
            accept = self._subprotocols.get(name)
            if accept:
                return WSUpgradeResponseWithListener(
                    WSUpgradeResponse.create_101_response({"Sec-WebSocket-Protocol": name}), accept()
                )
        return Client(self)

    def _http_closed(self, connection: HttpConnection) -> None:
        self._http.discard(connection)
        self._note_gone()

    def _note_gone(self) -> None:
        if self._draining and not (self.websockets or self._http):
            self._all_gone.set()

    def _sweep(self) -> None:
        self._sweep_timer = asyncio.get_running_loop().call_later(SWEEP_PERIOD, self._sweep)
        now = monotonic()
        for arrival in [arrival for arrival in self._arrivals if arrival.deadline < now]:
            self.arrival_lost(arrival, Reason.HANDSHAKE_TIMEOUT)
            arrival.transport.abort()
        loop_now = asyncio.get_running_loop().time()
        for connection in [connection for connection in self._http if connection.deadline < loop_now]:
            connection.transport.abort()
        batch = list(islice(self._sweep_round, max(50, len(self.websockets) // SWEEP_ROUND)))
        if not batch:
            self._sweep_round = iter(list(self.websockets))
        for websocket in batch:
            if not websocket.transport.is_disconnected:
                websocket.sweep(now)


class _Arrival(asyncio.Protocol):
    """A connection that has not said yet what it wants."""

    __slots__ = ("data", "deadline", "endpoint", "transport")

    transport: asyncio.Transport

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.data = b""
        self.deadline = monotonic() + endpoint.settings.handshake_timeout

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.endpoint.waiting(self)

    def data_received(self, data: bytes) -> None:
        self.data += data
        end = self.data.find(b"\r\n\r\n")
        if 0 <= end <= MAX_HEADER:
            self.endpoint.arrived(self, self.data[: end + 4], self.data)
        elif end > 0 or len(self.data) > MAX_HEADER or not self.data[:1].isalpha():
            self.endpoint.arrival_lost(self, Reason.HANDSHAKE_INVALID)
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        self.endpoint.arrival_lost(self, Reason.CONNECTION_LOST)


class Client(WebSocket):
    """A peer's connection, as the hub's `Connection`."""

    __slots__ = ("endpoint", "peers", "strikes")

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.endpoint = endpoint
        self.peers: set[Peer] = set()
        self.strikes = 0

    def received(self, payload: bytes, is_text: bool, now: float) -> None:
        """Apply one message and send what comes of it."""
        endpoint = self.endpoint
        endpoint.message_sizes[len(payload).bit_length()] += 1
        endpoint.bytes_received += len(payload)
        try:
            out = endpoint.hub.receive(self, payload, now)
        except UnicodeDecodeError:
            if is_text:  # RFC 6455 section 8.1
                self.close(WSCloseCode.INVALID_TEXT, Reason.INVALID_UTF8)
                return
            self.strikes += 1
            out = [(self, endpoint.hub.refuse(Malformed(Reason.INVALID_JSON, "invalid message")))]
        except Exception:
            structlog.get_logger().exception("message_failed")
            self.close(WSCloseCode.INTERNAL_ERROR, Reason.INTERNAL_ERROR)
            return
        endpoint.send(out)
        if self.strikes >= endpoint.settings.max_invalid:
            self.close(WSCloseCode.POLICY_VIOLATION, Reason.GARBAGE)

    def ended(self) -> None:
        """Its peers leave at once."""
        self.endpoint.hub.close(self)

    def sweep(self, now: float) -> None:
        """Time limits of the connection and of its peers."""
        super().sweep(now)
        if self.peers:
            self.endpoint.hub.expire(self, now)


def _bind(host: str, port: int, alone: bool) -> list[socket.socket]:
    bound = []
    try:
        for family, kind, proto, _, address in socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            listener = socket.socket(family, kind, proto)
            bound.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not (alone and host == "::"))
            listener.bind(address)
            # Listening here and not later makes a taken port an error before anything else has started.
            listener.listen(4096)
            listener.setblocking(False)
            port = listener.getsockname()[1]
    except BaseException:
        for listener in bound:
            listener.close()
        raise
    return bound
