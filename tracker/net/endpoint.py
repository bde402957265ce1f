"""All connections of one port.

A connection begins as a `PendingConnection`, which reads the request's head. Then it is a WebSocket, of the default
protocol or of an extension's subprotocol, or plain HTTP (`tracker.net.http`). One sweep serves all connections in place
of timers of their own: time limits, pings.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from itertools import islice
from math import ceil
from time import monotonic
from typing import Final, cast

import structlog
from websockets.frames import CloseCode

from tracker.access.gate import LOCAL, ConnectionGate, ConnectionInfo, Refused
from tracker.net.deflate import Deflate, accept_offer
from tracker.net.handover import HandOver
from tracker.net.handshake import Handshake, asks_for_websocket
from tracker.net.http import HttpConnection
from tracker.net.listener import Acceptor, Listening, dismiss
from tracker.net.pending import HandedConnection, PendingConnection
from tracker.net.request import InvalidRequest, RequestHead
from tracker.net.response import refusal
from tracker.net.routes import INVALID, WEBSOCKET, Routes, forwarded_prefix
from tracker.net.tls import Certificate
from tracker.net.websocket import Owner, WebSocket
from tracker.reasons import CloseReason, RejectReason
from tracker.settings import Connections

SWEEP_PERIOD: Final = 0.25
SWEEP_ROUND: Final = 20
"""Seconds from one run of the sweep to the next, and number of runs in which it visits all connections."""

RETIRE_PERIOD: Final = 0.1
"""Seconds between two batches of WebSockets that a retiring endpoint closes."""

CHANNEL_TIMEOUT: Final = 1.0
"""Seconds that WebSockets of subprotocols have for the closing handshake when the tracker stops. They have sent their
last messages by then, and the other side may be dead."""

Opener = Callable[[Owner, ConnectionInfo], WebSocket]
"""Makes the WebSocket of a new connection."""


class Endpoint(Owner):
    """The connections of one port; the metrics read its counters.

    `open_default` makes all WebSockets but those of the extensions' subprotocols. Without it the port serves only plain
    HTTP.

    `prefix` is the path under which a reverse proxy serves the port (`server.path_prefix`).
    """

    def __init__(
        self, settings: Connections, gate: ConnectionGate, open_default: Opener | None = None, prefix: str = ""
    ) -> None:
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
        self.hand_over: HandOver | None = None
        """Hands WebSockets to other workers, if there are any."""
        self.handed_in = 0
        self.handed_out = 0
        """WebSockets that other workers have handed to this one, and that this one has handed to others."""
        self.routes = Routes(prefix)
        """The HTTP routes of the port."""
        self.deflate = Deflate(settings.deflate_above) if settings.deflate else None
        """Compresses messages of clients and for clients, but not those of subprotocols."""
        self._open_default = open_default
        self._subprotocols: dict[str, Opener] = {}
        self._acceptor: Acceptor | None = None
        self._certificate: Certificate | None = None
        self._pending: set[PendingConnection] = set()
        self._http: set[HttpConnection] = set()
        self._sweep_round: Iterator[WebSocket] = iter(())
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._channels: set[WebSocket] = set()
        """The WebSockets of subprotocols."""
        # Kept, because in Python 3.11 each look-up of the running loop is a system call (getpid).
        self._call_soon = asyncio.get_running_loop().call_soon
        self._unflushed: list[WebSocket] = []
        self._draining = False
        self._all_gone = asyncio.Event()

    def add_subprotocol(self, name: str, opener: Opener) -> None:
        """Serve a WebSocket subprotocol (RFC 6455, section 1.9).

        Raises:
            ValueError: if the name is taken.
        """
        if name in self._subprotocols:
            raise ValueError(f"{name} is taken")
        self._subprotocols[name] = opener

    def listen(self, listening: Listening, certificate: Certificate | None = None) -> None:
        """Start to accept connections, over TLS if there is a certificate."""
        self._certificate = certificate
        self._acceptor = Acceptor(listening, self._accepted)
        self._sweep_timer = asyncio.get_running_loop().call_later(SWEEP_PERIOD, self._sweep)

    @property
    def accepting(self) -> bool:
        """Whether the port accepts connections."""
        return self._acceptor is not None and not self._draining

    @property
    def pending_connections(self) -> int:
        """The number of connections that are not WebSockets: without a whole request head yet, or plain HTTP."""
        return len(self._pending) + len(self._http)

    @property
    def room(self) -> int:
        """The number of WebSockets that may be open."""
        return self.gate.room.connections

    @property
    def connections(self) -> int:
        """The number of WebSockets that are open."""
        return len(self.websockets)

    def adopt(self, place: int) -> None:
        """Accept the connections of another worker, too (`Acceptor.adopt`)."""
        if self._acceptor and not self._draining:
            self._acceptor.adopt(place)

    def release(self, place: int) -> None:
        """Leave the connections of another worker to it again."""
        if self._acceptor:
            self._acceptor.release(place)

    async def retire(self, spread: float) -> None:
        """Leave new connections to another process, and close every WebSocket with 1012, spread over some seconds.

        Connections that were accepted are served first: a pending one has its time limit to complete its request. The
        WebSockets of subprotocols stay open.
        """
        if self._acceptor:
            self._acceptor.close()
        if self.hand_over:
            self.hand_over.close()
        end = monotonic() + spread
        last = max(end, monotonic() + self.settings.handshake_timeout)
        while monotonic() < last:
            open_ones = [one for one in self.websockets - self._channels if one.reason is None]
            if not (open_ones or self.pending_connections):
                break
            steps = max(1, ceil((end - monotonic()) / RETIRE_PERIOD))
            for websocket in open_ones[: ceil(len(open_ones) / steps)]:
                websocket.close(CloseCode.SERVICE_RESTART, CloseReason.RESTART)
            await asyncio.sleep(RETIRE_PERIOD)

    async def close(self, deadline: float, before_channels: Awaitable[None]) -> None:
        """Stop accepting and close every WebSocket with 1001; abort the rest at `deadline` (monotonic seconds).

        WebSockets of subprotocols stay open until `before_channels` is done, so that extensions can send last messages.
        """
        self._draining = True
        if self._acceptor:
            self._acceptor.close()
        if self.hand_over:
            self.hand_over.close()
        for pending in list(self._pending):
            pending.abort(CloseReason.SHUTDOWN)
        for connection in list(self._http):
            connection.transport.close()
        for number, websocket in enumerate(list(self.websockets - self._channels), 1):
            websocket.close(CloseCode.GOING_AWAY, CloseReason.SHUTDOWN)
            if number % 500 == 0:
                await asyncio.sleep(0)
        await before_channels
        for websocket in list(self.websockets):
            websocket.close(CloseCode.GOING_AWAY, CloseReason.SHUTDOWN)
        cut = asyncio.get_running_loop().call_later(CHANNEL_TIMEOUT, self._abort_channels)
        self._note_gone()
        try:
            await asyncio.wait_for(self._all_gone.wait(), deadline - monotonic())
        except TimeoutError:
            self.abort()
        cut.cancel()
        if self._sweep_timer:
            self._sweep_timer.cancel()

    def abort(self) -> None:
        """Abort every connection at once."""
        for websocket in list(self.websockets):
            websocket.abort(CloseReason.SHUTDOWN)
        for connection in list(self._http):
            connection.transport.abort()

    def forget(self, websocket: WebSocket) -> None:
        """Forget a WebSocket that another worker serves."""
        self.websockets.discard(websocket)
        self.gate.leave(websocket.quota, monotonic())
        self.handed_out += 1
        self._note_gone()

    def take(self, taken: socket.socket, address: str | None, head: bytes, data: bytes) -> None:
        """Serve a WebSocket of another worker. `address` is the client's, if a proxy has told that."""
        self.handed_in += 1
        try:
            name = taken.getpeername()
            info = self.gate.arrive(name[0] if isinstance(name, tuple) else None, monotonic(), is_new=False)
        except (OSError, Refused) as error:
            if isinstance(error, Refused):
                self._refused(error, address or LOCAL)
            else:
                self.closed[CloseReason.CONNECTION_LOST] += 1
            taken.close()
            return
        handed = HandedConnection(self, taken, info, self.settings.handshake_timeout, head, data)
        self._pending.add(handed)
        if self.on_identified(handed, address) is None:
            handed.start()
        else:
            self.on_lost(handed, None)
            taken.close()

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

    def on_head(self, pending: PendingConnection, transport: asyncio.Transport, head: bytes, rest: bytes) -> None:
        """Serve a request, or refuse it. `head` is whole, with its blank line; `rest` was received behind it.

        If the connection was handed over, its opening handshake has been answered.
        """
        info = pending.info
        from_proxy = info.is_proxy
        try:
            request = RequestHead(head)
            if self._open_default is not None and asks_for_websocket(request):
                info.head = head
                self._upgrade(pending, transport, request, rest)
                return
            self.gate.identify(info, None, request, monotonic())
            # Other clients could only deceive themselves, but would see links that lead nowhere.
            prefix = forwarded_prefix(request.get_all("X-Forwarded-Prefix")) if from_proxy else ""
            if self.routes.is_costly(request, prefix):
                self.gate.charge_page(info, monotonic())
        except InvalidRequest as invalid:
            self.routes.count(INVALID, invalid.status)
            pending.refuse(CloseReason.HANDSHAKE_INVALID, refusal(invalid.status))
            return
        except Refused as refused:
            self._refused(refused, info.address)
            pending.refuse(None, refusal(refused.status, refused.headers))
            return
        self._pending.discard(pending)
        connection = HttpConnection(transport, info, request, self.routes, prefix, self._http_closed)
        self._http.add(connection)
        pending.hand_to(connection)

    def on_lost(self, pending: PendingConnection, reason: CloseReason | None) -> None:
        """Count off a connection that ended without a valid request."""
        if pending in self._pending:
            self._pending.discard(pending)
            if reason is not None:
                self.closed[reason] += 1
            self.gate.leave(pending.info.quota, monotonic())

    def on_identified(self, pending: PendingConnection, address: str | None) -> Refused | None:
        """Count a connection for the address from a PROXY header, or return the refusal."""
        try:
            self.gate.identify(pending.info, address, None, monotonic())
        except Refused as refused:
            self._refused(refused, str(address))
            return refused
        return None

    def _accepted(self, accepted: socket.socket, peer: str | None) -> None:
        self.opened += 1
        tls = self._certificate.context if self._certificate else None
        try:
            if self.pending_connections >= self.gate.room.others:
                raise Refused(RejectReason.TOO_MANY_CONNECTIONS, HTTPStatus.SERVICE_UNAVAILABLE)
            info = self.gate.arrive(peer, monotonic())
        except Refused as refused:
            self._refused(refused, peer or LOCAL)
            # Under TLS without a response: its handshake costs too much for a client that is over a limit.
            dismiss(accepted, b"" if tls else refusal(refused.status, refused.headers))
            return
        pending = PendingConnection(self, accepted, info, self.settings.handshake_timeout, tls)
        self._pending.add(pending)
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
            self.routes.count(WEBSOCKET, handshake.error)
            pending.refuse(CloseReason.HANDSHAKE_INVALID, handshake.response())
            return
        if self._draining:
            raise Refused(RejectReason.SHUTDOWN, HTTPStatus.SERVICE_UNAVAILABLE)
        info = pending.info
        self.gate.identify(info, None, request, monotonic())
        # A connection of another worker was within the limit there, and does not count there any more.
        self.gate.admit(request, 0 if pending.is_upgraded else len(self.websockets))
        self._pending.discard(pending)
        opener = self._subprotocols.get(handshake.subprotocol or "")
        extensions: str | None = None
        if opener is not None:
            websocket = opener(self, info)
            self._channels.add(websocket)
        else:
            assert self._open_default is not None
            websocket = self._open_default(self, info)
            if self.deflate is not None:
                extensions = accept_offer(request.get_all("Sec-WebSocket-Extensions"))
                if extensions:
                    websocket.use_deflate(self.deflate)
        protocol = cast(asyncio.Protocol, websocket)
        if not pending.is_upgraded:
            if self.hand_over is not None and self.hand_over.sends and opener is None:
                protocol = self.hand_over.undecided(websocket, info)
            transport.write(handshake.response(extensions))
            self.routes.count(WEBSOCKET, HTTPStatus.SWITCHING_PROTOCOLS)
        pending.hand_to(protocol)
        websocket.connection_made(transport)
        if rest:
            protocol.data_received(rest)

    def _abort_channels(self) -> None:
        for websocket in list(self._channels):
            websocket.abort(CloseReason.SHUTDOWN)

    def _http_closed(self, connection: HttpConnection) -> None:
        self._http.discard(connection)
        self.gate.leave(connection.info.quota, monotonic())
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
        for pending in [pending for pending in self._pending if pending.deadline < now]:
            pending.abort(CloseReason.HANDSHAKE_TIMEOUT)
        loop_now = asyncio.get_running_loop().time()
        for connection in [connection for connection in self._http if connection.deadline < loop_now]:
            connection.transport.abort()
        batch = list(islice(self._sweep_round, max(50, len(self.websockets) // SWEEP_ROUND)))
        if not batch:
            self._sweep_round = iter(list(self.websockets))
        for websocket in batch:
            if websocket in self.websockets:
                websocket.sweep(now)
