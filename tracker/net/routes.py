"""The HTTP routes of a port: from the head of a request to the bytes of its response."""

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
        self._prefix = prefix
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

    async def respond(self, head: RequestHead, forwarded: str = "") -> bytes:
        """Return the whole response to a request; if a route fails, it is logged and the response is 500.

        `forwarded` is the path prefix that trusted proxies have removed from the target.
        """
        try:
            return _serialize(await self._respond(head, forwarded), with_content=head.method != "HEAD")
        except Exception:
            structlog.get_logger().exception("http_route_failed", path=head.target)
            return _serialize(plain(HTTPStatus.INTERNAL_SERVER_ERROR), with_content=head.method != "HEAD")

    async def _respond(self, head: RequestHead, forwarded: str) -> Response:
        path, _, query = head.target.partition("?")
        path, prefix = self._without_prefix(path, forwarded)
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
        response = await route(Request(path, query, head.combined(), prefix))
        return replace(response, headers={**cors, **response.headers}) if cors else response

    def _without_prefix(self, path: str, forwarded: str) -> tuple[str, str]:
        """Return a path without its prefix, and the prefix that the client sees."""
        own = self._prefix
        if own and _is_under(path, own):
            # A proxy may announce the prefix that it has not removed.
            return path[len(own) :] or "/", own if forwarded == own else forwarded + own
        if forwarded and _is_under(path, forwarded):
            return path[len(forwarded) :] or "/", forwarded
        return path, forwarded


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
