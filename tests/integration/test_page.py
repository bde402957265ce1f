"""The page over HTTP: its headers, the resources that it loads, and that tables of extensions cannot harm it."""

import asyncio
import base64
import gzip
import hashlib
import json
from typing import Any

import pytest

from tests.client import PATIENCE, eventually, raw_client
from tests.conftest import StartTracker, TrackerProcess
from tests.integration.test_http import exchange, request
from tests.unit.fakes import peer_id
from tests.unit.web.test_pages import EVIL, Outline, links
from tracker.config import ConfigError
from tracker.extension.api import Extension, TrackerHandle
from tracker.net.request import RequestHead
from tracker.net.routes import Routes
from tracker.server import Server
from tracker.settings import Page
from tracker.web.gather import Others
from tracker.web.pages import Pages
from tracker.web.stats import Tables
from tracker.web.whole import Whole


class Overwrites(Extension):
    """Shows a table under the name of a field of the statistics."""

    def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
        super().__init__(tracker, settings)
        tracker.add_table("peersAll", list)


class Shows(Extension):
    """Shows links, a table, and one that fails."""

    def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
        super().__init__(tracker, settings)
        self.links = links(3)
        tracker.add_table("neighbours", lambda: self.links, links=True)
        tracker.add_table("broken", self.fail)
        tracker.add_table("weather", lambda: [{"sky": EVIL, "wind": object()}])

    def fail(self) -> list[dict[str, Any]]:
        """As told."""
        raise RuntimeError("as told")


async def get(server: Server, path: str, *headers: bytes) -> bytes:
    """Return the body of a GET from a tracker in this process."""
    reader, writer = await asyncio.open_connection(*server.addresses[0])
    writer.write(request(b"GET", path.encode(), b"Connection: close", *headers))
    head, _, body = (await asyncio.wait_for(reader.read(), PATIENCE)).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 200 ")
    return body


@pytest.mark.parametrize("path", ["/", "/live"])
async def test_only_scripts_and_styles_of_the_page_may_run(tracker: TrackerProcess, path: str) -> None:
    head, _, body = (await exchange(tracker, request(b"GET", path.encode()))).decode().partition("\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.lower().split("\r\n")[1:])
    policy = next(line for line in head.split("\r\n") if line.lower().startswith("content-security-policy"))
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    if path == "/":
        for tag in ("style>", "script>"):
            text = body.split(tag)[1] if tag == "style>" else body.split('type="module">')[1]
            digest = hashlib.sha256(text.partition("</")[0].encode()).digest()
            assert f"'sha256-{base64.b64encode(digest).decode()}'" in policy
    attributes = [name for _, some in Outline(body).tags for name in some]
    assert [name for name in attributes if name == "style" or name.startswith("on")] == []


async def test_it_is_one_small_file_with_relative_links(tracker: TrackerProcess) -> None:
    page = (await tracker.get("/"))[1]
    assert len(page) < 15 * 1024
    outline = Outline(page)
    assert {tag for tag, _ in outline.tags}.isdisjoint({"img", "iframe", "object", "embed", "base"})
    assert all("src" not in attributes for _, attributes in outline.tags)
    addresses = [attributes["href"] or "" for _, attributes in outline.tags if "href" in attributes]
    assert {"stats", "stats.json", "metrics"} <= set(addresses)
    assert [address for address in addresses if address.startswith("/")] == []


async def test_it_is_compressed_for_clients_that_accept_gzip(tracker: TrackerProcess) -> None:
    answer = await exchange(tracker, request(b"GET", b"/", b"Accept-Encoding: br, gzip"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-encoding: gzip" in head
    assert b"WebTorrent tracker" in gzip.decompress(body)
    assert len(body) < 8 * 1024


async def test_it_shows_the_peers(tracker: TrackerProcess) -> None:
    async with raw_client(tracker.url) as client:
        await client.announce(peer_id(1), left=0)
        await client.announce(peer_id(2))

        async def shows_them() -> bool:
            return "1 seeding, 1 leeching" in (await tracker.get("/"))[1]

        await eventually(shows_them)
        assert "1 seeding, 1 leeching" in (await tracker.get("/live"))[1]


async def test_invalid_host_headers_are_ignored(tracker: TrackerProcess) -> None:
    for host in (b'"><img src=x>', b"a&b", b"t'", b"http://t", b"t:999999"):
        page = await exchange(tracker, b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        assert b"<code>ws://localhost</code>" in page or page.startswith(b"HTTP/1.1 400")
    assert b"<code>&amp;tr=ws%3A%2F%2Ft</code>" in await exchange(tracker, request(b"GET", b"/"))


async def test_the_public_url_is_escaped(start_tracker: StartTracker) -> None:
    tracker = await start_tracker("--public-url", "wss://t/<b>&amp;")
    page = (await tracker.get("/"))[1]
    assert "<code>wss://t/&lt;b&gt;&amp;amp;</code>" in page
    assert "data-guess" not in page.partition("<script")[0]


async def test_tables_of_extensions(serve: Any) -> None:
    running = await serve({"shows": Shows})
    page = (await get(running.server, "/")).decode()
    outline = Outline(page)
    assert {"t0.example.org", "t2.example.org", "Weather", "Linked trackers"} <= set(outline.texts)
    assert "Broken" not in outline.texts
    assert EVIL in outline.texts
    assert page.count("<script") == 1
    stats = json.loads(await get(running.server, "/stats.json"))
    assert [link["url"] for link in stats["neighbours"]] == ["wss://t0.example.org", "", "wss://t2.example.org"]
    assert stats["broken"] == []
    assert stats["weather"][0]["sky"] == EVIL


async def test_an_extension_that_would_overwrite_the_statistics_is_not_loaded(serve: Any) -> None:
    with pytest.raises(ConfigError, match=r"extensions\.overwrites: .*peersAll is taken"):
        await serve({"overwrites": Overwrites})


@pytest.mark.parametrize(
    ("path", "figures", "renderings"),
    [
        ("/", "numbers", 1),
        ("/live", "numbers", 1),
        ("/stats", "statistics", 2),
        ("/stats.json", "statistics", 2),
        ("/metrics", "metrics", 2),
    ],
)
async def test_requests_at_once_are_rendered_together(
    serve: Any, monkeypatch: pytest.MonkeyPatch, path: str, figures: str, renderings: int
) -> None:
    """The first rendering ends when all requests are there. One other serves those that came after it had begun."""
    server: Server = (await serve({})).server
    are_there = asyncio.Event()
    made = 0
    original = getattr(Whole, figures)

    async def held(whole: Whole, *arguments: Any) -> Any:
        nonlocal made
        made += 1
        await are_there.wait()
        return await original(whole, *arguments)

    monkeypatch.setattr(Whole, figures, held)
    requests = [asyncio.create_task(get(server, path)) for _ in range(60)]
    await eventually(lambda: server.endpoint.pending_connections == len(requests))
    are_there.set()
    assert all(await asyncio.gather(*requests))
    assert 1 <= made <= renderings


async def test_a_hundred_links(serve: Any) -> None:
    running = await serve({"shows": Shows})
    running.extension("shows").links = links(100)
    body = await get(running.server, "/live", b"Accept-Encoding: gzip")
    assert len(body) < 20 * 1024
    assert gzip.decompress(body).count(b"<tr data-key=") == 100


async def test_statistics_elsewhere(serve: Any) -> None:
    server = (await serve({})).server
    whole = Whole(server.hub, server.endpoint, server.registry, Others(), None)
    pages = Pages(server.hub, server.endpoint, "", Tables(), Page(), whole, statistics=False)
    routes = Routes()
    pages.add_page(routes)
    page = (await routes.respond(RequestHead(request(b"GET", b"/")))).decode()
    assert page.startswith("HTTP/1.1 200 ")
    assert 'href="stats' not in page
    assert 'href="metrics"' not in page


async def test_a_favicon_and_rules_for_search_engines(tracker: TrackerProcess) -> None:
    for path, content in (("/favicon.ico", b"<svg"), ("/robots.txt", b"User-agent: *")):
        head, _, body = (await exchange(tracker, request(b"GET", path.encode()))).partition(b"\r\n\r\n")
        assert head.split()[1] == b"200"
        assert body.startswith(content)
