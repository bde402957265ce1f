"""Plain HTTP on the port: browsers, probes, Prometheus and load balancers."""

import asyncio
import gzip
import json
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import bencodepy
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.client import PATIENCE, offers, raw_client
from tests.conftest import SharedTracker, StartTracker, TrackerProcess, environment, free_port
from tests.integration.wire import HANDSHAKE, wire
from tests.unit.fakes import peer_id
from tests.unit.web.test_pages import Outline


@pytest.fixture
async def tracker(shared_tracker: SharedTracker) -> SharedTracker:
    """Return a tracker that the tests of this module share."""
    return shared_tracker


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


@pytest.mark.parametrize("path", ["/swarms/" + "aa" * 20 + ".json", "/nope", "/stats/", "/..", "//", "/%00"])
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


async def websocket_opens(tracker: TrackerProcess, handshake: bytes) -> bool:
    """Return whether a handshake opens a WebSocket that answers a ping."""
    async with wire(tracker, handshake) as client:
        client.frame(9, b"ping")
        return await client.receive() == (10, b"ping")


@pytest.mark.parametrize("path", [b"/", b"/announce", b"/any/path?token=a%20b", b"//", b"/health"])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_websocket_opens_at_any_path(tracker: TrackerProcess, path: bytes, version: bytes) -> None:
    line = b"GET " + path + b" HTTP/" + version
    assert await websocket_opens(tracker, HANDSHAKE.replace(b"GET / HTTP/1.1", line))


async def test_a_websocket_handshake_of_nginx_with_http_1_0(tracker: TrackerProcess) -> None:
    """As nginx forwards it without `proxy_http_version 1.1`, and with the fields of `proxy_set_header`."""
    fields = HANDSHAKE.replace(b"GET / HTTP/1.1", b"GET /announce HTTP/1.0").replace(b"Host: t", b"Host: tracker")
    assert await websocket_opens(tracker, fields.replace(b"Connection: Upgrade", b"Connection: upgrade"))
    answer = await exchange(tracker, fields.replace(b"Connection: Upgrade", b"Connection: close") + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 426 ")


@pytest.mark.parametrize("method", [b"HEAD", b"OPTIONS", b"POST"])
async def test_another_method_with_the_fields_of_a_handshake_is_plain_http(
    tracker: TrackerProcess, method: bytes
) -> None:
    answer = await exchange(tracker, HANDSHAKE.replace(b"GET", method) + b"\r\n")
    assert answer.split()[1] == {b"HEAD": b"200", b"OPTIONS": b"204", b"POST": b"405"}[method]


@pytest.mark.parametrize(
    "sent",
    [
        b"OPTIONS / HTTP/1.0\r\n\r\n",
        b"OPTIONS * HTTP/1.0\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n",
        b"OPTIONS http://t HTTP/1.1\r\nHost: t\r\n\r\n",
        b"OPTIONS /announce HTTP/1.1\r\nHost: t\r\n\r\n",
        b"OPTIONS /stats.json?x HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
async def test_options_succeed(tracker: TrackerProcess, sent: bytes) -> None:
    """The first is the health check of HAProxy's `option httpchk`."""
    answer = await exchange(tracker, sent)
    assert answer.startswith(b"HTTP/1.1 204 ")
    assert b"\r\nallow: GET, HEAD, OPTIONS\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_pages_of_other_sites_may_read_what_is_public(tracker: TrackerProcess) -> None:
    fields = (b"Origin: https://example.org", b"Access-Control-Request-Method: GET")
    more = (b"Access-Control-Request-Headers: x-any",)
    for path in (b"/stats", b"/stats.json"):
        preflight = await exchange(tracker, request(b"OPTIONS", path, *fields, *more))
        assert b"\r\naccess-control-allow-origin: *\r\n" in preflight
        assert b"\r\naccess-control-allow-methods: GET, HEAD\r\n" in preflight
        assert b"\r\naccess-control-allow-headers: *\r\n" in preflight
        for method in (b"GET", b"HEAD", b"POST"):
            assert b"\r\naccess-control-allow-origin: *\r\n" in await exchange(tracker, request(method, path))
    for path in (b"/", b"/metrics", b"/nope", b"*"):
        answers = await exchange(tracker, request(b"OPTIONS", path, *fields))
        if path != b"*":
            answers += await exchange(tracker, request(b"GET", path, *fields))
        assert b"access-control" not in answers.lower()


async def test_a_refused_method_names_the_allowed_ones(tracker: TrackerProcess) -> None:
    for method in (b"POST", b"PUT", b"DELETE", b"PATCH", b"TRACE"):
        answer = await exchange(tracker, request(method, b"/stats.json"))
        assert answer.startswith(b"HTTP/1.1 405 ")
        assert b"\r\nallow: GET, HEAD, OPTIONS\r\n" in answer


@pytest.mark.parametrize("prefix", ["", "/tracker"])
async def test_a_path_prefix(start_tracker: StartTracker, prefix: str) -> None:
    """The proxy removes it from no request; the machine's own health checks may do without."""
    port = free_port()
    env = environment("server", path_prefix="/tracker/") | environment("metrics", port=port)
    tracker = await start_tracker(env=env)
    assert (await tracker.get(prefix + "/health"))[1] == "200 OK\n"
    assert (await tracker.get(prefix + "/nope"))[0] == 404
    for path in (prefix or "/", prefix + "/"):
        page = (await tracker.get(path))[1]
        assert f"<code>ws://test{prefix}</code>" in page
    assert (await tracker.get(prefix + "/live"))[0] == 200
    assert await websocket_opens(tracker, HANDSHAKE.replace(b"GET /", f"GET {prefix}/announce".encode()))
    tracker.port = port
    assert "peerservers_connections " in (await tracker.get(prefix + "/metrics"))[1]
    assert (await tracker.get(prefix + "/stats.json"))[0] == 200


async def test_the_page_links_below_its_prefix(start_tracker: StartTracker) -> None:
    """Links that are relative to `/tracker` would lead to the pages of another site."""
    tracker = await start_tracker(env=environment("server", path_prefix="/tracker", trusted_proxies=["127.0.0.1"]))
    forwarded = (b"X-Forwarded-Prefix: /a", b"X-Forwarded-Proto: https")
    for sent, prefix in (
        (request(b"GET", b"/tracker"), "/tracker"),
        (request(b"GET", b"/", *forwarded), "/a"),
        (request(b"GET", b"/tracker/", *forwarded), "/a/tracker"),
    ):
        page = (await exchange(tracker, sent)).decode().partition("\r\n\r\n")[2]
        assert f"://t{prefix}</code>" in page
        assert f'<html lang="en" data-base="{prefix}/">' in page
        addresses = {attributes.get("href") for _, attributes in Outline(page).tags}
        assert {f"{prefix}/stats", f"{prefix}/stats.json", f"{prefix}/metrics"} <= addresses


async def test_only_trusted_proxies_announce_a_prefix(tracker: TrackerProcess) -> None:
    page = await exchange(tracker, request(b"GET", b"/", b"X-Forwarded-Prefix: /a"))
    assert b"<code>ws://t</code>" in page
    assert b'href="stats"' in page


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
        (request(b"BREW", b"/"), b"501"),
        (request(b"CONNECT", b"t:443"), b"501"),
        (request(b"GET", b"t:443"), b"400"),
        (request(b"GET", b"*"), b"400"),
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
        (b"\r\nGET / HTTP/1.1\r\nHost: t\r\n\r\n", b"200"),
        (b"\r\n" * 1000 + b"GET / HTTP/1.0\r\n\r\n", b"200"),
        (b"\r\n \r\nGET / HTTP/1.0\r\n\r\n", b"400"),
        (b"\r\rGET / HTTP/1.0\r\n\r\n", b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"505"),
        (b"GET / HTTP/1.1\r\n" + b"X: " + b"x" * 20_000 + b"\r\n\r\n", b"431"),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: t\r\n\r\n", b"414"),
        (b"GET /" + b"x" * 8000 + b" HTTP/1.1\r\nHost: t\r\n\r\n", b"404"),
    ],
    ids=[
        "post",
        "unknown method",
        "connect",
        "authority-form",
        "asterisk-form",
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
        "empty lines first",
        "line of a space first",
        "bare CR first",
        "http 2 preface",
        "too large",
        "target too long",
        "long target",
    ],
)
async def test_odd_requests(tracker: TrackerProcess, sent: bytes, status: bytes) -> None:
    answer = await exchange(tracker, sent, half_close=True)
    assert answer.split()[1] == status


async def test_empty_lines_may_come_in_pieces(tracker: TrackerProcess) -> None:
    reader, writer = await asyncio.open_connection(tracker.host, tracker.port)
    for piece in (b"\r", b"\n\r", b"\n", b"\r\nGET /hea", b"lth HTTP/1.0\r", b"\n\r\n"):
        writer.write(piece)
        # The kernel may still join two pieces.
        await asyncio.sleep(0.01)
    assert (await asyncio.wait_for(reader.read(), PATIENCE)).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_stats_have_bittorrent_trackers_names(start_tracker: StartTracker) -> None:
    tracker = await start_tracker()
    async with raw_client(tracker.url) as client:
        await client.announce("-WW0208-aaaaaaaaaaaa", "a" * 20, left=0)
        await client.announce("-WW0208-aaaaaaaaaaaa", "b" * 20, left=5)
        await client.announce("-WW0208-bbbbbbbbbbbb", "a" * 20, left=0)
        await client.announce("-LT2110-cccccccccccc", "a" * 20, left=5)
        await client.announce("random-peer-id-0.123", "a" * 20, left=5)
        stats = await tracker.stats()
        page = (await tracker.get("/stats"))[1]
    assert stats.pop("extensionsOff") == {}
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


async def test_stats_as_json_by_the_accept_header(start_tracker: StartTracker) -> None:
    tracker = await start_tracker()
    answer = await exchange(tracker, request(b"GET", b"/stats", b"Accept: application/json", b"Connection: close"))
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["peersAll"] == 0


async def test_metrics_count_requests_responses_and_drops(start_tracker: StartTracker) -> None:
    tracker = await start_tracker()
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


@pytest.mark.parametrize(
    "path", [b"/announce", b"/scrape", b"/key/announce", b"/?info_hash=%00", b"/x?a&info_hash=%ff"]
)
async def test_announces_over_http_get_a_bencoded_failure(tracker: TrackerProcess, path: bytes) -> None:
    """Clients would try again for ever after a status 404, and after a page."""
    answer = await exchange(tracker, b"GET " + path + b" HTTP/1.0\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"\r\ncontent-type: text/plain\r\n" in head
    assert bencodepy.decode(body)[b"retry in"] == b"never"
    assert await tracker.metric("peerservers_http_requests_total", route="announce", status="200") == 1


async def test_http_requests_are_counted_on_all_ports(start_tracker: StartTracker) -> None:
    port = free_port()
    tracker = await start_tracker(env=environment("metrics", port=port))
    public = tracker.port
    for sent in (
        *(request(b"GET", b"/health"), request(b"HEAD", b"/health"), request(b"POST", b"/health")),
        *(request(b"GET", b"/metrics"), b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/2.0\r\n\r\n"),
        HANDSHAKE.replace(b"Version: 13", b"Version: 12") + b"\r\n",
    ):
        await exchange(tracker, sent)
    assert await websocket_opens(tracker, HANDSHAKE)
    tracker.port = port
    await tracker.get("/health")
    await tracker.get("/metrics")
    text = (await tracker.get("/metrics"))[1]
    tracker.port = public
    counted = {
        (sample.labels["route"], sample.labels["status"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "peerservers_http_requests_total" and sample.value
    }
    assert counted == {
        ("/health", "200"): 3,
        ("/health", "405"): 1,
        ("/metrics", "200"): 1,
        ("other", "404"): 1,
        ("invalid", "400"): 1,
        ("invalid", "505"): 1,
        ("websocket", "400"): 1,
        ("websocket", "101"): 1,
    }


async def test_counts_of_a_swarm(start_tracker: StartTracker) -> None:
    tracker = await start_tracker(env=environment("server", swarm_counts=True))
    info_hash = bytes(range(236, 256)).decode("latin-1")
    name = info_hash.encode("latin-1").hex()
    async with raw_client(tracker.url) as client:
        await client.announce(peer_id(1), info_hash, left=0)
        await client.announce(peer_id(2), info_hash)
        await client.announce(peer_id(3), info_hash)
        for digits in (name, name.upper()):
            answer = await exchange(tracker, request(b"GET", f"/swarms/{digits}.json?x".encode(), b"Origin: null"))
            head, _, body = answer.partition(b"\r\n\r\n")
            assert b"\r\naccess-control-allow-origin: *\r\n" in head
            assert b"\r\ncontent-type: application/json\r\n" in head
            assert json.loads(body) == {
                "infohash": name,
                "seeders": 1,
                "leechers": 2,
                "local": {"seeders": 1, "leechers": 2},
                "remote": {"seeders": 0, "leechers": 0},
            }
        for other in ("00" * 20, name[:-2], name + "00", "", "../stats", name[:-1] + "g", "%00"):
            answer = await exchange(tracker, request(b"GET", f"/swarms/{other}.json".encode()))
            assert answer.startswith(b"HTTP/1.1 404 ")
            assert b"\r\naccess-control-allow-origin: *\r\n" in answer
        assert (await tracker.get(f"/swarms/{name}"))[0] == 404
        await client.announce(peer_id(1), info_hash, event="stopped")
        assert json.loads((await tracker.get(f"/swarms/{name}.json"))[1])["seeders"] == 0


async def test_metrics_are_compressed_for_prometheus(tracker: TrackerProcess) -> None:
    for accept in (b"text/plain", b"application/openmetrics-text; version=1.0.0"):
        fields = (b"Accept: " + accept, b"Accept-Encoding: gzip")
        head, _, body = (await exchange(tracker, request(b"GET", b"/metrics", *fields))).partition(b"\r\n\r\n")
        assert b"\r\ncontent-encoding: gzip\r\n" in head
        assert b"\r\ncontent-type: " + accept.split(b";")[0] in head
        text = gzip.decompress(body)
        assert b"\npeerservers_connections 0.0\n" in text
        assert len(body) < len(text) / 4


@pytest.mark.parametrize("version", [b"", b"x", b"1." + b"9" * 5000, b"\xe9"])
async def test_a_strange_version_in_accept_is_ignored(tracker: TrackerProcess, version: bytes) -> None:
    accept = b"Accept: application/openmetrics-text;version=" + version
    answer = await exchange(tracker, request(b"GET", b"/metrics", accept))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"# EOF\n")


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
