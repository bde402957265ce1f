"""Routes: paths with a prefix and without, and the responses to each method."""

from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.net.request import RequestHead
from tracker.net.routes import Request, Response, Routes, forwarded_prefix


async def show(request: Request) -> Response:
    """Show the request."""
    return Response(f"{request.prefix}|{request.path}|{request.query}".encode())


def routes(prefix: str = "") -> Routes:
    found = Routes(prefix)
    found.add("/", show)
    found.add("/stats.json", show, public=True)
    return found


async def content(found: Routes, target: str, forwarded: str = "") -> str:
    """Return the content of the response to a GET request."""
    head = RequestHead(f"GET {target} HTTP/1.1\r\nHost: t\r\n\r\n".encode())
    return (await found.respond(head, forwarded)).decode().partition("\r\n\r\n")[2].strip()


@pytest.mark.parametrize(
    ("target", "forwarded", "shown"),
    [
        # Without the prefix: from the machine itself, or from a proxy that removes it.
        ("/", "", "|/|"),
        ("/stats.json?a", "", "|/stats.json|a"),
        ("/stats.json", "/outer", "/outer|/stats.json|"),
        # A proxy that does not remove it.
        ("/a/b", "", "/a/b|/|"),
        ("/a/b?x", "", "/a/b|/|x"),
        ("/a/b/", "", "/a/b|/|"),
        ("/a/b/stats.json", "", "/a/b|/stats.json|"),
        ("/a/b/stats.json", "/a/b", "/a/b|/stats.json|"),
        ("/a/b/stats.json", "/outer", "/outer/a/b|/stats.json|"),
        # A proxy that announces a prefix and does not remove it, either.
        ("/outer/stats.json", "/outer", "/outer|/stats.json|"),
        ("/outer", "/outer", "/outer|/|"),
        ("/a/bc", "", "404 Not Found"),
        ("/a", "", "404 Not Found"),
        ("/a/b/a/b/", "", "404 Not Found"),
        ("/a/b//stats.json", "", "404 Not Found"),
    ],
)
async def test_paths_with_a_prefix_and_without(target: str, forwarded: str, shown: str) -> None:
    assert await content(routes("/a/b"), target, forwarded) == shown


async def test_without_a_prefix_only_the_own_paths_are_served() -> None:
    assert await content(routes(), "/stats.json") == "|/stats.json|"
    assert await content(routes(), "/a/b/stats.json") == "404 Not Found"


async def test_requests_are_counted_by_route_and_status() -> None:
    found = routes("/a")
    found.add_matching("all", lambda path, query: path.startswith("/all/") or query == "all", show)

    async def fail(_: Request) -> Response:
        return Response(b"", status=HTTPStatus.CONTINUE)

    found.add("/fails", fail)
    before = dict(found.requests)
    assert set(before) == {
        *(("/", 200), ("/stats.json", 200), ("all", 200), ("/fails", 200)),
        *(("other", 404), ("invalid", 400), ("websocket", 101)),
    }
    assert set(before.values()) == {0}
    for target in ("/", "/a/", "/?x", "/?all", "/all/1", "/all/2", "/stats.json?all", "/x", "/fails", "/all"):
        await content(found, target)
    for method in ("OPTIONS", "POST", "HEAD", "BREW"):
        await found.respond(RequestHead(f"{method} /all/3 HTTP/1.0\r\n\r\n".encode()))
    found.count("websocket", HTTPStatus.UPGRADE_REQUIRED)
    assert {key: number for key, number in found.requests.items() if number} == {
        ("/", 200): 3,
        ("all", 200): 4,
        ("all", 204): 1,
        ("all", 405): 1,
        ("all", 501): 1,
        ("/stats.json", 200): 1,
        ("/fails", 500): 1,
        ("other", 404): 2,
        ("websocket", 426): 1,
    }


@pytest.mark.parametrize(
    ("values", "prefix"),
    [
        ([], ""),
        ([""], ""),
        (["/"], ""),
        (["/tracker"], "/tracker"),
        (["/tracker/"], "/tracker"),
        (["/a, /b", "/c/d/"], "/a/b/c/d"),
        (["//evil.example"], ""),
        (["/a//b"], ""),
        (["tracker"], ""),
        (["https://evil.example"], ""),
        (['/"><script>'], ""),
        (["/a", "\\evil"], ""),
    ],
)
def test_prefixes_that_proxies_have_removed(values: list[str], prefix: str) -> None:
    assert forwarded_prefix(values) == prefix


@given(st.lists(st.text(max_size=20) | st.text("/a,%2F .:\\", max_size=20), max_size=3))
def test_a_forwarded_prefix_is_a_path_of_the_same_host(values: list[str]) -> None:
    prefix = forwarded_prefix(values)
    assert prefix == "" or (prefix.startswith("/") and not prefix.endswith("/"))
    assert "//" not in prefix
    assert set('\\<>"?#, ').isdisjoint(prefix)


def test_requests_whose_responses_are_made_of_figures_are_costly() -> None:
    found = Routes("/a")
    found.add("/", show)
    found.add("/stats", show)
    found.add("/health", show, is_constant=True)
    found.add_matching("swarms", lambda path, _: path.startswith("/swarms/"), show)
    found.add_matching("announce", lambda _, query: query == "info_hash", show, is_constant=True)

    def is_costly(target: str, method: str = "GET", forwarded: str = "") -> bool:
        return found.is_costly(RequestHead(f"{method} {target} HTTP/1.1\r\nHost: t\r\n\r\n".encode()), forwarded)

    for target in ("/", "/?x", "/a", "/a/stats", "/stats?x", "/swarms/1", "/a/swarms/1"):
        assert is_costly(target)
        assert is_costly(target, "HEAD")
        assert not is_costly(target, "OPTIONS")
        assert not is_costly(target, "POST")
    for target in ("/health", "/a/health", "/?info_hash", "/nope", "/b/stats"):
        assert not is_costly(target)
    assert is_costly("/b/stats", forwarded="/b")
