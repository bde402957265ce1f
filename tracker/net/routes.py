"""The HTTP routes of a port: from the head of a request to the bytes of its response."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPMethod, HTTPStatus
from types import MappingProxyType
from typing import Final

import structlog

from tracker.net.request import RequestHead
from tracker.net.response import response_head

ALLOW: Final = "GET, HEAD, OPTIONS"
"""The methods that every route serves, as in the field `Allow`."""

_REFUSED: Final = frozenset(HTTPMethod) - {"GET", "HEAD", "OPTIONS", "CONNECT"}
"""The methods that are known and not served. Others, and CONNECT, are not implemented (RFC 9110, section 9.1)."""

_CORS: Final = MappingProxyType({"access-control-allow-origin": "*"})
_PREFLIGHT: Final = MappingProxyType(
    {
        "access-control-allow-methods": "GET, HEAD",
        "access-control-allow-headers": "*",
        "access-control-max-age": "86400",
    }
)

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


def plain(status: HTTPStatus, headers: Mapping[str, str] = MappingProxyType({})) -> Response:
    """Return a response whose text is its status."""
    return Response(f"{status.value} {status.phrase}\n".encode(), status=status, headers=headers)


class Routes:
    """The routes of one port by path."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}
        self._public: set[str] = set()

    def add(self, path: str, route: Route, *, public: bool = False) -> None:
        """Serve a path; pages of all sites may read the response of a `public` one (CORS, in the Fetch standard).

        Raises:
            ValueError: The path is taken.
        """
        if path in self._routes:
            raise ValueError(f"{path} is taken")
        self._routes[path] = route
        if public:
            self._public.add(path)

    async def respond(self, head: RequestHead) -> bytes:
        """Return the whole response to a request; if a route fails, it is logged and the response is 500."""
        try:
            return _serialize(await self._respond(head), with_content=head.method != "HEAD")
        except Exception:
            structlog.get_logger().exception("http_route_failed", path=head.target)
            return _serialize(plain(HTTPStatus.INTERNAL_SERVER_ERROR), with_content=head.method != "HEAD")

    async def _respond(self, head: RequestHead) -> Response:
        path, _, query = head.target.partition("?")
        cors = _CORS if path in self._public else {}
        if head.method == "OPTIONS":
            # Every path, because a WebSocket can be opened at every path. Load balancers use it as a health check.
            preflight = _PREFLIGHT if cors else {}
            return Response(b"", status=HTTPStatus.NO_CONTENT, headers={"allow": ALLOW, **cors, **preflight})
        if head.method in _REFUSED:
            return plain(HTTPStatus.METHOD_NOT_ALLOWED, {"allow": ALLOW, **cors})
        if head.method not in ("GET", "HEAD"):
            return plain(HTTPStatus.NOT_IMPLEMENTED)
        route = self._routes.get(path)
        if route is None:
            return plain(HTTPStatus.NOT_FOUND)
        response = await route(Request(path, query, head.combined()))
        return replace(response, headers={**cors, **response.headers}) if cors else response


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
        del fields["content-length"], fields["content-type"]
        with_content = False
    return response_head(response.status, fields) + (response.body if with_content else b"")
