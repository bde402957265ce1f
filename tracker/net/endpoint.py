"""WebSocket connections on the public port.

A connection begins as a `PendingConnection`, which reads the request's head; then it is either a WebSocket (a `Client`,
or an extension's channel) or plain HTTP (`tracker.net.http`). One sweep for all connections does what would otherwise
be timers of each: time limits, pings, silent peers.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from itertools import islice
from time import monotonic
from typing import Final, cast

import structlog
from websockets.frames import CloseCode

from tracker.access.gate import ConnectionGate, ConnectionInfo, Refused
from tracker.core.hub import Hub, Outgoing
from tracker.core.swarm import Peer
from tracker.net.handshake import Handshake, asks_for_websocket
from tracker.net.http import HttpConnection, Route
from tracker.net.listener import Acceptor, dismiss
from tracker.net.pending import PendingConnection
from tracker.net.request import InvalidRequest, RequestHead
from tracker.net.response import refusal
from tracker.net.tls import Certificate
from tracker.net.websocket import WebSocket
from tracker.protocol.errors import RequestError
from tracker.reasons import CloseReason, DropReason, RejectReason
from tracker.settings import Connections

SWEEP_PERIOD: Final = 0.25
SWEEP_ROUND: Final = 20
"""The sweep runs every so many seconds and gets round all connections in so many runs."""

Accept = Callable[[ConnectionInfo], WebSocket]


class Endpoint:
    """The public port's connections. Its counters are read by the metrics."""

    def __init__(self, hub: Hub, settings: Connections, door: ConnectionGate, has_websockets: bool = True) -> None:
        self.hub = hub
        self.settings = settings
        self.door = door
        self.log_addresses = False
        """Whether refusals are logged with addresses above the level debug."""
        self.websockets: set[WebSocket] = set()
        self.opened = 0
        self.closed: Counter[CloseReason] = Counter()
        self.rejected: Counter[RejectReason] = Counter()
        self.message_sizes = [0] * 65
        """Messages received by the bit length of their size in bytes."""
        self.bytes_received = 0
        self.bytes_sent = 0
        self._routes: dict[str, Route] = {}
        self._subprotocols: dict[str, Accept] = {}
        self._acceptor: Acceptor | None = None
        self._certificate: Certificate | None = None
        self._arrivals: set[PendingConnection] = set()
        self._http: set[HttpConnection] = set()
        self._has_websockets = has_websockets
        self._sweep_round: Iterator[WebSocket] = iter(())
        self._sweep_timer: asyncio.TimerHandle | None = None
        # Not asked for each time: in Python 3.11 that is a system call (getpid).
        self._call_soon = asyncio.get_running_loop().call_soon
        self._unflushed: list[WebSocket] = []
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

    def listen(self, hosts: list[str], port: int, certificate: Certificate | None = None) -> list[tuple[str, int]]:
        """Start to accept, under TLS if there is a certificate; the (address, port) pairs listened on.

        Raises `OSError`.
        """
        self._certificate = certificate
        self._acceptor = Acceptor(hosts, port, self._accepted)
        self._sweep_timer = asyncio.get_running_loop().call_later(SWEEP_PERIOD, self._sweep)
        return self._acceptor.addresses

    @property
    def accepting(self) -> bool:
        """Whether new connections are welcome."""
        return self._acceptor is not None and not self._draining

    @property
    def pending_connections(self) -> int:
        """The number of connections that are not WebSockets: without a whole request head yet, or plain HTTP."""
        return len(self._arrivals) + len(self._http)

    async def close(self, patience: float, before_channels: Awaitable[None]) -> None:
        """Stop accepting, close every WebSocket with 1001, and cut what is still there after `patience` seconds.

        Channels stay until `before_channels` is done: their extensions may have a last word to say.
        """
        deadline = monotonic() + patience
        self._draining = True
        if self._acceptor:
            self._acceptor.close()
        for arrival in list(self._arrivals):
            arrival.abort(CloseReason.SHUTDOWN)
        for connection in list(self._http):
            connection.transport.close()
        clients = [websocket for websocket in self.websockets if isinstance(websocket, Client)]
        for number, client in enumerate(clients, 1):
            client.close(CloseCode.GOING_AWAY, CloseReason.SHUTDOWN)
            if number % 500 == 0:
                await asyncio.sleep(0)
        await before_channels
        for websocket in list(self.websockets):
            websocket.close(CloseCode.GOING_AWAY, CloseReason.SHUTDOWN)
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
            websocket.abort(CloseReason.SHUTDOWN)
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

    def disconnected(self, websocket: WebSocket, reason: CloseReason) -> None:
        """A WebSocket has ended."""
        self.websockets.discard(websocket)
        self.door.leave(websocket.quota, monotonic())
        self.closed[reason] += 1
        self._note_gone()

    def slow(self, _websocket: WebSocket) -> None:
        """A message was dropped because its receiver does not keep up."""
        self.hub.tally.dropped[DropReason.SLOW_RECEIVER] += 1

    def schedule_flush(self, websocket: WebSocket) -> None:
        """Let a WebSocket write what waits at the end of this turn of the event loop."""
        if not self._unflushed:
            self._call_soon(self._flush)
        self._unflushed.append(websocket)

    def on_head(self, pending: PendingConnection, transport: asyncio.Transport, head: bytes, rest: bytes) -> None:
        """Serve a request, or refuse it. `head` is whole, with its blank line; `rest` was received behind it."""
        info = pending.info
        try:
            request = RequestHead(head)
            if self._has_websockets and asks_for_websocket(request):
                self._upgrade(pending, transport, request, rest)
                return
            self.door.identify(info, None, request, monotonic())
        except InvalidRequest as invalid:
            pending.refuse(CloseReason.HANDSHAKE_INVALID, refusal(invalid.status))
            return
        except Refused as refused:
            self._refused(refused, info.address)
            pending.refuse(None, refusal(refused.status, refused.headers))
            return
        self._arrivals.discard(pending)
        connection = HttpConnection(transport, info, request, self._routes, self._http_closed)
        self._http.add(connection)
        transport.set_protocol(connection)

    def on_lost(self, pending: PendingConnection, reason: CloseReason | None) -> None:
        """Count off a connection that ended without a valid request."""
        if pending in self._arrivals:
            self._arrivals.discard(pending)
            if reason is not None:
                self.closed[reason] += 1
            self.door.leave(pending.info.quota, monotonic())

    def on_identified(self, pending: PendingConnection, address: str | None) -> Refused | None:
        """Count a connection for the address from a PROXY header, or return the refusal."""
        try:
            self.door.identify(pending.info, address, None, monotonic())
        except Refused as refused:
            self._refused(refused, str(address))
            self._arrivals.discard(pending)
            return refused
        return None

    def _accepted(self, accepted: socket.socket, peer: str) -> None:
        self.opened += 1
        tls = self._certificate.context if self._certificate else None
        try:
            if self.pending_connections >= self.door.room.others:
                raise Refused(RejectReason.TOO_MANY_CONNECTIONS, HTTPStatus.SERVICE_UNAVAILABLE)
            info = self.door.arrive(peer, monotonic())
        except Refused as refused:
            self._refused(refused, peer)
            # Under TLS without a response: its handshake costs too much for a client that is over a limit.
            dismiss(accepted, b"" if tls else refusal(refused.status, refused.headers))
            return
        pending = PendingConnection(self, accepted, info, self.settings.handshake_timeout, tls)
        self._arrivals.add(pending)
        pending.start()

    def _refused(self, refused: Refused, address: str) -> None:
        self.rejected[refused.reason] += 1
        log = structlog.get_logger()
        if self.log_addresses:
            log.info("rejected", reason=refused.reason.value, address=address)
        else:
            log.debug("rejected", reason=refused.reason.value, address=address)

    def _upgrade(
        self, pending: PendingConnection, transport: asyncio.Transport, request: RequestHead, rest: bytes
    ) -> None:
        """Open a WebSocket, or refuse an invalid handshake. Raises `Refused`."""
        handshake = Handshake(request, self._subprotocols)
        if handshake.error is not None:
            pending.refuse(CloseReason.HANDSHAKE_INVALID, handshake.response())
            return
        if self._draining:
            raise Refused(RejectReason.SHUTDOWN, HTTPStatus.SERVICE_UNAVAILABLE)
        info = pending.info
        self.door.identify(info, None, request, monotonic())
        self.door.admit(request, len(self.websockets))
        self._arrivals.discard(pending)
        accept = self._subprotocols.get(handshake.subprotocol or "")
        websocket = accept(info) if accept else Client(self, info)
        transport.set_protocol(cast(asyncio.Protocol, websocket))
        transport.write(handshake.response())
        websocket.connection_made(transport)
        if rest:
            websocket.data_received(rest)

    def _http_closed(self, connection: HttpConnection) -> None:
        self._http.discard(connection)
        self.door.leave(connection.info.quota, monotonic())
        self._note_gone()

    def _note_gone(self) -> None:
        if self._draining and not (self.websockets or self._http):
            self._all_gone.set()

    def _flush(self) -> None:
        unflushed, self._unflushed = self._unflushed, []
        for websocket in unflushed:
            try:
                websocket.flush()
            except Exception:
                # The others' turn must come all the same.
                structlog.get_logger().exception("flush_failed")
                websocket.abort(CloseReason.INTERNAL_ERROR)

    def _sweep(self) -> None:
        self._sweep_timer = asyncio.get_running_loop().call_later(SWEEP_PERIOD, self._sweep)
        now = monotonic()
        for arrival in [arrival for arrival in self._arrivals if arrival.deadline < now]:
            arrival.abort(CloseReason.HANDSHAKE_TIMEOUT)
        loop_now = asyncio.get_running_loop().time()
        for connection in [connection for connection in self._http if connection.deadline < loop_now]:
            connection.transport.abort()
        batch = list(islice(self._sweep_round, max(50, len(self.websockets) // SWEEP_ROUND)))
        if not batch:
            self._sweep_round = iter(list(self.websockets))
        for websocket in batch:
            if websocket in self.websockets:
                websocket.sweep(now)


class Client(WebSocket):
    """A peer's connection, as the hub's `Connection`."""

    __slots__ = ("address", "endpoint", "peers", "strikes")

    def __init__(self, endpoint: Endpoint, visit: ConnectionInfo) -> None:
        super().__init__(endpoint, visit)
        self.endpoint = endpoint
        self.address = visit.address
        self.peers: set[Peer] = set()
        self.strikes = 0

    def on_message(self, payload: bytes, is_text: bool, now: float) -> None:
        """Apply one message and send what comes of it."""
        endpoint, size = self.endpoint, len(payload)
        endpoint.message_sizes[size.bit_length()] += 1
        endpoint.bytes_received += size
        try:
            out = endpoint.hub.receive(self, payload, now)
        except UnicodeDecodeError:
            if is_text:  # RFC 6455 section 8.1
                self.fail(CloseCode.INVALID_DATA, CloseReason.INVALID_UTF8)
                return
            self.strikes += 1
            out = [(self, endpoint.hub.refuse(RequestError(DropReason.INVALID_JSON, "invalid message")))]
        except Exception:
            structlog.get_logger().exception("message_failed")
            self.close(CloseCode.INTERNAL_ERROR, CloseReason.INTERNAL_ERROR)
            return
        endpoint.send(out)
        if self.strikes >= endpoint.settings.max_invalid:
            self.fail(CloseCode.POLICY_VIOLATION, CloseReason.GARBAGE)

    def on_closing(self) -> None:
        """Its peers leave at once."""
        self.endpoint.hub.close(self)

    def sweep(self, now: float) -> None:
        """Time limits of the connection and of its peers."""
        super().sweep(now)
        if self.peers:
            self.endpoint.hub.expire(self, now)
