"""The opening handshake of a WebSocket (RFC 6455 section 4.2), by websockets' own Sans-I/O layer."""

import logging
from collections.abc import Container, Mapping, Sequence
from http import HTTPStatus
from typing import Final, cast

from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

# It would tell of every connection, and of what any client can get wrong.
_silent: Final = logging.getLogger("tracker.handshake")
_silent.disabled = True


class Handshake:
    """A client's request for a WebSocket; `head` is all of it, with its blank line."""

    def __init__(self, head: bytes, subprotocols: Container[str]) -> None:
        def first_known(_protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
            # Who offers none, or none that is known, is a client like any other.
            return next((name for name in offered if name in subprotocols), None)

        self._protocol = ServerProtocol(select_subprotocol=first_known, logger=_silent)
        self._protocol.receive_data(head)
        self._response: Response | None = None
        events = self._protocol.events_received()
        if events:
            self._request = cast(Request, events[0])
            self._response = self._protocol.accept(self._request)

    @property
    def is_valid(self) -> bool:
        """Whether a WebSocket can come of it."""
        return self._response is not None and self._response.status_code == HTTPStatus.SWITCHING_PROTOCOLS

    @property
    def headers(self) -> Headers:
        """Those of a valid request."""
        return self._request.headers

    @property
    def subprotocol(self) -> str | None:
        """The first of those offered that is known."""
        return self._protocol.subprotocol

    def response(self) -> bytes:
        """What to answer: 101 if it is valid, an error if not."""
        response = self._response or self._protocol.reject(HTTPStatus.BAD_REQUEST, "not a valid HTTP request\n")
        return response.serialize()

    def refusal(self, status: HTTPStatus, headers: Mapping[str, str]) -> bytes:
        """What to answer to a request that is not served."""
        response = self._protocol.reject(status, f"{status.value} {status.phrase}\n")
        for name, value in headers.items():
            response.headers[name] = value
        return response.serialize()
