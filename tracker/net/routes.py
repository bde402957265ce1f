"""The HTTP routes of a port: from the head of a request to the bytes of its response."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPMethod, HTTPStatus
from types import MappingProxyType
from typing import Final

import structlog

from tracker.net.request import RequestHead
from tracker.net.response import response_head
from tracker.settings import PATH_PREFIX

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
        path: The path of the request target, as it was sent, percent-encoded, but without `prefix`.
        query: The query of the request target without its question mark, or an empty string.
        headers: The value of each header by its name in lower case. Repeated headers are joined with commas.
        prefix: The path under which the client sees the tracker, such as `/tracker`, or an empty string.
    """

    path: str
    query: str
    headers: Mapping[str, str]
    prefix: str = ""


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

Matches = Callable[[str, str], bool]
"""Returns whether a route serves a path and a query."""

INVALID: Final = "invalid"
WEBSOCKET: Final = "websocket"
OTHER: Final = "other"
"""The routes that are counted for heads with errors, for opening handshakes of WebSockets, and for unknown paths."""


@dataclass(frozen=True, slots=True)
class _Served:
    """A route with the name by which its requests are counted.

    `public`: pages of all sites may read its responses. `is_constant`: a response costs no more than a refusal.
    """

    name: str
    route: Route | None
    public: bool = False
    is_constant: bool = False


_UNKNOWN: Final = _Served(OTHER, None, is_constant=True)


def plain(status: HTTPStatus, headers: Mapping[str, str] = MappingProxyType({})) -> Response:
    """Return a response with its status as text."""
    return Response(f"{status.value} {status.phrase}\n".encode(), status=status, headers=headers)


def forwarded_prefix(values: Iterable[str]) -> str:
    """Return the path prefix that proxies have removed, according to the values of `X-Forwarded-Prefix`.

    Each proxy appends the prefix that it removes, so the values are joined. The result is empty if one is not a path.
    """
    prefixes = [value.strip(" \t") for line in values for value in line.split(",")]
    if not all(map(PATH_PREFIX.fullmatch, prefixes)):
        return ""
    return "".join(prefix.rstrip("/") for prefix in prefixes)


class Routes:
    """The routes of one port by path.

    `prefix` is a path, such as `/tracker`, or an empty string. Every route is served with it and without.
    """

    def __init__(self, prefix: str = "") -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        """The number of requests by route and status."""
        self._prefix = prefix
        self._paths: dict[str, _Served] = {}
        self._matching: list[tuple[Matches, _Served]] = []
        # The others are there when their routes are added.
        for name, status in ((INVALID, 400), (OTHER, 404), (WEBSOCKET, 101)):
            self.requests[name, status] = 0

    def add(self, path: str, route: Route, *, public: bool = False, is_constant: bool = False) -> None:
        """Serve a path.

        Args:
            path: The path.
            route: Makes the responses.
            public: Pages of all sites may read the response (CORS, in the Fetch standard).
            is_constant: A response costs no more than a refusal, so requests are not charged (`is_costly`).

        Raises:
            ValueError: The path is taken.
        """
        if path in self._paths:
            raise ValueError(f"{path} is taken")
        self._paths[path] = self._new(path, route, public, is_constant)

    def add_matching(
        self, name: str, matches: Matches, route: Route, *, public: bool = False, is_constant: bool = False
    ) -> None:
        """Serve all paths and queries that match and are no path of their own, except `/`; count them by `name`."""
        self._matching.append((matches, self._new(name, route, public, is_constant)))

    def is_costly(self, head: RequestHead, forwarded: str) -> bool:
        """Return whether the response to a request may cost more than a refusal. The arguments are as of `respond`."""
        if head.method not in ("GET", "HEAD"):
            return False
        path, _, query = head.target.partition("?")
        return not self._find(self._without_prefix(path, forwarded)[0], query).is_constant

    def count(self, name: str, status: HTTPStatus) -> None:
        """Count a request that is answered elsewhere."""
        self.requests[name, status.value] += 1

    async def respond(self, head: RequestHead, forwarded: str = "") -> bytes:
        """Return the whole response to a request; if a route fails, it is logged and the response is 500.

        `forwarded` is the path prefix that trusted proxies have removed from the target.
        """
        path, _, query = head.target.partition("?")
        path, prefix = self._without_prefix(path, forwarded)
        served = self._find(path, query)
        try:
            response = await _respond(served, head, Request(path, query, head.combined(), prefix))
            data = _serialize(response, with_content=head.method != "HEAD")
        except Exception:
            structlog.get_logger().exception("http_route_failed", path=head.target)
            response = plain(HTTPStatus.INTERNAL_SERVER_ERROR)
            data = _serialize(response, with_content=head.method != "HEAD")
        self.count(served.name, response.status)
        return data

    def _new(self, name: str, route: Route, public: bool, is_constant: bool) -> _Served:
        self.requests[name, HTTPStatus.OK.value] = 0
        return _Served(name, route, public, is_constant)

    def _find(self, path: str, query: str) -> _Served:
        served = self._paths.get(path)
        if served is None or path == "/":
            for matches, other in self._matching:
                if matches(path, query):
                    return other
        return served or _UNKNOWN

    def _without_prefix(self, path: str, forwarded: str) -> tuple[str, str]:
        """Return a path without its prefix, and the prefix that the client sees."""
        own = self._prefix
        if own and _is_under(path, own):
            # A proxy may announce the prefix that it has not removed.
            return path[len(own) :] or "/", own if forwarded == own else forwarded + own
        if forwarded and _is_under(path, forwarded):
            return path[len(forwarded) :] or "/", forwarded
        return path, forwarded


async def _respond(served: _Served, head: RequestHead, request: Request) -> Response:
    cors = _CORS if served.public else {}
    if head.method == "OPTIONS":
        # Every path, because a WebSocket can be opened at every path. Load balancers use it as a health check.
        preflight = _PREFLIGHT if cors else {}
        return Response(b"", status=HTTPStatus.NO_CONTENT, headers={"allow": ALLOW, **cors, **preflight})
    if head.method in _REFUSED:
        return plain(HTTPStatus.METHOD_NOT_ALLOWED, {"allow": ALLOW, **cors})
    if head.method not in ("GET", "HEAD"):
        return plain(HTTPStatus.NOT_IMPLEMENTED)
    if served.route is None:
        return plain(HTTPStatus.NOT_FOUND)
    response = await served.route(request)
    return replace(response, headers={**cors, **response.headers}) if cors else response


def _is_under(path: str, prefix: str) -> bool:
    return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/")


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
