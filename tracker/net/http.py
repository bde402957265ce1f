"""HTTP on the tracker's port: requests that do not ask for a WebSocket.

One request per connection: a proxy that kept the connection would send a client's WebSocket handshake over it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import h11
import structlog

MAX_HEADER: Final = 16 * 1024
"""Bytes of a request's line and headers."""

RESPONSE_TIMEOUT: Final = 60.0
"""Seconds for a response to be made and taken."""


@dataclass(frozen=True, slots=True)
class Request:
    """A GET or HEAD request. `path` is the target without its query; header names are in lower case."""

    path: str
    query: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """What a route answers."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


Route = Callable[[Request], Awaitable[Response]]


def plain(status: HTTPStatus) -> Response:
    """A response that says no more than its status."""
    return Response(f"{status.value} {status.phrase}\n".encode(), status=status)


class HttpConnection(asyncio.Protocol):
    """One HTTP/1 request, whose whole head is in `data`, and its response. `on_close` is called when it ends."""

    def __init__(
        self,
        transport: asyncio.Transport,
        data: bytes,
        routes: Mapping[str, Route],
        on_close: Callable[["HttpConnection"], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.transport = transport
        self.deadline = loop.time() + RESPONSE_TIMEOUT
        self._routes = routes
        self._on_close = on_close
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER)
        self._task = loop.create_task(self._serve(data))

    def data_received(self, data: bytes) -> None:
        """Nobody wants a body."""

    def eof_received(self) -> bool:
        """A client may close its side right behind its request; it still gets its answer."""
        # Under TLS there is no such half-closing.
        return self.transport.get_extra_info("ssl_object") is None

    def connection_lost(self, _error: Exception | None) -> None:
        self._task.cancel()
        self._on_close(self)

    async def _serve(self, data: bytes) -> None:
        path = ""
        try:
            self._h11.receive_data(data)
            request = self._h11.next_event()
            assert isinstance(request, h11.Request)
            path = request.target.decode("latin-1")
            self._send(await self._respond(request), head=request.method == b"HEAD")
        except h11.RemoteProtocolError as error:
            self._send(plain(HTTPStatus(error.error_status_hint)))
        except Exception:
            structlog.get_logger().exception("http_route_failed", path=path)
            if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                self._send(plain(HTTPStatus.INTERNAL_SERVER_ERROR))
        finally:
            self.transport.close()

    async def _respond(self, request: h11.Request) -> Response:
        if request.method not in (b"GET", b"HEAD"):
            return Response(b"405 Method Not Allowed\n", status=HTTPStatus.METHOD_NOT_ALLOWED, headers={"allow": "GET"})
        path, _, query = request.target.decode("latin-1").partition("?")
        route = self._routes.get(path)
        if route is None:
            return plain(HTTPStatus.NOT_FOUND)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        return await route(Request(path, query, headers))

    def _send(self, response: Response, head: bool = False) -> None:
        headers = [
            ("content-type", response.content_type),
            ("content-length", str(len(response.body))),
            ("connection", "close"),
            ("x-content-type-options", "nosniff"),
            *response.headers.items(),
        ]
        start = h11.Response(status_code=response.status.value, headers=headers, reason=response.status.phrase.encode())
        self.transport.write((self._h11.send(start) or b"") + (b"" if head else response.body))
