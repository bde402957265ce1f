"""Access: lists of infohashes, origins, limits of all clients and of one address, trusted proxies."""

import asyncio
import json
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.client import HASH, PATIENCE, Json, RawClient, announce, eventually, offers, raw_client
from tests.conftest import Share, StartTracker, TrackerProcess, environment, free_port
from tests.integration.conftest import StartServer
from tests.integration.test_life import assert_one_line, peerservers
from tests.integration.wire import CLIENT, HANDSHAKE, WireClient, connected, in_use, proxy_header, proxy_line
from tests.unit.fakes import peer_id
from tracker.access.proxy_protocol import SIGNATURE_V2
from tracker.config import load
from tracker.net.routes import Request, Response
from tracker.reasons import RejectReason

A, B = peer_id(1), peer_id(2)
OTHER = "o" * 20
HEX = HASH.encode().hex()
LIMITED = environment("limits", exempt=[])
"""Limits hold on loopback too."""
PROXIED = {**LIMITED, **environment("server", trusted_proxies=["127.0.0.0/8"])}
ONE_EACH = environment("limits", connections_per_address=1)

FORWARDED = {"X-Forwarded-For": CLIENT}


async def refused(url: str, **headers: str) -> tuple[int, str | None]:
    """Ask for a WebSocket that is refused; return the status and `Retry-After`."""
    with pytest.raises(InvalidStatus) as caught:
        async with connect(url, additional_headers=headers, compression=None):
            pass
    response = caught.value.response
    return response.status_code, response.headers.get("Retry-After")


async def answer(tracker: TrackerProcess, request: bytes) -> bytes:
    """Send a request; return all data until the tracker closes the connection."""
    reader, writer = await asyncio.open_connection(tracker.host, tracker.port)
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), PATIENCE)
    finally:
        writer.close()


async def until(tracker: TrackerProcess, metric: str, value: float, **labels: str) -> None:
    async def has_value() -> bool:
        return await tracker.metric(metric, **labels) == value

    await eventually(has_value)


async def reloaded(tracker: TrackerProcess) -> dict[str, Any]:
    """Reload a tracker; return the line that it logs."""
    tracker.log.clear()
    tracker.tell(signal.SIGHUP)
    return await tracker.logged("reloaded", "reload_failed")


async def test_a_swarm_that_is_denied_while_it_runs(start_tracker: StartTracker, tmp_path: Path) -> None:
    deny = tmp_path / "deny"
    deny.write_text("# nothing yet\n")
    tracker = await start_tracker(env=environment("access", deny_infohashes=str(deny)))
    async with raw_client(tracker.url) as a, raw_client(tracker.url) as b:
        await a.announce(A)
        await b.announce(B)
        await a.announce(A, OTHER)
        deny.write_text(HEX.upper())
        await reloaded(tracker)
        for client in (a, b):
            told = await client.receive()
            assert told["info_hash"] == HASH
            assert "failure reason" in told
        assert "failure reason" in await a.announce(A)
        assert (await a.announce(A, OTHER))["incomplete"] == 1
        assert await tracker.metric("peerservers_dropped_total", reason="infohash_denied") == 3
        assert await tracker.metric("peerservers_swarms") == 1
        # An invalid list changes nothing.
        deny.write_text("nonsense\n")
        failed = await reloaded(tracker)
        assert failed["event"] == "reload_failed"
        assert f"{deny}, line 1" in failed["error"]
        tracker.log.remove(failed)
        assert "failure reason" in await a.announce(A)
        deny.unlink()
        failed = await reloaded(tracker)
        assert "No such file" in failed["error"]
        tracker.log.clear()
        deny.write_text("")
        await reloaded(tracker)
        assert (await a.announce(A))["incomplete"] == 1
        assert await tracker.metric("peerservers_reloads_total", result="failed") >= 2
        assert await tracker.metric("peerservers_reloads_total", result="done") >= 2
    tracker.log[:] = [line for line in tracker.log if line["event"] != "reload_failed"]


async def test_an_allow_list_and_its_setting_are_reloaded(start_tracker: StartTracker, tmp_path: Path) -> None:
    allow, file = tmp_path / "allow", tmp_path / "peerservers.toml"
    allow.write_text(f"{HEX}  # ours\n")
    file.write_text(f"[access]\nallow_infohashes = {json.dumps(str(allow))}\n")
    tracker = await start_tracker("--config", str(file))
    async with raw_client(tracker.url) as client:
        assert (await client.announce(A))["incomplete"] == 1
        for _ in range(30):
            assert "failure reason" in await client.announce(A, OTHER)
        file.write_text("")
        await reloaded(tracker)
        assert (await client.announce(A, OTHER))["incomplete"] == 1


async def test_origins(start_tracker: StartTracker) -> None:
    env = environment("access", allow_origins=["https://*.example.org"], deny_origins=["https://bad.example.org"])
    tracker = await start_tracker(env=env)
    assert await refused(tracker.url, Origin="https://bad.example.org") == (403, None)
    assert await refused(tracker.url, Origin="https://example.com") == (403, None)
    assert await refused(tracker.url, Origin="null") == (403, None)
    assert await refused(tracker.url, Origin="") == (403, None)
    async with raw_client(tracker.url, origin="https://good.example.org") as client:
        await client.announce(A)
    async with raw_client(tracker.url) as client:
        await client.announce(A)
    assert await tracker.metric("peerservers_rejected_total", reason="origin_denied") == 4
    assert (await tracker.get("/health"))[0] == 200


async def test_the_number_of_websockets_is_limited(start_tracker: StartTracker) -> None:
    tracker = await start_tracker(env=environment("limits", max_connections=2))
    assert await tracker.metric("peerservers_max_connections") == 2
    async with raw_client(tracker.url) as first, raw_client(tracker.url):
        assert await refused(tracker.url) == (503, "60")
        assert (await tracker.get("/health"))[0] == 200
        await first.socket.close()
        await until(tracker, "peerservers_connections", 1)
        async with raw_client(tracker.url) as client:
            await client.announce(A)
    assert await tracker.metric("peerservers_rejected_total", reason="too_many_connections") == 1


async def test_the_number_of_connections_of_one_address_is_limited(start_tracker: StartTracker) -> None:
    tracker = await start_tracker(env=LIMITED | environment("limits", connections_per_address=3) | PROXIED)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(raw_client(tracker.url, additional_headers=FORWARDED)) for _ in range(3)
        ]
        assert await refused(tracker.url, **FORWARDED) == (429, "60")
        async with raw_client(tracker.url, additional_headers={"X-Forwarded-For": "192.0.2.8"}) as other:
            await other.announce(A)
        await clients[0].socket.close()
        await until(tracker, "peerservers_connections", 2)
        await stack.enter_async_context(raw_client(tracker.url, additional_headers=FORWARDED))
        assert await tracker.metric("peerservers_rejected_total", reason="address_connections") == 1


async def test_a_connection_over_the_limit_is_refused_before_its_request(start_tracker: StartTracker) -> None:
    tracker = await start_tracker(env=LIMITED | ONE_EACH)
    async with raw_client(tracker.url) as client:
        await client.announce(A)
        reader, writer = await asyncio.open_connection(tracker.host, tracker.port)
        answer = await asyncio.wait_for(reader.read(), PATIENCE)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"\r\nRetry-After: 60\r\n" in answer

    # Only now can the metrics be read, because that takes a connection too.
    async def is_counted() -> bool:
        try:
            return await tracker.metric("peerservers_rejected_total", reason="address_connections") >= 1
        except (IndexError, ConnectionError):
            return False

    await eventually(is_counted)


async def test_announces_beyond_the_limit_are_served_without_offers(start_tracker: StartTracker) -> None:
    tracker = await start_tracker(env=LIMITED | environment("limits", announces_per_second=0.01, burst=500))
    async with raw_client(tracker.url) as client, raw_client(tracker.url) as again:
        for _ in range(5):
            assert (await client.announce(A))["incomplete"] == 1
        for _ in range(20):
            assert (await client.announce(A, offers=offers(1)))["incomplete"] == 1
        # Another connection of the address has the same allowance.
        assert (await again.announce(B, offers=offers(1)))["incomplete"] == 2
        assert await client.nothing_came()
    assert await tracker.metric("peerservers_dropped_total", reason="too_many_announces") == 21
    assert await tracker.metric("peerservers_dropped_total", reason="too_many_offers") == 21
    assert await tracker.metric("peerservers_connections_closed_total", reason="garbage") == 0


async def test_offers_beyond_the_limit_are_not_relayed(start_tracker: StartTracker) -> None:
    tracker = await start_tracker(env=LIMITED | environment("limits", offers_per_second=0.01, burst=1000))
    async with raw_client(tracker.url) as client, raw_client(tracker.url) as receiver:
        await receiver.announce(B)
        assert (await client.announce(A, offers=offers(10), numwant=10))["incomplete"] == 2
        assert await receiver.receive_until(lambda message: "offer" in message)
        assert (await client.announce(A, offers=offers(1)))["incomplete"] == 2
        assert await receiver.nothing_came()
    assert await tracker.metric("peerservers_dropped_total", reason="too_many_offers") == 3


async def test_a_client_with_ten_thousand_torrents_is_served_at_once_and_again_after_a_reconnect(
    start_tracker: StartTracker,
) -> None:
    tracker = await start_tracker(env=LIMITED)
    hashes = [f"{number:020}" for number in range(10_000)]

    async def announce_all(client: RawClient, offers: list[Json]) -> list[Json]:
        async def send() -> None:
            for info_hash in hashes:
                await client.send(announce(A, info_hash, left=0, offers=offers))

        sending = asyncio.ensure_future(send())
        replies = [await client.receive() for _ in hashes]
        await sending
        return replies

    async with raw_client(tracker.url) as leecher:
        for info_hash in (hashes[100], hashes[-1]):
            await leecher.announce(B, info_hash)
        for _ in range(2):
            async with raw_client(tracker.url) as seeder:
                replies = await announce_all(seeder, offers(1))
                assert [reply["info_hash"] for reply in replies] == hashes
                assert all(60 <= reply["interval"] <= 120 for reply in replies)
                assert await tracker.metric("peerservers_peers", role="seeder") == len(hashes)
                # Its last torrent is found, too.
                await leecher.announce(B, hashes[-1], offers=offers(1))
                assert (await seeder.receive())["peer_id"] == B
            await until(tracker, "peerservers_peers", 0, role="seeder")
    assert await tracker.metric("peerservers_dropped_total", reason="too_many_announces") > 10_000
    assert await tracker.metric("peerservers_connections_closed_total", reason="garbage") == 0


async def test_a_flooding_client_is_delayed_and_another_one_is_not(start_tracker: StartTracker) -> None:
    tracker = await start_tracker(env=PROXIED | environment("limits", announces_per_second=1, burst=1))
    async with (
        raw_client(tracker.url, additional_headers=FORWARDED) as flooder,
        raw_client(tracker.url, additional_headers={"X-Forwarded-For": "198.51.100.9"}) as other,
    ):
        for number in range(60):
            await flooder.send(announce(A, f"{number:020}"))
        assert (await other.announce(B))["incomplete"] == 1
        for number in range(60):
            assert (await flooder.receive())["info_hash"] == f"{number:020}"


async def test_loopback_is_exempt_by_default(start_tracker: StartTracker) -> None:
    tracker = await start_tracker(env=environment("limits", connections_per_address=1, announces_per_second=0.01))
    async with raw_client(tracker.url) as a, raw_client(tracker.url) as b:
        for _ in range(30):
            assert "interval" in await a.announce(A)
            assert "interval" in await b.announce(B)
    assert await tracker.metric("peerservers_addresses") == 0


async def test_limits_are_reloaded(start_tracker: StartTracker, tmp_path: Path) -> None:
    file = tmp_path / "peerservers.toml"
    file.write_text("[server]\ntrusted_proxies = ['127.0.0.1']\n[limits]\nconnections_per_address = 1\n")
    tracker = await start_tracker("--config", str(file))
    async with raw_client(tracker.url, additional_headers=FORWARDED):
        assert (await refused(tracker.url, **FORWARDED))[0] == 429
        file.write_text(file.read_text().replace("= 1", "= 2"))
        await reloaded(tracker)
        async with raw_client(tracker.url, additional_headers=FORWARDED):
            assert (await refused(tracker.url, **FORWARDED))[0] == 429


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": f"198.51.100.9, {CLIENT}"},
        {"X-Forwarded-For": f"{CLIENT}:4711, 127.0.0.2"},
        {"Forwarded": f'for="[2001:db8::1]", for={CLIENT};proto=https'},
        {"Forwarded": f'for=1.1.1.1;x=", for="{CLIENT}:1"'},
    ],
)
async def test_a_trusted_proxy_gives_the_address_of_the_client(
    start_tracker: StartTracker, headers: dict[str, str]
) -> None:
    tracker = await start_tracker(env=PROXIED | ONE_EACH)
    async with raw_client(tracker.url, additional_headers=headers):
        assert (await refused(tracker.url, **FORWARDED))[0] == 429
        async with raw_client(tracker.url, additional_headers={"X-Forwarded-For": "198.51.100.9"}):
            assert await tracker.metric("peerservers_addresses") == 2


@pytest.mark.parametrize("header", [f"X-Forwarded-For: {CLIENT}", f'Forwarded: for="{CLIENT}:4711"'])
async def test_a_page_through_a_proxy_counts_for_the_address_of_the_client(
    start_server: StartServer, header: str
) -> None:
    server = await start_server(
        limits={"exempt": [], "connections_per_address": 1}, server={"trusted_proxies": ["127.0.0.1"]}
    )
    finish = asyncio.Event()

    async def wait_to_finish(_request: Request) -> Response:
        await finish.wait()
        return Response(b"finished")

    server.endpoint.routes.add("/slow", wait_to_finish)

    async def get(path: str, *lines: str) -> WireClient:
        return await connected(server, "\r\n".join((f"GET {path} HTTP/1.1", "Host: t", *lines, "", "")).encode())

    slow = await get("/slow", header)
    await eventually(lambda: server.endpoint.gate.addresses.connections() == {CLIENT: 1})
    over_limit = await get("/health", header)
    head = await asyncio.wait_for(over_limit.reader.readuntil(b"\r\n\r\n"), PATIENCE)
    assert head.startswith(b"HTTP/1.1 429 ")
    assert b"\r\nRetry-After: 60\r\n" in head
    await over_limit.gone()
    for client in (await get("/health", "X-Forwarded-For: 192.0.2.8"), await get("/health")):
        assert await status(client) == 200
        await client.gone()
    assert server.endpoint.rejected == {RejectReason.ADDRESS_CONNECTIONS: 1}
    finish.set()
    assert await status(slow) == 200
    await slow.gone()
    await eventually(lambda: in_use(server) == 0)
    again = await get("/health", header)
    assert await status(again) == 200
    for client in (slow, over_limit, again):
        client.writer.close()


@pytest.mark.parametrize("path", ["/", "/live", "/stats", "/stats.json", "/metrics", "/swarms/x.json"])
async def test_pages_over_the_limit_are_refused(share_tracker: Share, path: str) -> None:
    limits = environment("limits", pages_per_second=0.01, burst=200)
    tracker = await share_tracker(PROXIED | limits | environment("server", swarm_counts=True))
    # Each test has an address of its own.
    client = f"X-Forwarded-For: 198.51.100.{len(path)}"

    async def get(path: str, *lines: str) -> bytes:
        request = "\r\n".join((f"GET {path} HTTP/1.1", "Host: t", *lines, "", ""))
        return await answer(tracker, request.encode())

    status = b"HTTP/1.1 404 " if "swarms" in path else b"HTTP/1.1 200 "
    for _ in range(2):
        assert (await get(path, client)).startswith(status)
    for _ in range(3):
        refused = await get(path, client)
        assert refused.startswith(b"HTTP/1.1 429 ")
        assert b"\r\nRetry-After: 5\r\n" in refused
    # These cost no more than a refusal, and load balancers rely on them.
    for constant in ("/health", "/ready", "/robots.txt", "/favicon.ico"):
        assert (await get(constant, client)).startswith(b"HTTP/1.1 200 ")
    assert (await get("/nope", client)).startswith(b"HTTP/1.1 404 ")
    # Neither other clients nor the proxy's own requests are limited by that, nor are WebSockets.
    assert (await get(path, f"X-Forwarded-For: 192.0.2.{len(path)}")).startswith(status)
    assert await tracker.metric("peerservers_rejected_total", reason="page_rate") == 3
    async with raw_client(tracker.url, additional_headers={"X-Forwarded-For": client.partition(" ")[2]}) as peer:
        await peer.announce(A)


async def test_the_port_of_the_metrics_has_no_limit_of_requests(start_tracker: StartTracker) -> None:
    port = free_port()
    limits = environment("limits", pages_per_second=0.01, new_connections_per_second=0.01, burst=1)
    tracker = await start_tracker(env=LIMITED | limits | environment("metrics", port=port))
    tracker.port = port
    for _ in range(30):
        assert await tracker.metric("peerservers_rejected_total", reason="page_rate") == 0


async def test_connections_that_are_opened_too_fast_are_refused(start_tracker: StartTracker) -> None:
    tracker = await start_tracker(env=PROXIED | environment("limits", new_connections_per_second=0.01, burst=300))
    for _ in range(3):
        async with raw_client(tracker.url, additional_headers=FORWARDED) as client:
            await client.announce(A)
    assert await refused(tracker.url, **FORWARDED) == (429, "5")
    async with raw_client(tracker.url, additional_headers={"X-Forwarded-For": "192.0.2.8"}) as client:
        await client.announce(A)
    assert await tracker.metric("peerservers_rejected_total", reason="connection_rate") == 1


async def test_headers_of_an_untrusted_client_are_ignored(start_tracker: StartTracker) -> None:
    env = LIMITED | environment("limits", connections_per_address=2)
    tracker = await start_tracker(env=env | environment("server", trusted_proxies=["192.0.2.1"]))
    async with (
        raw_client(tracker.url, additional_headers={"X-Forwarded-For": "198.51.100.1"}),
        raw_client(tracker.url, additional_headers={"Forwarded": "for=198.51.100.2"}),
    ):
        reader, writer = await asyncio.open_connection(tracker.host, tracker.port)
        assert (await asyncio.wait_for(reader.read(), PATIENCE)).startswith(b"HTTP/1.1 429 ")
        writer.close()


async def opened(tracker: TrackerProcess, *pieces: bytes) -> WireClient:
    """Connect to a tracker, and write each piece by itself."""
    reader, writer = await asyncio.open_connection(tracker.host, tracker.port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    return WireClient(reader, writer)


async def status(client: WireClient) -> int:
    head = await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), PATIENCE)
    return int(head.split()[1])


@pytest.mark.parametrize("address", [CLIENT, "2001:db8::7"])
@pytest.mark.parametrize("header", [proxy_line, proxy_header], ids=["version 1", "version 2"])
async def test_a_proxy_header_in_one_piece_and_in_bytes(
    start_tracker: StartTracker, header: Callable[[str], bytes], address: str
) -> None:
    tracker = await start_tracker(env=PROXIED | ONE_EACH)
    request = header(address) + HANDSHAKE + b"\r\n"
    first = await opened(tracker, *(request[index : index + 1] for index in range(len(request))))
    assert await status(first) == 101
    first.frame(1, json.dumps(announce(A)).encode())
    assert json.loads((await first.receive())[1])["incomplete"] == 1
    second = await opened(tracker, request)
    assert await status(second) == 429
    await second.gone()
    # Headers of the client behind the PROXY header are ignored.
    third = await opened(tracker, request[: -len(b"\r\n")] + b"X-Forwarded-For: 198.51.100.1\r\n\r\n")
    assert await status(third) == 429
    fourth = await opened(tracker, header("192.0.2.8") + HANDSHAKE + b"\r\n")
    assert await status(fourth) == 101
    # The proxy sends the request a moment after its header. On a socket that is closed by then, it reads no response.
    fifth = await opened(tracker, header(address))
    await until(tracker, "peerservers_rejected_total", 3, reason="address_connections")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(fifth.reader.read(1), 0.2)
    fifth.writer.write(HANDSHAKE + b"\r\n")
    assert await status(fifth) == 429
    await fifth.gone()
    assert await tracker.metric("peerservers_rejected_total", reason="address_connections") == 3
    for client in (first, second, third, fourth, fifth):
        client.writer.transport.abort()
    await until(tracker, "peerservers_connections", 0)


@pytest.mark.parametrize("local", [SIGNATURE_V2 + bytes([0x20, 0, 0, 0]), b"PROXY UNKNOWN\r\n"])
async def test_a_proxys_health_check(share_tracker: Share, local: bytes) -> None:
    tracker = await share_tracker(env=PROXIED)
    client = await opened(tracker, local + b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n")
    assert await status(client) == 200
    await client.gone()
    client.writer.close()


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"PROPFIND", b"PRO"])
@pytest.mark.parametrize("size", [1, 4, 1000])
async def test_a_method_that_begins_like_a_proxy_header(share_tracker: Share, method: bytes, size: int) -> None:
    tracker = await share_tracker(env=PROXIED)
    request = method + b" / HTTP/1.1\r\nHost: t\r\n\r\n"
    client = await opened(tracker, *(request[index : index + size] for index in range(0, len(request), size)))
    assert await status(client) in (405, 501)
    await client.gone()
    client.writer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY TCP4 192.0.2.7 10.0.0.1 1\r\n",
        b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
        b"PROXY / HTTP/1.1\r\nHost: t\r\n\r\n",
        proxy_line() + b"\x00\x01\x02",
        proxy_line() + proxy_header(),
        b"\r\n\r\n\x00\r\nQUIX\n" + bytes(100),
        SIGNATURE_V2 + b"\x11\x11\x00\x0c" + bytes(12),
        SIGNATURE_V2 + b"\x21\x11\x00\x01" + bytes(12),
        SIGNATURE_V2 + b"\x21\x11\xff\xff" + bytes(12),
        proxy_header() + b"\x00\x01\x02",
        proxy_header() + proxy_header(),
        b"\x16\x03\x01\x02\x00" + bytes(200),
        b"\x00",
    ],
    ids=[
        *("line", "long line", "method", "garbage behind a line", "both versions"),
        *("signature", "version", "short", "long", "garbage behind", "two", "tls", "zero"),
    ],
)
async def test_garbage_from_a_trusted_proxy(share_tracker: Share, data: bytes) -> None:
    tracker = await share_tracker(env=PROXIED)
    client = await opened(tracker, data)
    await client.gone()
    client.writer.close()
    await until(tracker, "peerservers_connections_closed_total", 1, reason="handshake_invalid")


@pytest.mark.parametrize("header", [proxy_line(), proxy_header()], ids=["version 1", "version 2"])
async def test_a_proxy_header_of_an_untrusted_client_is_garbage(share_tracker: Share, header: bytes) -> None:
    tracker = await share_tracker()
    client = await opened(tracker, header + HANDSHAKE + b"\r\n")
    await client.gone()
    client.writer.close()
    await until(tracker, "peerservers_connections_closed_total", 1, reason="handshake_invalid")


@pytest.mark.parametrize("shown", [False, True])
async def test_addresses_are_logged_only_if_the_setting_says_so(start_tracker: StartTracker, shown: bool) -> None:
    env = PROXIED | ONE_EACH | environment("access", deny_origins=["*"]) | environment("log", addresses=shown)
    tracker = await start_tracker(env=env)
    assert (await refused(tracker.url, Origin="https://example.org", **FORWARDED))[0] == 403
    async with raw_client(tracker.url, additional_headers=FORWARDED):
        assert (await refused(tracker.url, **FORWARDED))[0] == 429
    assert await tracker.stop() == 0
    reasons = [line["reason"] for line in tracker.log if line["event"] == "rejected"]
    assert reasons == (["origin_denied", "address_connections"] if shown else [])
    assert (CLIENT in json.dumps(tracker.log)) is shown


@pytest.mark.parametrize(
    ("section", "settings", "part"),
    [
        ("access", {"deny_infohashes": "/no/such/list"}, "access.deny_infohashes"),
        ("access", {"allow_infohashes": "~no-such-user/list"}, "access.allow_infohashes"),
        ("limits", {"exempt": ["300.0.0.1"]}, "limits.exempt"),
        ("limits", {"burst": 0}, "limits.burst"),
        ("limits", {"announces_per_second": -1}, "limits.announces_per_second"),
        ("server", {"trusted_proxies": ["proxy.example.org"]}, "server.trusted_proxies"),
    ],
)
def test_invalid_settings_are_named(section: str, settings: dict[str, Any], part: str) -> None:
    assert_one_line(peerservers("serve", "--port", "0", **environment(section, **settings)), part)


UPGRADE = HANDSHAKE + b"\r\n"
ENDS: dict[str, tuple[bytes, bool]] = {
    "nothing": (b"", False),
    "half a head": (b"GET / HTTP/1.1\r\nHost", False),
    "page": (b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n", True),
    "page left": (b"GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n", False),
    "bad page": (b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\n", True),
    "garbage": (b"\x00\x01\x02", True),
    "too large": (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000, True),
    "bad handshake": (UPGRADE.replace(b"Key: A", b"Kay: A"), True),
    "bad version": (UPGRADE.replace(b"Version: 13", b"Version: 7"), False),
    "post": (UPGRADE.replace(b"GET", b"POST"), True),
    "bad head": (b"GET /\r\nUpgrade: websocket\r\n\r\n", True),
    "with a body": (UPGRADE.replace(b"Host: t\r\n", b"Host: t\r\nContent-Length: 50\r\n"), False),
    "chunked": (UPGRADE.replace(b"Host: t\r\n", b"Host: t\r\nTransfer-Encoding: chunked\r\n"), False),
    "refused": (UPGRADE.replace(b"Host: t\r\n", b"Host: t\r\nOrigin: https://bad.test\r\n"), True),
    "websocket": (UPGRADE, False),
    "unmasked": (UPGRADE + b"\x81\x02{}", True),
    "reserved bits": (UPGRADE + b"\xf1\x80\0\0\0\0", False),
    "closed": (UPGRADE + b"\x88\x80\0\0\0\0", True),
}


@pytest.mark.parametrize("behind_proxy", [False, True], ids=["direct", "proxied"])
async def test_every_connection_is_counted_off_at_its_end(start_server: StartServer, behind_proxy: bool) -> None:
    server = await start_server(
        limits={"exempt": [], "connections_per_address": 1000},
        access={"deny_origins": ["https://bad.test"]},
        server={"trusted_proxies": ["127.0.0.1"] if behind_proxy else []},
        connections={"handshake_timeout": 0.5},
    )
    endpoint = server.endpoint
    for data, closes in ENDS.values():
        for prefix in (b"", proxy_header()) if behind_proxy else (b"",):
            if behind_proxy and not prefix:
                data = data.replace(b"Host: t\r\n", f"Host: t\r\nX-Forwarded-For: {CLIENT}\r\n".encode())
            at_once = await connected(server, prefix + data)
            at_once.writer.transport.abort()
            later = await connected(server, prefix + data)
            seen = endpoint.opened
            await eventually(lambda seen=seen: endpoint.opened >= seen)  # type: ignore[misc]
            if closes:
                await later.gone()
            elif data.startswith(UPGRADE):
                assert await later.reader.readuntil(b"\r\n\r\n")
            later.writer.transport.abort()
    # The handshake timeout ends a silent connection.
    silent = await connected(server, proxy_header() if behind_proxy else b"")
    await silent.gone()
    silent.writer.close()
    await eventually(lambda: in_use(server) == 0)
    await eventually(lambda: not (endpoint.websockets or endpoint.pending_connections))
    endpoint.gate.addresses.check_invariants()


async def test_no_connection_counts_after_draining(start_server: StartServer) -> None:
    server = await start_server(limits={"exempt": []}, server={"shutdown_timeout": 1})
    clients = [await connected(server, data) for data, _ in ENDS.values() for _ in range(3)]
    await eventually(lambda: server.endpoint.opened == len(clients))
    await server.stop()
    await eventually(lambda: in_use(server) == 0)
    for client in clients:
        client.writer.transport.abort()


async def test_refused_connections_use_up_nothing(start_server: StartServer) -> None:
    server = await start_server(limits={"exempt": [], "connections_per_address": 2})
    async with raw_client(f"ws://127.0.0.1:{server.addresses[0][1]}/") as a:
        second = await connected(server)
        await eventually(lambda: in_use(server) == 2)
        for _ in range(100):
            client = await connected(server, UPGRADE)
            await client.gone()
            client.writer.close()
        assert in_use(server) == 2
        assert (await RawClient(a.socket).announce(A))["incomplete"] == 1
        second.writer.close()
        await eventually(lambda: in_use(server) == 1)


async def test_reading_files_again_does_not_restore_older_settings(start_server: StartServer, tmp_path: Path) -> None:
    """A list changes while a reload reads other settings."""
    deny = tmp_path / "deny"
    deny.write_text("")
    server = await start_server(access={"deny_infohashes": str(deny)}, limits={"connections_per_address": 7})
    fresh = load(
        None, {"access": {"deny_infohashes": str(deny)}, "limits": {"connections_per_address": 8, "exempt": []}}
    )
    deny.write_text(HEX)
    await asyncio.gather(server.reload(fresh), server.reload())
    assert server.settings is fresh
    async with raw_client(f"ws://127.0.0.1:{server.addresses[0][1]}/") as client:
        assert "failure reason" in await client.announce("a" * 20)
