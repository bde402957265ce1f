"""Plain HTTP on the port: browsers, probes, Prometheus and load balancers."""

import asyncio
import json
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.client import PATIENCE, offers, raw_client
from tests.conftest import StartTracker, TrackerProcess
from tests.unit.fakes import peer_id


async def exchange(tracker: TrackerProcess, request: bytes, half_close: bool = False) -> bytes:
    """Send a request; return all data until the tracker closes the connection."""
    reader, writer = await asyncio.open_connection(tracker.host, tracker.port)
    writer.write(request)
    if half_close:
        writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), PATIENCE)
    finally:
        writer.close()


def request(method: bytes, path: bytes, *headers: bytes, version: bytes = b"1.1") -> bytes:
    return b"\r\n".join((method + b" " + path + b" HTTP/" + version, b"Host: t", *headers, b"", b""))


@pytest.mark.parametrize("path", ["/", "/stats", "/stats.json", "/metrics", "/health", "/ready"])
async def test_routes(tracker: TrackerProcess, path: str) -> None:
    status, body = await tracker.get(path)
    assert status == 200
    assert body


@pytest.mark.parametrize("path", ["/announce", "/nope", "/stats/", "/..", "//", "/%00"])
async def test_other_paths_are_not_found(tracker: TrackerProcess, path: str) -> None:
    assert (await tracker.get(path))[0] == 404


async def test_the_page_shows_the_url(start_tracker: StartTracker) -> None:
    plain = await start_tracker()
    behind = await exchange(plain, request(b"GET", b"/", b"X-Forwarded-Proto: https", b"Connection: close"))
    assert b"<code>wss://t</code>" in behind
    assert "<code>ws://test</code>" in (await plain.get("/"))[1]
    evil = await exchange(plain, b'GET / HTTP/1.1\r\nHost: <script>"\r\nConnection: close\r\n\r\n')
    assert b"<script>" not in evil
    public = await start_tracker("--public-url", "wss://tracker.example.org")
    assert "<code>wss://tracker.example.org</code>" in (await public.get("/"))[1]


async def test_head_and_http_1_0(tracker: TrackerProcess) -> None:
    head = await exchange(tracker, request(b"HEAD", b"/health", b"Connection: close"))
    assert head.startswith(b"HTTP/1.1 200")
    assert head.endswith(b"\r\n\r\n")
    old = await exchange(tracker, request(b"GET", b"/health", version=b"1.0"))
    assert old.startswith(b"HTTP/1.1 200")
    assert old.endswith(b"200 OK\n")


async def test_a_connection_serves_one_request(tracker: TrackerProcess) -> None:
    """A reverse proxy that reused it would send a client's WebSocket handshake over it."""
    answers = await exchange(tracker, request(b"GET", b"/health") + request(b"GET", b"/health"))
    assert answers.count(b"HTTP/1.1 200") == 1
    assert b"connection: close" in answers.lower()


async def test_a_client_that_closes_its_side_gets_its_response(tracker: TrackerProcess) -> None:
    assert (await exchange(tracker, request(b"GET", b"/health"), half_close=True)).endswith(b"200 OK\n")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(b"POST", b"/", b"Content-Length: 5") + b"hello", b"405"),
        (request(b"OPTIONS", b"/stats.json", b"Connection: close"), b"405"),
        (request(b"GET", b"/health", b"Content-Length: 5") + b"hello", b"200"),
        (b"GET http://t/health HTTP/1.1\r\nHost: t\r\n\r\n", b"200"),
        (b"GET /\r\n\r\n", b"400"),
        (b"GET / HTTP/9\r\n\r\n", b"400"),
        (b"GET / HTTP/2.0\r\nHost: t\r\n\r\n", b"505"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: t\r\nContent-Length: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip\r\n\r\n", b"501"),
        (b"GET / HTTP/1.1\r\nHost: t\r\nX : y\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: t\r\nX: y\r\n z\r\n\r\n", b"400"),
        (b"\r\nGET / HTTP/1.1\r\nHost: t\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n" + b"X: " + b"x" * 20_000 + b"\r\n\r\n", b"431"),
    ],
    ids=[
        "post",
        "options",
        "body",
        "absolute-form",
        "no version",
        "bad version",
        "http 2",
        "no host",
        "bad length",
        "unknown coding",
        "space before the colon",
        "obs-fold",
        "empty line first",
        "too large",
    ],
)
async def test_odd_requests(tracker: TrackerProcess, sent: bytes, status: bytes) -> None:
    answer = await exchange(tracker, sent, half_close=True)
    assert answer.split()[1] == status


async def test_stats_have_bittorrent_trackers_names(tracker: TrackerProcess) -> None:
    async with raw_client(tracker.url) as client:
        await client.announce("-WW0208-aaaaaaaaaaaa", "a" * 20, left=0)
        await client.announce("-WW0208-aaaaaaaaaaaa", "b" * 20, left=5)
        await client.announce("-WW0208-bbbbbbbbbbbb", "a" * 20, left=0)
        await client.announce("-LT2110-cccccccccccc", "a" * 20, left=5)
        await client.announce("random-peer-id-0.123", "a" * 20, left=5)
        stats = await tracker.stats()
        page = (await tracker.get("/stats"))[1]
    assert stats == {
        "torrents": 2,
        "activeTorrents": 2,
        "peersAll": 4,
        "peersSeederOnly": 1,
        "peersLeecherOnly": 2,
        "peersSeederAndLeecher": 1,
        "peersIPv4": 4,
        "peersIPv6": 0,
        "clients": {"WebTorrent": {"2.8": 2}, "libtorrent (Rasterbar)": {"2.1.1": 1}, "unknown": {"-": 1}},
    }
    assert "<h2>Connected Peers: 4</h2>" in page


async def test_stats_as_json_by_the_accept_header(tracker: TrackerProcess) -> None:
    answer = await exchange(tracker, request(b"GET", b"/stats", b"Accept: application/json", b"Connection: close"))
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["peersAll"] == 0


async def test_metrics_count_requests_responses_and_drops(tracker: TrackerProcess) -> None:
    async with raw_client(tracker.url) as a, raw_client(tracker.url) as b:
        await a.announce(peer_id(1))
        await b.announce(peer_id(2), offers=[*offers(3), None], left=0)
        await a.receive()
        await a.socket.send("{")
        await a.receive()
        text = (await tracker.get("/metrics"))[1]
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples: dict[tuple[object, ...], float] = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families.values()
        for sample in family.samples
    }
    expected: dict[tuple[object, ...], float] = {
        ("peerservers_connections",): 2,
        ("peerservers_swarms",): 1,
        ("peerservers_peers", ("role", "seeder")): 1,
        ("peerservers_peers", ("role", "leecher")): 1,
        ("peerservers_requests_total", ("type", "announce")): 2,
        ("peerservers_responses_total", ("type", "reply")): 2,
        ("peerservers_responses_total", ("type", "offer")): 1,
        ("peerservers_responses_total", ("type", "failure")): 1,
        ("peerservers_dropped_total", ("reason", "invalid_offer")): 1,
        ("peerservers_dropped_total", ("reason", "unplaced_offer")): 2,
        ("peerservers_dropped_total", ("reason", "invalid_json")): 1,
        ("peerservers_message_size_bytes_count",): 3,
    }
    assert {key: samples.get(key) for key in expected} == expected
    assert {"peerservers_event_loop_lag_seconds", "process_resident_memory_bytes"} <= set(families)


async def test_metrics_in_the_format_of_the_accept_header(tracker: TrackerProcess) -> None:
    def fetch() -> tuple[str, str]:
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        with urlopen(Request(f"http://{tracker.host}:{tracker.port}/metrics", headers=accept)) as answer:
            return answer.headers["Content-Type"], answer.read().decode()

    content_type, text = await asyncio.to_thread(fetch)
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


async def test_an_ordinary_http_client(tracker: TrackerProcess) -> None:
    def fetch(path: str) -> int:
        try:
            with urlopen(f"http://{tracker.host}:{tracker.port}{path}") as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code

    assert await asyncio.to_thread(fetch, "/health") == 200
    assert await asyncio.to_thread(fetch, "/nope") == 404
