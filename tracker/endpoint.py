"""WebSocket connections on the public port.

A connection begins as an `Arrival`, which reads the request's head; then it is either a WebSocket (a `Client`, or an
extension's channel) or plain HTTP (`tracker.http`). One sweep for all connections does what would otherwise be timers
of each: time limits, pings, silent peers.
"""

import asyncio
import re
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from itertools import islice
from time import monotonic
from typing import Final

import structlog
from websockets.frames import CloseCode

from tracker.arrival import Arrival, refusal
from tracker.door import Door, Refused, Visit
from tracker.handshake import Handshake
from tracker.http import HttpConnection, Route
from tracker.hub import Hub, Outgoing
from tracker.protocol import Malformed
from tracker.reasons import Reason
from tracker.settings import Connections
from tracker.swarm import Peer
from tracker.websocket import WebSocket

SWEEP_PERIOD: Final = 0.25
SWEEP_ROUND: Final = 20
"""The sweep runs every so many seconds and gets round all connections in so many runs."""

_RECEIVE_BUFFER: Final = 65536
"""Bytes that the kernel holds of what a client has sent. All of it is read, and kept room for, in one go: with the
megabytes that it would take by itself, a few flooding clients could hold up everybody for seconds."""

_UPGRADE = re.compile(rb"\r\nupgrade[ \t]*:[^\r]*websocket", re.IGNORECASE)

Accept = Callable[[Visit], WebSocket]


class Endpoint:
    """The public port's connections. Its counters are read by the metrics."""

    def __init__(self, hub: Hub, settings: Connections, door: Door, has_websockets: bool = True) -> None:
        self.hub = hub
        self.settings = settings
        self.door = door
        self.log_addresses = False
        """Whether refusals are logged with addresses above the level debug."""
        self.websockets: set[WebSocket] = set()
        self.opened = 0
        self.closed: Counter[Reason] = Counter()
        self.rejected: Counter[Reason] = Counter()
        self.message_sizes = [0] * 65
        """Messages received by the bit length of their size in bytes."""
        self.bytes_received = 0
        self.bytes_sent = 0
        self._routes: dict[str, Route] = {}
        self._subprotocols: dict[str, Accept] = {}
        self._servers: list[asyncio.Server] = []
        self._arrivals: set[Arrival] = set()
        self._http: set[HttpConnection] = set()
        self._has_websockets = has_websockets
        self._visits: dict[HttpConnection, Visit] = {}
        self._sweep_round: Iterator[WebSocket] = iter(())
        self._sweep_timer: asyncio.TimerHandle | None = None
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

    async def listen(self, hosts: list[str], port: int, tls: ssl.SSLContext | None = None) -> list[tuple[str, int]]:
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
                self._servers.append(
                    await loop.create_server(
                        lambda: Arrival(self, self.settings.handshake_timeout),
                        sock=bound,
                        backlog=4096,
                        ssl=tls,
                        ssl_handshake_timeout=self.settings.handshake_timeout if tls else None,
                    )
                )
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
            client.close(CloseCode.GOING_AWAY, Reason.SHUTDOWN)
            if number % 500 == 0:
                await asyncio.sleep(0)
        await before_channels
        for websocket in list(self.websockets):
            websocket.close(CloseCode.GOING_AWAY, Reason.SHUTDOWN)
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
        self.door.leave(websocket.quota, monotonic())
        self.closed[reason] += 1
        self._note_gone()

    def slow(self, _websocket: WebSocket) -> None:
        """A message was dropped because its receiver does not keep up."""
        self.hub.tally.dropped[Reason.SLOW_RECEIVER] += 1

    def flush_soon(self, websocket: WebSocket) -> None:
        """Let a WebSocket write what waits at the end of this turn of the event loop."""
        if not self._unflushed:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unflushed.append(websocket)

    def arrived(self, arrival: Arrival, head: bytes, data: bytes) -> None:
        """A request's head (with its blank line) is complete; `data` is all that was received."""
        self._arrivals.discard(arrival)
        if self._has_websockets and _UPGRADE.search(head):
            self._upgrade(arrival.transport, arrival.visit, head, data[len(head) :])
        else:
            connection = HttpConnection(arrival.transport, data, self._routes, self._http_closed)
            self._visits[connection] = arrival.visit
            self._http.add(connection)
            arrival.transport.set_protocol(connection)

    def arrival_lost(self, arrival: Arrival, reason: Reason) -> None:
        """A connection ended before it said what it wants."""
        if arrival in self._arrivals:
            self._arrivals.discard(arrival)
            self.closed[reason] += 1
            self.door.leave(arrival.visit.quota, monotonic())

    def waiting(self, arrival: Arrival, peer: str) -> Visit | None:
        """A connection was accepted; whose it is, None if it is refused."""
        self.opened += 1
        try:
            if len(self._arrivals) + len(self._http) >= self.door.room.others:
                raise Refused(Reason.TOO_MANY_CONNECTIONS, HTTPStatus.SERVICE_UNAVAILABLE)
            visit = self.door.arrive(peer, monotonic())
        except Refused as refused:
            self._refused(refused, peer)
            arrival.transport.write(refusal(refused))
            arrival.transport.close()
            return None
        self._arrivals.add(arrival)
        return visit

    def identified(self, arrival: Arrival, address: str | None) -> bool:
        """A proxy has told whose connection it is; whether that is welcome."""
        try:
            self.door.identify(arrival.visit, address, None, monotonic())
        except Refused as refused:
            self._refused(refused, str(address))
            self._arrivals.discard(arrival)
            arrival.refuse(refused.reason, refusal(refused))
            return False
        return True

    def _refused(self, refused: Refused, address: str) -> None:
        self.rejected[refused.reason] += 1
        log = structlog.get_logger()
        if self.log_addresses:
            log.info("rejected", reason=refused.reason.value, address=address)
        else:
            log.debug("rejected", reason=refused.reason.value, address=address)

    def _upgrade(self, transport: asyncio.Transport, visit: Visit, head: bytes, rest: bytes) -> None:
        handshake = Handshake(head, self._subprotocols)
        try:
            if not handshake.is_valid:
                self.closed[Reason.HANDSHAKE_INVALID] += 1
                self._turn_away(transport, visit, handshake.response())
                return
            if self._draining:
                raise Refused(Reason.SHUTDOWN, HTTPStatus.SERVICE_UNAVAILABLE)
            self.door.identify(visit, None, handshake.headers, monotonic())
            self.door.admit(handshake.headers, len(self.websockets))
        except Refused as refused:
            self._refused(refused, visit.address)
            self._turn_away(transport, visit, handshake.refusal(refused.status, refused.headers))
            return
        accept = self._subprotocols.get(handshake.subprotocol or "")
        websocket = accept(visit) if accept else Client(self, visit)
        transport.set_protocol(websocket)
        transport.write(handshake.response())
        websocket.connection_made(transport)
        if rest:
            websocket.data_received(rest)

    def _turn_away(self, transport: asyncio.Transport, visit: Visit, response: bytes) -> None:
        self.door.leave(visit.quota, monotonic())
        transport.set_protocol(asyncio.Protocol())
        transport.write(response)
        transport.close()

    def _http_closed(self, connection: HttpConnection) -> None:
        self._http.discard(connection)
        self.door.leave(self._visits.pop(connection).quota, monotonic())
        self._note_gone()

    def _note_gone(self) -> None:
        if self._draining and not (self.websockets or self._http):
            self._all_gone.set()

    def _flush(self) -> None:
        unflushed, self._unflushed = self._unflushed, []
        for websocket in unflushed:
            websocket.flush()

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
            if websocket in self.websockets:
                websocket.sweep(now)


class Client(WebSocket):
    """A peer's connection, as the hub's `Connection`."""

    __slots__ = ("address", "endpoint", "peers", "strikes")

    def __init__(self, endpoint: Endpoint, visit: Visit) -> None:
        super().__init__(endpoint, visit)
        self.endpoint = endpoint
        self.address = visit.address
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
                self.close(CloseCode.INVALID_DATA, Reason.INVALID_UTF8)
                return
            self.strikes += 1
            out = [(self, endpoint.hub.refuse(Malformed(Reason.INVALID_JSON, "invalid message")))]
        except Exception:
            structlog.get_logger().exception("message_failed")
            self.close(CloseCode.INTERNAL_ERROR, Reason.INTERNAL_ERROR)
            return
        endpoint.send(out)
        if self.strikes >= endpoint.settings.max_invalid:
            self.close(CloseCode.POLICY_VIOLATION, Reason.GARBAGE)

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
