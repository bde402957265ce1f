"""The tracker behind nginx, HAProxy and Caddy, configured as docs/deploy has it; only ports and files differ."""

import asyncio
import json
import os
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser
from websockets.exceptions import InvalidHandshake, InvalidStatus

from tests.client import announce, answer, eventually, offers, raw_client
from tests.conftest import StartTracker, TrackerProcess, environment, free_port
from tests.e2e.browser import Page
from tests.e2e.lt import Torrent
from tests.e2e.proxies import ELSEWHERE, FAR, HERE, KINDS, PASSTHROUGH, PATHS, VARIANTS, Kind, Place, Proxy
from tests.e2e.test_webtorrent import downloaded, leech, seed
from tests.unit.fakes import peer_id

A, B = peer_id(1), peer_id(2)

WAYS = {**KINDS, **VARIANTS}


@asynccontextmanager
async def running(kind: Kind, directory: Path, start_tracker: StartTracker) -> AsyncIterator[Proxy]:
    """Yield a proxy, which is started with its tracker. Stop it in the end; it must have logged no grave error."""
    proxy = Proxy(kind, Place.new(directory), start_tracker)
    try:
        yield proxy
    finally:
        await proxy.stop()
    complaints = re.findall(r".*\[(?:crit|emerg)\].*|.*\[ALERT\].* config.*", (directory / "log").read_text())
    assert complaints == []


@pytest.fixture(params=list(KINDS.values()), ids=list(KINDS))
async def proxy(request: pytest.FixtureRequest, tmp_path: Path, start_tracker: StartTracker) -> AsyncIterator[Proxy]:
    """Return each proxy. The test starts it and its tracker."""
    async with running(request.param, tmp_path, start_tracker) as proxy:
        yield proxy


@pytest.fixture(scope="module", params=list(KINDS.values()), ids=list(KINDS))
async def common(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Proxy]:
    """Start each proxy with a tracker of default settings, for all tests that only use them."""
    started: list[TrackerProcess] = []

    async def start(**options: Any) -> TrackerProcess:
        started.append(await TrackerProcess.start(**options))
        return started[-1]

    try:
        async with running(request.param, tmp_path_factory.mktemp("proxy"), start) as proxy:
            await proxy.start()
            yield proxy
    finally:
        codes = [await tracker.stop() for tracker in started]
    assert codes == [0]
    assert started[0].complaints() == []


async def refusal(client: Any) -> int:
    """Return the HTTP status that refuses a client."""
    with pytest.raises(InvalidStatus) as caught:
        await client.__aenter__()
    status: int = caught.value.response.status_code
    return status


async def test_pages_exchange_a_file(common: Proxy, browser: Browser, site: str) -> None:
    """Two tabs that know only the proxy's wss:// URL."""
    torrent = Torrent("file", os.urandom(300_000), common.url)
    async with AsyncExitStack() as stack:
        pages = []
        for _ in range(2):
            context = await stack.enter_async_context(await browser.new_context(ignore_https_errors=True))
            pages.append(await Page.open(context, f"{site}/webtorrent.html"))
        seeder, leecher = pages
        await seed(seeder, torrent)
        await leech(leecher, torrent)
        assert await downloaded(leecher, torrent) == torrent.content
        assert [page.sockets for page in pages] == [[common.url]] * 2
        assert [page.errors for page in pages] == [[], []]


@pytest.mark.parametrize("common", WAYS.values(), ids=WAYS, indirect=True)
async def test_pages_over_http(common: Proxy) -> None:
    """The tracker's own pages are public, its metrics and statistics are not. Plain HTTP is redirected to TLS."""
    for path in ("/", "/health", "/ready"):
        assert (await common.get(path, ELSEWHERE))[0] == 200
    for path in ("/metrics", "/stats", "/stats.json"):
        assert [(await common.get(path, address))[0] for address in (HERE, ELSEWHERE)] == [200, 403]
    status, answered = await common.get("/x", plain=True)
    assert status in (301, 308)
    assert "location: https://localhost" in answered.lower()


async def test_the_tracker_answers_to_its_address_too(common: Proxy) -> None:
    """A tracker that has found only an address (BEP 5) reads the descriptor without a name or a valid certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(HERE, common.place.port, ssl=context)
    writer.write(f"GET /health HTTP/1.1\r\nHost: {HERE}:{common.place.port}\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert (head.split()[1], body.strip()) == (b"200", b"200 OK")


@pytest.mark.parametrize("proxy", WAYS.values(), ids=WAYS, indirect=True)
async def test_the_tracker_sees_the_address_of_each_client(proxy: Proxy) -> None:
    """Each address may have one connection, also behind a proxy. A client cannot forge its address with a header."""
    tracker = await proxy.start(connections_per_address=1, exempt=[])
    async with proxy.client(ELSEWHERE) as first, proxy.client(FAR) as second:
        assert await refusal(proxy.client(ELSEWHERE)) == 429
        for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded"):
            forged = "for=192.0.2.1" if name == "Forwarded" else "192.0.2.1"
            assert await refusal(proxy.client(ELSEWHERE, **{name: forged})) == 429
        await first.announce(A)
        await second.announce(B, offers=offers(1))
        assert (await first.receive())["peer_id"] == B
        assert await tracker.metric("peerservers_rejected_total", reason="address_connections") == 4


async def test_large_and_slow_messages_pass(common: Proxy) -> None:
    """A message of the size that the tracker accepts passes, also in fragments with pauses between them."""
    async with common.client() as first, common.client() as second:
        await first.announce(A)
        sdp = "v=0\r\n" + "x" * 40_000
        message = announce(B, offers=offers(5, sdp))

        async def pieces() -> AsyncIterator[str]:
            text = json.dumps(message)
            assert len(text) > 200_000
            for start in range(0, len(text), 20_000):
                yield text[start : start + 20_000]
                await asyncio.wait_for(await second.socket.ping(), 10)

        await second.socket.send(pieces())
        assert "interval" in await second.receive()
        offered = await first.receive()
        assert offered["offer"]["sdp"] == sdp
        await first.send(answer(A, B, offered["offer_id"], sdp=sdp))
        assert (await second.receive())["answer"]["sdp"] == sdp


async def test_the_end_is_announced(proxy: Proxy) -> None:
    """Clients get close code 1001 when the tracker stops, and reach it again once it has restarted."""
    tracker = await proxy.start()
    async with proxy.client() as client:
        await client.announce(A)
        assert await tracker.stop() == 0
        assert (await client.closed())[0] == 1001
    assert await refusal(proxy.client()) in (502, 503)
    await proxy.start()

    async def is_back() -> bool:
        try:
            async with proxy.client() as client:
                return "interval" in await client.announce(A)
        except (InvalidHandshake, OSError):
            return False

    await eventually(is_back)


async def test_trackers_link_through_it(
    proxy: Proxy, start_tracker: StartTracker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Another tracker connects to this one at its public URL, as clients do, and trusts its certificate."""

    def federated(**settings: object) -> dict[str, str]:
        state = str(tmp_path_factory.mktemp("state"))
        return {
            **environment("server", state_dir=state),
            **environment("extensions.federation", enabled=True, **settings),
        }

    here = await proxy.start({**federated(), **environment("server", public_url=proxy.url)})
    trust = {"SSL_CERT_FILE": str(proxy.place.pair.authority)}
    there = await start_tracker(env={**federated(peers=[proxy.url]), **trust})
    await there.logged("linked")
    async with proxy.client() as first, raw_client(there.url) as second:
        await first.announce(A)
        await second.announce(B, offers=offers(1))
        offered = await first.receive()
        assert offered["peer_id"] == B
        await first.send(answer(A, B, offered["offer_id"]))
        assert (await second.receive_until(lambda message: "answer" in message))["peer_id"] == A
        assert len((await here.stats())["federation"]) == 1


@pytest.mark.parametrize("proxy", PATHS.values(), ids=PATHS, indirect=True)
async def test_a_path_of_a_site(proxy: Proxy) -> None:
    """Pages, health and WebSockets are under the path, and the metrics are private there, too."""
    await proxy.start(connections_per_address=1, exempt=[])
    for path in ("health", "ready"):
        status, answered = await proxy.get(f"/tracker/{path}", HERE)
        assert (status, answered.partition("\r\n\r\n")[2]) == (200, "200 OK\n")
    assert "/tracker/stats" in (await proxy.get("/tracker/", ELSEWHERE))[1]
    assert (await proxy.get("/tracker/metrics", ELSEWHERE))[0] == 403
    url = f"{proxy.url}tracker/announce"
    options = {"host": HERE, **proxy.place.pair.client()}
    async with (
        raw_client(url, local_addr=(ELSEWHERE, 0), **options) as first,
        raw_client(url, local_addr=(FAR, 0), **options) as second,
    ):
        await first.announce(A)
        await second.announce(B, offers=offers(1))
        assert (await first.receive())["peer_id"] == B
        assert await refusal(raw_client(url, local_addr=(FAR, 0), **options)) == 429


@pytest.mark.parametrize("proxy", PASSTHROUGH.values(), ids=PASSTHROUGH, indirect=True)
async def test_tls_that_passes_through(proxy: Proxy) -> None:
    """Clients see the tracker's certificate, and it sees their addresses; it refuses surplus connections before TLS."""
    tracker = await proxy.start(
        {**proxy.place.pair.env, **environment("metrics", port=(metrics := free_port()))},
        connections_per_address=1,
        exempt=[],
    )

    async def has(metric: str) -> bool:
        reader, writer = await asyncio.open_connection(HERE, metrics)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
        return f"\n{metric}\n" in text

    async with proxy.client(ELSEWHERE) as first, proxy.client(FAR) as second:
        with pytest.raises(ConnectionError):
            await proxy.client(ELSEWHERE).__aenter__()
        assert await has('peerservers_rejected_total{reason="address_connections"} 1.0')
        await first.announce(A)
        await second.announce(B, offers=offers(1))
        offered = await first.receive()
        await first.send(answer(A, B, offered["offer_id"]))
        assert (await second.receive_until(lambda message: "answer" in message))["peer_id"] == A
        # This client has no other connection: an HTTP request is a connection, too.
        assert (await proxy.get("/health", HERE))[0] == 200
        assert await tracker.stop() == 0
        assert (await first.closed())[0] == 1001
    if proxy.kind.program != "haproxy":
        return
    # The tracker also understands the health check of the proxy.
    log = proxy.place.directory / "log"
    await eventually(lambda: "Server tracker/tracker is DOWN" in log.read_text())
    await proxy.start(proxy.place.pair.env)
    await eventually(lambda: "Server tracker/tracker is UP" in log.read_text())
    assert (await proxy.get("/ready"))[0] == 200


@pytest.mark.parametrize("common", [KINDS["nginx"]], ids=["nginx"], indirect=True)
async def test_certbot_can_prove_that_the_name_is_ours(common: Proxy) -> None:
    """The directory of its challenges is served over plain HTTP; all else is redirected to TLS."""
    directory = common.place.directory / ".well-known" / "acme-challenge"
    directory.mkdir(parents=True)
    (directory / "token").write_text("it is ours")
    status, answered = await common.get("/.well-known/acme-challenge/token", plain=True)
    assert (status, answered.partition("\r\n\r\n")[2]) == (200, "it is ours")
