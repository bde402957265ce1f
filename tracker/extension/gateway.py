"""The gateway of a cluster: the one of several processes in which extensions with `at_gateway` run.

In a *cluster*, several processes are one tracker to the outside; each of them is a *node*. An extension makes this
process a node with `TrackerHandle.join_cluster`, and says at which times it is the gateway. At the other nodes, the
routes, subprotocols and tables of such extensions are there, too: the gateway serves them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from http import HTTPStatus
from math import inf
from time import monotonic
from typing import Any, Final

import msgspec
import structlog
from websockets.frames import CloseCode

from tracker.extension.channel import Channel
from tracker.extension.cluster import Cluster, Receiver, Stream
from tracker.extension.tunnel import TunnelChannel, join
from tracker.net.errors import ChannelClosed
from tracker.net.routes import Request, Response, Route, plain
from tracker.reasons import CloseReason
from tracker.web.stats import Rows, Tables

Handler = Callable[[Channel], Awaitable[None]]
"""Serves a subprotocol."""

ELECTION: Final = 5.0
"""Seconds for which a connection waits until there is a gateway. The next one is elected in less time."""

RETRY: Final = 0.25
"""Seconds between two attempts to reach it."""

GRACE: Final = 5.0
"""Seconds from the end of a connection until a handler that still runs is cancelled."""

MAX_AGE: Final = 1.0
"""Seconds for which the tables of the gateway are reused."""

REFRESH_TIMEOUT: Final = 1.0
"""Seconds that a page waits for them."""

_NO_GATEWAY: Final = plain(HTTPStatus.SERVICE_UNAVAILABLE, {"retry-after": "2"})


class _AskedRoute(msgspec.Struct, tag="route"):
    """A question: the response to an HTTP request."""

    path: str
    query: str
    headers: dict[str, str]
    prefix: str


class _AskedRows(msgspec.Struct, tag="rows"):
    """A question: the rows of all tables."""


class _Page(msgspec.Struct):
    """The answer to `_AskedRoute`."""

    body: bytes
    content_type: str
    status: int
    headers: dict[str, str]


class _Shown(msgspec.Struct):
    """The answer to `_AskedRows`: rows by table, and the extensions that are off, with the reason."""

    tables: dict[str, list[dict[str, Any]]]
    off: dict[str, str]


class _Opening(msgspec.Struct):
    """Opens a stream for a connection."""

    subprotocol: str
    address: str


_ASKED: Final = msgspec.msgpack.Decoder(_AskedRoute | _AskedRows)
_PAGE: Final = msgspec.msgpack.Decoder(_Page)
_SHOWN: Final = msgspec.msgpack.Decoder(_Shown)
_OPENING: Final = msgspec.msgpack.Decoder(_Opening)
_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=str)


class Gateway:
    """Whether extensions with `at_gateway` run in this process, and their services if they run in another one.

    Without a cluster they always run here. `tables` show which extensions are off. `max_message` is the longest message
    of a WebSocket, in bytes.
    """

    def __init__(self, tables: Tables | None = None, max_message: int = 1 << 20) -> None:
        self.is_here = True
        """Whether this node is the gateway. A node of a cluster is none until the first verdict."""
        self.on_change: list[Callable[[], None]] = []
        """Called after each change of `is_here`."""
        self._max_message = max_message
        self._cluster: Cluster | None = None
        self._routes: dict[str, Route] = {}
        self._handlers: dict[str, Handler] = {}
        self._tables = tables or Tables()
        self._own_rows: dict[str, Callable[[], Rows]] = {}
        self._their_rows: dict[str, Rows] = {}
        """The tables of the gateway, if it is another node."""
        self._refreshed = -inf
        self._refreshing: asyncio.Task[None] | None = None
        self._served: set[TunnelChannel] = set()
        """The channels of other nodes."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger()

    @property
    def is_clustered(self) -> bool:
        """Whether this process is a node of a cluster."""
        return self._cluster is not None

    # For the extension that makes this process a node

    def join(self, cluster: Cluster) -> None:
        """Make this process a node. Raise `ValueError` if it is one already."""
        if self._cluster is not None:
            raise ValueError("this process is a node of another cluster")
        self._cluster = cluster
        self.is_here = False

    def move(self, is_here: bool) -> None:
        """Make this node the gateway, or another one."""
        if is_here != self.is_here:
            self.is_here = is_here
            for call in self.on_change:
                call()
            if not is_here:
                # The extensions may end their connections in their own way before.
                for channel in self._served:
                    asyncio.get_running_loop().call_later(GRACE, _end, channel)

    async def answer(self, question: bytes) -> bytes:
        """Answer a question of another node. An empty answer means that this node is not the gateway, or has failed."""
        try:
            asked = _ASKED.decode(question)
            if not self.is_here:
                return b""
            if isinstance(asked, _AskedRoute):
                route = self._routes.get(asked.path)
                if route is None:
                    return b""
                got = await route(Request(asked.path, asked.query, asked.headers, asked.prefix))
                return _ENCODER.encode(_Page(got.body, got.content_type, got.status.value, dict(got.headers)))
            own = {name: self._tables.rows_of(name) for name in self._own_rows}
            return _ENCODER.encode(_Shown(own, self._tables.off))
        except msgspec.MsgspecError:
            # A node of another version.
            return b""
        except Exception:
            self._log.exception("gateway_failed", on="answer")
            return b""

    def accept(self, opening: bytes, stream: Stream) -> Receiver | None:
        """Serve a stream that another node has opened. Return None if it cannot be served."""
        try:
            asked = _OPENING.decode(opening)
        except msgspec.MsgspecError:
            return None
        handler = self._handlers.get(asked.subprotocol)
        if handler is None or self._cluster is None or not self.is_here:
            return None
        channel = TunnelChannel(asked.address, self._max_message)
        channel.attach(stream, self._cluster.max_piece)
        self._served.add(channel)
        task = self._start(self._serve(channel, handler))
        channel.on_ended = lambda: asyncio.get_running_loop().call_later(GRACE, task.cancel)
        return channel

    def close(self) -> None:
        """End all work, because the process stops."""
        for task in self._tasks:
            task.cancel()

    # For the extensions that run at the gateway

    def route(self, path: str, route: Route) -> Route:
        """Return a route that has a path served by the gateway."""
        self._routes[path] = route

        async def serve(request: Request) -> Response:
            if self.is_here:
                return await route(request)
            asked = _AskedRoute(path, request.query, dict(request.headers), request.prefix)
            answer = await self._ask(asked)
            if not answer:
                return _NO_GATEWAY
            page = _PAGE.decode(answer)
            return Response(page.body, page.content_type, HTTPStatus(page.status), page.headers)

        return serve

    def subprotocol(self, name: str, handler: Handler) -> Handler:
        """Return a handler that has the connections of a subprotocol served by the gateway."""
        self._handlers[name] = handler

        async def serve(channel: Channel) -> None:
            tunnel = await self._tunnel(name, channel)
            if tunnel is None:
                await handler(channel)
            elif tunnel.reason is None:
                await join(channel, tunnel)
            else:
                channel.close(CloseCode.TRY_AGAIN_LATER, CloseReason.CLOSED_BY_EXTENSION)

        return serve

    def table(self, name: str, rows: Callable[[], Rows]) -> Callable[[], Rows]:
        """Return a function that returns the rows of the gateway's table, as of the last `refresh`."""
        self._own_rows[name] = rows
        return lambda: rows() if self.is_here else self._their_rows.get(name, [])

    async def refresh(self) -> None:
        """Get the tables of the gateway, unless they are `MAX_AGE` seconds old at most."""
        if self.is_here or not self._own_rows:
            self._their_rows.clear()
            self._tables.off_elsewhere = {}
            return
        if self._refreshing is None and monotonic() - self._refreshed >= MAX_AGE:
            self._refreshing = self._start(self._refresh())
        if self._refreshing is not None:
            # Others wait for the same rows. A page must not wait for a gateway that has just died.
            await asyncio.wait([self._refreshing], timeout=REFRESH_TIMEOUT)

    async def _refresh(self) -> None:
        try:
            answer = await self._ask(_AskedRows())
            found = _SHOWN.decode(answer) if answer else _Shown({}, {})
            self._their_rows, self._tables.off_elsewhere = found.tables, found.off
        finally:
            self._refreshed = monotonic()
            self._refreshing = None

    async def _ask(self, question: _AskedRoute | _AskedRows) -> bytes | None:
        return await self._cluster.ask_gateway(_ENCODER.encode(question)) if self._cluster else None

    async def _tunnel(self, name: str, channel: Channel) -> TunnelChannel | None:
        """Return a tunnel to the gateway, None if this node is it. Without a gateway the tunnel has ended already."""
        cluster = self._cluster
        tunnel = TunnelChannel(channel.remote_address, self._max_message)
        deadline = monotonic() + ELECTION
        while not self.is_here and cluster is not None:
            stream = cluster.open_stream(_ENCODER.encode(_Opening(name, channel.remote_address)), tunnel)
            if stream is not None:
                tunnel.attach(stream, cluster.max_piece)
                return tunnel
            if monotonic() >= deadline or channel.reason is not None:
                tunnel.on_end()
                return tunnel
            await asyncio.sleep(RETRY)
        return None

    async def _serve(self, channel: TunnelChannel, handler: Handler) -> None:
        """Serve a channel of another node, as `SocketChannel` serves its own."""
        try:
            await handler(channel)
        except ChannelClosed:
            pass
        except Exception:
            self._log.exception("channel_failed")
            channel.close(CloseCode.INTERNAL_ERROR, CloseReason.INTERNAL_ERROR)
        finally:
            channel.close(CloseCode.NORMAL_CLOSURE, CloseReason.CLOSED_BY_EXTENSION)
            self._served.discard(channel)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _end(channel: TunnelChannel) -> None:
    channel.close(CloseCode.GOING_AWAY, CloseReason.CLOSED_BY_EXTENSION)
