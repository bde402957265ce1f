"""All connections of one port.

A connection begins as a `PendingConnection`, which reads the request's head. Then it is a WebSocket, of the default
protocol or of an extension's subprotocol, or plain HTTP (`tracker.net.http`). One sweep serves all connections in place
of timers of their own: time limits, pings.
"""

import asyncio
import re
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
from tracker.net.handshake import Handshake, refusal
from tracker.net.http import HttpConnection, Route
from tracker.net.listener import Acceptor, dismiss
from tracker.net.pending import PendingConnection
from tracker.net.tls import Certificate
from tracker.net.websocket import Owner, WebSocket
from tracker.reasons import CloseReason, RejectReason
from tracker.settings import Connections

SWEEP_PERIOD: Final = 0.25
SWEEP_ROUND: Final = 20
"""Seconds from one run of the sweep to the next, and number of runs in which it visits all connections."""


_UPGRADE = re.compile(rb"\r\nupgrade[ \t]*:[^\r]*websocket", re.IGNORECASE)

Opener = Callable[[Owner, ConnectionInfo], WebSocket]
"""Makes the WebSocket of a new connection."""


class Endpoint(Owner):
    """The connections of one port; the metrics read its counters.

    `open_default` makes the WebSockets that ask for no subprotocol which is known here. Without it the port serves only
    plain HTTP.
    """

    def __init__(self, settings: Connections, gate: ConnectionGate, open_default: Opener | None = None) -> None:
        self.settings = settings
        self.gate = gate
        self.log_addresses = False
        """Whether rejections are logged with the client's address at the level info."""
        self.websockets: set[WebSocket] = set()
        self.opened = 0
        self.closed: Counter[CloseReason] = Counter()
        self.rejected: Counter[RejectReason] = Counter()
        self.messages_dropped = 0
        """Messages that were dropped because their receiver is slow."""
        self._routes: dict[str, Route] = {}
        self._open_default = open_default
        self._subprotocols: dict[str, Opener] = {}
        self._acceptor: Acceptor | None = None
        self._certificate: Certificate | None = None
        self._arrivals: set[PendingConnection] = set()
        self._http: set[HttpConnection] = set()
        self._visits: dict[HttpConnection, ConnectionInfo] = {}
        self._sweep_round: Iterator[WebSocket] = iter(())
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._channels: set[WebSocket] = set()
        """The WebSockets of subprotocols."""
        # Kept, because in Python 3.11 each look-up of the running loop is a system call (getpid).
        self._call_soon = asyncio.get_running_loop().call_soon
        self._unflushed: list[WebSocket] = []
        self._draining = False
        self._all_gone = asyncio.Event()

    def add_route(self, path: str, route: Route) -> None:
        """Serve an HTTP path.

        Raises:
            ValueError: if the path is taken.
        """
        if path in self._routes:
            raise ValueError(f"{path} is taken")
        self._routes[path] = route

    def add_subprotocol(self, name: str, opener: Opener) -> None:
        """Serve a WebSocket subprotocol (RFC 6455, section 1.9).

        Raises:
            ValueError: if the name is taken.
        """
        if name in self._subprotocols:
            raise ValueError(f"{name} is taken")
        self._subprotocols[name] = opener

    def listen(self, hosts: list[str], port: int, certificate: Certificate | None = None) -> list[tuple[str, int]]:
        """Start to accept connections, over TLS if there is a certificate; return the (address, port) pairs.

        Raises:
            OSError: if an address cannot be bound.
        """
        self._certificate = certificate
        self._acceptor = Acceptor(hosts, port, self._accepted)
        self._sweep_timer = asyncio.get_running_loop().call_later(SWEEP_PERIOD, self._sweep)
        return self._acceptor.addresses

    @property
    def accepting(self) -> bool:
        """Whether the port accepts connections."""
        return self._acceptor is not None and not self._draining

    async def close(self, deadline: float, before_channels: Awaitable[None]) -> None:
        """Stop accepting and close every WebSocket with 1001; abort the rest at `deadline` (monotonic seconds).

        WebSockets of subprotocols stay open until `before_channels` is done, so that extensions can send last messages.
        """
        self._draining = True
        if self._acceptor:
            self._acceptor.close()
        for arrival in list(self._arrivals):
            arrival.abort(CloseReason.SHUTDOWN)
        for connection in list(self._http):
            connection.transport.close()
        for number, websocket in enumerate(list(self.websockets - self._channels), 1):
            websocket.close(CloseCode.GOING_AWAY, CloseReason.SHUTDOWN)
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
        """Abort every connection at once."""
        for websocket in list(self.websockets):
            websocket.abort(CloseReason.SHUTDOWN)
        for connection in list(self._http):
            connection.transport.abort()

    def on_open(self, websocket: WebSocket) -> None:
        """Take in a WebSocket whose handshake is done."""
        self.websockets.add(websocket)

    def on_closed(self, websocket: WebSocket, reason: CloseReason) -> None:
        """Forget a WebSocket that has ended."""
        self.websockets.discard(websocket)
        self._channels.discard(websocket)
        self.gate.leave(websocket.quota, monotonic())
        self.closed[reason] += 1
        self._note_gone()

    def on_message_dropped(self) -> None:
        """Count a message that was dropped because its receiver is slow."""
        self.messages_dropped += 1

    def schedule_flush(self, websocket: WebSocket) -> None:
        """Flush a WebSocket at the end of this turn of the event loop."""
        if not self._unflushed:
            self._call_soon(self._flush)
        self._unflushed.append(websocket)

    def arrived(self, arrival: PendingConnection, transport: asyncio.Transport, head: bytes, data: bytes) -> None:
        """A request's head (with its blank line) is complete; `data` is all that was received."""
        if self._open_default is not None and _UPGRADE.search(head):
            self._upgrade(arrival, transport, head, data[len(head) :])
        else:
            self._arrivals.discard(arrival)
            connection = HttpConnection(transport, data, self._routes, self._http_closed)
            self._visits[connection] = arrival.visit
            self._http.add(connection)
            transport.set_protocol(connection)

    def arrival_lost(self, arrival: PendingConnection, reason: CloseReason | None) -> None:
        """A connection ended before it was what it wants to be."""
        if arrival in self._arrivals:
            self._arrivals.discard(arrival)
            if reason is not None:
                self.closed[reason] += 1
            self.gate.leave(arrival.visit.quota, monotonic())

    def identified(self, arrival: PendingConnection, address: str | None) -> Refused | None:
        """A proxy has told whose connection it is; why that is not welcome, if it is not."""
        try:
            self.gate.identify(arrival.visit, address, None, monotonic())
        except Refused as refused:
            self._refused(refused, str(address))
            self._arrivals.discard(arrival)
            return refused
        return None

    def _accepted(self, accepted: socket.socket, peer: str) -> None:
        self.opened += 1
        tls = self._certificate.context if self._certificate else None
        try:
            if len(self._arrivals) + len(self._http) >= self.gate.room.others:
                raise Refused(RejectReason.TOO_MANY_CONNECTIONS, HTTPStatus.SERVICE_UNAVAILABLE)
            visit = self.gate.arrive(peer, monotonic())
        except Refused as refused:
            self._refused(refused, peer)
            # Under TLS without a word: to whoever is too many, the handshake for it would be a present.
            dismiss(accepted, b"" if tls else refusal(refused.status, refused.headers))
            return
        arrival = PendingConnection(self, accepted, visit, self.settings.handshake_timeout, tls)
        self._arrivals.add(arrival)
        arrival.start()

    def _refused(self, refused: Refused, address: str) -> None:
        self.rejected[refused.reason] += 1
        log = structlog.get_logger()
        if self.log_addresses:
            log.info("rejected", reason=refused.reason.value, address=address)
        else:
            log.debug("rejected", reason=refused.reason.value, address=address)

    def _upgrade(self, arrival: PendingConnection, transport: asyncio.Transport, head: bytes, rest: bytes) -> None:
        visit = arrival.visit
        handshake = Handshake(head, self._subprotocols)
        if handshake.error is not None:
            arrival.refuse(CloseReason.HANDSHAKE_INVALID, handshake.response())
            return
        try:
            if self._draining:
                raise Refused(RejectReason.SHUTDOWN, HTTPStatus.SERVICE_UNAVAILABLE)
            self.gate.identify(visit, None, handshake.headers, monotonic())
            self.gate.admit(handshake.headers, len(self.websockets))
        except Refused as refused:
            self._refused(refused, visit.address)
            arrival.refuse(None, refusal(refused.status, refused.headers))
            return
        self._arrivals.discard(arrival)
        opener = self._subprotocols.get(handshake.subprotocol or "")
        if opener is not None:
            websocket = opener(self, visit)
            self._channels.add(websocket)
        else:
            assert self._open_default is not None
            websocket = self._open_default(self, visit)
        transport.set_protocol(cast(asyncio.Protocol, websocket))
        transport.write(handshake.response())
        websocket.connection_made(transport)
        if rest:
            websocket.data_received(rest)

    def _http_closed(self, connection: HttpConnection) -> None:
        self._http.discard(connection)
        self.gate.leave(self._visits.pop(connection).quota, monotonic())
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
                # The other sockets must be flushed all the same.
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
