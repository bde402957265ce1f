"""HTTP on the tracker's port: requests that do not ask for a WebSocket.

Each connection serves one request: a reverse proxy that reused it would send a client's WebSocket handshake over it.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from tracker.access.gate import ConnectionInfo
from tracker.net.request import RequestHead
from tracker.net.routes import Routes

RESPONSE_TIMEOUT: Final = 60.0
"""Seconds in which a response must be made and received."""


class HttpConnection(asyncio.Protocol):
    """One HTTP/1 request and its response.

    `prefix` is the path prefix that trusted proxies have removed. `on_close` is called when the connection has ended.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        info: ConnectionInfo,
        request: RequestHead,
        routes: Routes,
        prefix: str,
        on_close: Callable[["HttpConnection"], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.transport = transport
        self.info = info
        self.deadline = loop.time() + RESPONSE_TIMEOUT
        self._on_close = on_close
        self._task = loop.create_task(self._serve(request, routes, prefix))

    def data_received(self, data: bytes) -> None:
        """Discard the request's content."""

    def eof_received(self) -> bool:
        """Keep the connection open, because a client that closes its side still gets its response."""
        return True

    def connection_lost(self, _error: Exception | None) -> None:
        """Stop making a response for a connection that has ended."""
        self._task.cancel()
        self._on_close(self)

    async def _serve(self, request: RequestHead, routes: Routes, prefix: str) -> None:
        try:
            self.transport.write(await routes.respond(request, prefix))
        finally:
            self.transport.close()
