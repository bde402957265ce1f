"""No request, however strange, gets the status 500 or leaves a trace in the log."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from extensions.dht.extension import Dht
from extensions.federation.extension import Federation
from tests.client import PATIENCE
from tracker.config import load
from tracker.server import Server

HASH = "aa" * 20

QUIET_DHT = {"listen": "127.0.0.1:0", "bootstrap": [], "private": True}

METHODS = ["GET"] * 12 + ["HEAD", "OPTIONS", "POST", "CONNECT", "TRACE", "BREW"]

PATHS = [
    *("/", "/live", "/stats", "/stats.json", "/metrics", "/health", "/ready", "/announce", "/scrape", "/nope"),
    *(f"/swarms/{HASH}.json", "/swarms/", "/swarms/x.json", "/.well-known/peerservers", "*", "t:443", "http://t/stats"),
    *("/p", "/p/", "/p/stats.json", "/p/p/", "//", "/%00", "/?info_hash=%ff", "/stats?info_hash=", "/\\"),
]

VALUES = {
    "Host": ["t", "[::1]:1", "", "t:99999999999", "%41", "[", "t\xe9"],
    "Accept": [
        "application/json",
        "application/openmetrics-text;version=",
        "*/*",
        ";;,,q=",
        "text/plain;version=x;q=9",
    ],
    "Accept-Encoding": ["gzip", "gzip;q=0", "gzip;q=\xb2", ",;q", "GZIP;q=0.0001"],
    "X-Forwarded-For": ["192.0.2.7", "1, 2", "[::1", "::%1", "1.2.3.4:5:6", '"', "\xb2.1.1.1", "999.1.1.1", ",,,"],
    "Forwarded": ['for="[::1]:1"', "for=", 'for="', 'for="\\', "for=_x;for=1", ";;;,,,", "FOR = 1.2.3.4"],
    "X-Forwarded-Proto": ["https", "HTTPS,http", ",", "\xe9", "javascript"],
    "X-Forwarded-Prefix": ["/a", "//a", "/,/", "/%zz", "https://t", "/\xe9"],
    "X-Real-IP": ["192.0.2.7", "x", ""],
    "Origin": ["https://example.org", "null", "http://[", "http://[::1]", "\xdf\xb5", "*", "https://bad.example.org"],
    "Upgrade": ["websocket", "WebSocket", "h2c, websocket", "websocket/13", ",", ""],
    "Connection": ["Upgrade", "keep-alive, Upgrade", "close", ",,", "\xe9"],
    "Sec-WebSocket-Key": ["AAAAAAAAAAAAAAAAAAAAAA==", "AAAA", "=", "\xe9" * 24, "A" * 25, "AAAAAAAAAAAAAAAAAAAAAB=="],
    "Sec-WebSocket-Version": ["13", "8", "\xb9\xb3", "13, 8", ""],
    "Sec-WebSocket-Protocol": ["x", "peerservers.federation.1", ", ,", "\xe9", "a b", "x" * 2000],
    "Sec-WebSocket-Extensions": ["permessage-deflate", "permessage-deflate; client_max_window_bits=99", ";;,", '"'],
    "Content-Length": ["0", "5", "\xb2", "5, 5", "9" * 30, "-1"],
    "Transfer-Encoding": ["chunked", "gzip", ", chunked", ""],
    "Access-Control-Request-Method": ["GET", "\xe9"],
    "Expect": ["100-continue", "x"],
    "X": ["\xff" * 500],
}
"""Fields that the tracker reads, and values that parsers may stumble on."""

HANDSHAKE = [
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
]

some_fields = st.lists(
    st.sampled_from(sorted(VALUES)).flatmap(
        lambda name: st.tuples(
            st.just(name),
            st.sampled_from(VALUES[name]) | st.text("\t" + "".join(map(chr, [*range(32, 127), *range(128, 256)]))),
        )
    ),
    max_size=8,
)
fields = st.tuples(st.sampled_from([[], [], HANDSHAKE]), some_fields).map(lambda both: both[0] + both[1])
targets = st.sampled_from(PATHS) | st.text("".join(map(chr, range(33, 127))), min_size=1, max_size=30).map("/".__add__)
queries = st.sampled_from(["", "?", "?x=%00", "?info_hash=" + "%ff" * 20, "?name[]=\\"])


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """Start a tracker that reads all fields: behind a trusted proxy, with access lists, and with all extensions."""
    chosen: dict[str, Any] = {
        "server": {
            "host": "127.0.0.1",
            "port": 0,
            "state_dir": str(tmp_path_factory.mktemp("state")),
            "trusted_proxies": ["127.0.0.1"],
            "path_prefix": "/p",
            "swarm_counts": True,
            "shutdown_timeout": 0.5,
        },
        "access": {"deny_origins": ["https://bad.example.org", "https://*.bad.example.org"]},
        "extensions": {"dht": QUIET_DHT},
    }
    server = Server(load(None, chosen), {"dht": Dht, "federation": Federation})
    await server.start()
    yield server
    await asyncio.wait_for(server.stop(), PATIENCE)


async def status_of(server: Server, data: bytes) -> int:
    """Return the status of the response to a request, after all of it has come."""
    reader, writer = await asyncio.open_connection(*server.addresses[0])
    try:
        writer.write(data)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        status = int(head.split()[1])
        if status != 101:
            await asyncio.wait_for(reader.read(), PATIENCE)
        return status
    finally:
        writer.transport.abort()


@given(st.sampled_from(METHODS), targets, queries, st.sampled_from(["1.1", "1.1", "1.0", "2.0"]), fields)
@example("GET", "/metrics", "", "1.1", [("Accept", "application/openmetrics-text;version=")])
@example("GET", "/metrics", "", "1.1", [("Accept", "application/openmetrics-text;version=1." + "9" * 5000)])
@settings(max_examples=200)
async def test_any_request_has_a_response_and_no_trace(
    server: Server, method: str, target: str, query: str, version: str, fields: list[tuple[str, str]]
) -> None:
    if not any(name == "Host" for name, _ in fields):
        fields = [("Host", "t"), *fields]
    lines = [f"{method} {target}{query} HTTP/{version}", *(f"{name}: {value}" for name, value in fields), "", ""]
    failures: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: failures.append(context))
    try:
        with capture_logs() as log:
            status = await status_of(server, "\r\n".join(lines).encode("latin-1"))
    finally:
        loop.set_exception_handler(None)
    assert status != 500
    assert failures == []
    # The DHT warns that it has no other node.
    assert [
        entry for entry in log if entry["log_level"] not in ("debug", "info", "warning") or "exc_info" in entry
    ] == []
