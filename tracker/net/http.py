"""HTTP on the tracker's port: requests that do not ask for a WebSocket.

Each connection serves one request: a reverse proxy that reused it would send a client's WebSocket handshake over it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import structlog

from tracker.access.gate import ConnectionInfo
from tracker.net.request import RequestHead
from tracker.net.response import response_head

RESPONSE_TIMEOUT: Final = 60.0
"""Seconds in which a response must be made and received."""

_WITHOUT_CONTENT: Final = frozenset((HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED))


@dataclass(frozen=True, slots=True)
class Request:
    """A GET or HEAD request.

    Attributes:
        path: The path of the request target, as it was sent: percent-encoded.
        query: The query of the request target without its question mark, or an empty string.
        headers: The value of each header by its name in lower case. Repeated headers are joined with commas.
    """

    path: str
    query: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """The response of a route.

    Attributes:
        headers: Further headers. `Connection`, `Content-Length` and `Transfer-Encoding` have no effect here: the
            connection always closes behind `body`.
    """

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


Route = Callable[[Request], Awaitable[Response]]


def plain(status: HTTPStatus) -> Response:
    """Return a response whose text is its status."""
    return Response(f"{status.value} {status.phrase}\n".encode(), status=status)


class HttpConnection(asyncio.Protocol):
    """One HTTP/1 request and its response. `on_close` is called when the connection has ended."""

    def __init__(
        self,
        transport: asyncio.Transport,
        info: ConnectionInfo,
        request: RequestHead,
        routes: Mapping[str, Route],
        on_close: Callable[["HttpConnection"], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.transport = transport
        self.info = info
        self.deadline = loop.time() + RESPONSE_TIMEOUT
        self._routes = routes
        self._on_close = on_close
        self._task = loop.create_task(self._serve(request))

    def data_received(self, data: bytes) -> None:
        """Discard the request's content."""

    def eof_received(self) -> bool:
        """Keep the connection open, because a client that closes its side still gets its response."""
        # TLS has no half-closed connections.
        return self.transport.get_extra_info("ssl_object") is None

    def connection_lost(self, _error: Exception | None) -> None:
        """Stop making a response for a connection that has ended."""
        self._task.cancel()
        self._on_close(self)

    async def _serve(self, request: RequestHead) -> None:
        try:
            try:
                written = _serialize(await self._respond(request), with_content=request.method != "HEAD")
            except Exception:
                structlog.get_logger().exception("http_route_failed", path=request.target)
                written = _serialize(plain(HTTPStatus.INTERNAL_SERVER_ERROR), with_content=request.method != "HEAD")
            self.transport.write(written)
        finally:
            self.transport.close()

    async def _respond(self, request: RequestHead) -> Response:
        if request.method not in ("GET", "HEAD"):
            status = HTTPStatus.METHOD_NOT_ALLOWED
            return Response(f"{status.value} {status.phrase}\n".encode(), status=status, headers={"allow": "GET, HEAD"})
        path, _, query = request.target.partition("?")
        route = self._routes.get(path)
        if route is None:
            return plain(HTTPStatus.NOT_FOUND)
        return await route(Request(path, query, request.combined()))


def _serialize(response: Response, with_content: bool) -> bytes:
    """Return the bytes of a response. Raises `ValueError` for a header that cannot be sent, or an interim status."""
    if response.status < HTTPStatus.OK:
        raise ValueError(f"{response.status.value} is not a final status")
    fields = {
        "content-type": response.content_type,
        "x-content-type-options": "nosniff",
        **{name.lower(): value for name, value in response.headers.items()},
        "content-length": str(len(response.body)),
        "connection": "close",
    }
    fields.pop("transfer-encoding", None)
    if response.status in _WITHOUT_CONTENT:
        del fields["content-length"]
        with_content = False
    return response_head(response.status, fields) + (response.body if with_content else b"")
