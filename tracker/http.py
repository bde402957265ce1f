"""HTTP on the tracker's port: requests that do not ask for a WebSocket."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import h11
import structlog

MAX_HEADER: Final = 16 * 1024
"""Bytes of a request's line and headers."""


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
    """One HTTP/1 connection, keep-alive included. `on_close` is called once when it ends."""

    def __init__(
        self, transport: asyncio.Transport, routes: Mapping[str, Route], on_close: Callable[["HttpConnection"], None]
    ) -> None:
        self.transport = transport
        self.last_used = asyncio.get_running_loop().time()
        self._routes = routes
        self._on_close = on_close
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER)
        self._task: asyncio.Task[None] | None = None
        self._blocked = False

    def data_received(self, data: bytes) -> None:
        self.last_used = asyncio.get_running_loop().time()
        self._h11.receive_data(data)
        self._advance()

    def eof_received(self) -> bool:
        # A client may close its side right behind its request; it still gets its answer.
        self._h11.receive_data(b"")
        self._advance()
        return True

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        self._read_on()

    def connection_lost(self, _error: Exception | None) -> None:
        if self._task:
            self._task.cancel()
        self._on_close(self)

    def _advance(self) -> None:
        try:
            while self._task is None and not self._blocked and not self.transport.is_closing():
                event = self._h11.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    break
                if isinstance(event, h11.Request):
                    self._task = asyncio.get_running_loop().create_task(self._serve(event))
                elif isinstance(event, h11.ConnectionClosed):
                    self.transport.close()
        except h11.RemoteProtocolError as error:
            self._refuse(HTTPStatus(error.error_status_hint))
        # A client is not read while its answer is made, nor while it does not take the answers to what it has asked.
        if (self._task is not None or self._blocked) and not self.transport.is_closing():
            self.transport.pause_reading()

    async def _serve(self, request: h11.Request) -> None:
        head = request.method == b"HEAD"
        try:
            response = await self._respond(request)
        except Exception:
            structlog.get_logger().exception("http_route_failed", path=request.target.decode("latin-1"))
            response = plain(HTTPStatus.INTERNAL_SERVER_ERROR)
        if not self.transport.is_closing():
            self._send(response, head)
            self._task = None
            self._next_cycle()

    async def _respond(self, request: h11.Request) -> Response:
        if request.method not in (b"GET", b"HEAD"):
            return Response(b"405 Method Not Allowed\n", status=HTTPStatus.METHOD_NOT_ALLOWED, headers={"allow": "GET"})
        path, _, query = request.target.decode("latin-1").partition("?")
        route = self._routes.get(path)
        if route is None:
            return plain(HTTPStatus.NOT_FOUND)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        return await route(Request(path, query, headers))

    def _send(self, response: Response, head: bool) -> None:
        headers = [
            ("content-type", response.content_type),
            ("content-length", str(len(response.body))),
            ("x-content-type-options", "nosniff"),
            *response.headers.items(),
        ]
        parts = [
            self._h11.send(
                h11.Response(status_code=response.status.value, headers=headers, reason=response.status.phrase.encode())
            ),
            b"" if head else self._h11.send(h11.Data(data=response.body)),
            self._h11.send(h11.EndOfMessage()),
        ]
        self.transport.write(b"".join(part for part in parts if part))

    def _next_cycle(self) -> None:
        # A request with a body that has not been read cannot be followed by another on this connection.
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.SEND_BODY:
            self._h11.next_event()
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            self._read_on()
        else:
            self.transport.close()

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()
            self._advance()

    def _refuse(self, status: HTTPStatus) -> None:
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._send(plain(status), head=False)
        self.transport.close()
