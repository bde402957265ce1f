"""Pending connections: they count from the start to their end, in silence, in TLS, and behind a PROXY header."""

import asyncio
import errno
import os
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.certificates import Pair
from tests.client import PATIENCE, eventually
from tests.integration.conftest import StartServer
from tests.integration.wire import HANDSHAKE, Tunnel, WireClient, connected, in_use, proxy_header, proxy_line
from tracker.access.gate import SocketBudget
from tracker.access.proxy_protocol import SIGNATURE_V2
from tracker.net import listener
from tracker.reasons import CloseReason, RejectReason
from tracker.server import Server

ASK = b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n"
LOCAL = SIGNATURE_V2 + bytes([0x20, 0, 0, 0])
"""The PROXY header of a connection that is the proxy's own."""
UNKNOWN = b"PROXY UNKNOWN\r\n"
"""The same in version 1."""

StartTls = Callable[..., Awaitable[Server]]


@pytest.fixture
def pair(tmp_path: Any) -> Pair:
    return Pair(tmp_path)


@pytest.fixture
async def start(start_server: StartServer, pair: Pair) -> AsyncIterator[StartTls]:
    """Start trackers in this process, with TLS and with limits on loopback. The event loop must report no error."""
    wrong: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()

    async def begin(proxied: bool = False, **sections: dict[str, Any]) -> Server:
        sections["limits"] = {"exempt": [], **sections.get("limits", {})}
        sections["server"] = {"trusted_proxies": ["127.0.0.0/8"] if proxied else []}
        sections.setdefault("tls", {"certificate": str(pair.certificate), "key": str(pair.key)})
        return await start_server(**sections)

    loop.set_exception_handler(lambda _loop, context: wrong.append(context))
    yield begin
    loop.set_exception_handler(None)
    assert wrong == []


async def tunnel(server: Server, pair: Pair) -> Tunnel:
    """Connect to a tracker, without starting the TLS handshake."""
    return Tunnel(await connected(server), pair.client()["ssl"])


def reset(client: WireClient) -> None:
    """Close a connection with a reset, as the system does for a client that is killed."""
    descriptor = client.writer.get_extra_info("socket")
    descriptor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


async def everything(client: WireClient) -> bytes:
    """Return all data until the end of the connection."""
    try:
        return await asyncio.wait_for(client.reader.read(), PATIENCE)
    except ConnectionError:
        return b""


async def test_a_silent_connection_counts(start: StartTls, pair: Pair) -> None:
    server = await start(limits={"connections_per_address": 5})
    silent = [await connected(server) for _ in range(5)]
    await eventually(lambda: in_use(server) == 5)
    refused = await tunnel(server, pair)
    refused.wire.writer.write(refused.hello())
    for client in (refused.wire, await connected(server)):
        assert await everything(client) == b""
    assert in_use(server) == 5
    assert server.endpoint.rejected == {RejectReason.ADDRESS_CONNECTIONS: 2}
    # The end of one connection makes room for another.
    silent[0].writer.transport.abort()
    await eventually(lambda: in_use(server) == 4)
    served = await tunnel(server, pair)
    await served.handshake(ASK)
    assert (await served.read()).startswith(b"HTTP/1.1 200 ")
    assert server.endpoint.closed == {CloseReason.CONNECTION_LOST: 1}


@pytest.mark.parametrize("header", [b"", proxy_line(), proxy_header()], ids=["direct", "version 1", "version 2"])
async def test_connections_that_are_opened_too_fast_are_refused_before_tls(
    start: StartTls, pair: Pair, header: bytes
) -> None:
    """The TLS handshake costs far more than a refusal, so it must not begin."""
    server = await start(proxied=bool(header), limits={"new_connections_per_second": 0.01, "burst": 300})

    async def begin() -> Tunnel:
        client = await tunnel(server, pair)
        client.wire.writer.write(header)
        return client

    served = await begin()
    await served.handshake(ASK)
    assert (await served.read()).startswith(b"HTTP/1.1 200 ")
    # These end before the handshake does.
    for _ in range(2):
        begun = await begin()
        begun.wire.writer.write(begun.hello())
        assert await begun.wire.reader.read(1) == b"\x16"
        begun.wire.writer.transport.abort()
    await eventually(lambda: server.endpoint.pending_connections == 1 and in_use(server) == 1)
    served.wire.writer.close()
    await eventually(lambda: in_use(server) == 0)
    for _ in range(3):
        refused = await begin()
        refused.wire.writer.write(refused.hello())
        assert await everything(refused.wire) == b""
    assert server.endpoint.rejected == {RejectReason.CONNECTION_RATE: 3}
    assert in_use(server) == 0


@pytest.mark.parametrize("tls", [None, {}], ids=["tls", "plain"])
async def test_silent_connections_are_limited_in_number(start: StartTls, tls: dict[str, Any] | None) -> None:
    server = await (start() if tls is None else start(tls=tls))
    server.endpoint.gate.room = SocketBudget(connections=100, others=16)
    silent = [await connected(server) for _ in range(40)]
    answers = await asyncio.gather(*(everything(client) for client in silent[16:]))
    assert {answer.split(b"\r\n")[0] for answer in answers} == {
        b"" if tls is None else b"HTTP/1.1 503 Service Unavailable"
    }
    assert server.endpoint.rejected == {RejectReason.TOO_MANY_CONNECTIONS: 24}
    assert in_use(server) == 16


async def ends_silent(client: Tunnel) -> None:
    client.wire.writer.close()


async def ends_silent_with_a_reset(client: Tunnel) -> None:
    reset(client.wire)


async def ends_half_a_hello(client: Tunnel) -> None:
    client.wire.writer.write(client.hello()[:100])
    client.wire.writer.close()


async def ends_in_the_middle(client: Tunnel) -> None:
    client.wire.writer.write(client.hello())
    await client.wire.reader.readexactly(1)
    client.wire.writer.close()


async def ends_in_the_middle_with_a_reset(client: Tunnel) -> None:
    client.wire.writer.write(client.hello())
    await client.wire.reader.readexactly(1)
    reset(client.wire)


async def ends_after_the_handshake(client: Tunnel) -> None:
    await client.handshake()
    client.wire.writer.close()


async def ends_in_a_head(client: Tunnel) -> None:
    await client.handshake(ASK[:-2])
    reset(client.wire)


async def speaks_http(client: Tunnel) -> None:
    client.wire.writer.write(ASK)
    answered = await everything(client.wire)
    assert answered.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    head, _, body = answered.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}\r\n" in (head + b"\r\n").decode()
    assert re.match(rb"This port speaks TLS: .*\n", body)


async def speaks_garbage(client: Tunnel) -> None:
    client.wire.writer.write(bytes(range(128, 256)) * 100)
    assert await everything(client.wire) == b""


async def speaks_garbage_in_a_record(client: Tunnel) -> None:
    client.wire.writer.write(b"\x16\x03\x01\x00\x40" + bytes(64))
    # The response is a TLS alert.
    assert not (await everything(client.wire)).startswith(b"HTTP")


async def speaks_garbage_in_tls(client: Tunnel) -> None:
    # Some of this arrives after the response.
    await client.handshake(b"\x00" * 100_000)
    assert (await client.read()).startswith(b"HTTP/1.1 400 ")
    client.wire.writer.close()


async def sends_a_proxy_header_in_tls(client: Tunnel) -> None:
    await client.handshake(proxy_header() + ASK)
    assert (await client.read()).startswith(b"HTTP/1.1 400 ")
    client.wire.writer.close()


async def does_not_trust_the_certificate(client: Tunnel) -> None:
    stranger = Tunnel(client.wire, ssl.create_default_context())
    with pytest.raises(ssl.SSLCertVerificationError):
        await stranger.handshake()
    stranger.write(b"")
    await everything(client.wire)


async def stays_silent(client: Tunnel) -> None:
    assert await everything(client.wire) == b""


async def stays_silent_in_the_middle(client: Tunnel) -> None:
    client.wire.writer.write(client.hello())
    assert await everything(client.wire)


async def stays_silent_after_the_handshake(client: Tunnel) -> None:
    with suppress(ConnectionResetError):  # On a busy machine, the time may be up.
        await client.handshake()
        await everything(client.wire)


async def does_not_answer_the_closure_alert(client: Tunnel) -> None:
    """The connection is refused, and its socket is closed at once."""
    await client.handshake(b"\x00\x01\x02")
    await everything(client.wire)


End = Callable[[Tunnel], Awaitable[None]]

ENDS: dict[End, CloseReason] = {
    ends_silent: CloseReason.CONNECTION_LOST,
    ends_silent_with_a_reset: CloseReason.CONNECTION_LOST,
    ends_half_a_hello: CloseReason.CONNECTION_LOST,
    ends_in_the_middle: CloseReason.CONNECTION_LOST,
    ends_in_the_middle_with_a_reset: CloseReason.CONNECTION_LOST,
    ends_after_the_handshake: CloseReason.CONNECTION_LOST,
    ends_in_a_head: CloseReason.CONNECTION_LOST,
    speaks_http: CloseReason.HANDSHAKE_INVALID,
    speaks_garbage: CloseReason.HANDSHAKE_INVALID,
    speaks_garbage_in_a_record: CloseReason.TLS_FAILED,
    speaks_garbage_in_tls: CloseReason.HANDSHAKE_INVALID,
    sends_a_proxy_header_in_tls: CloseReason.HANDSHAKE_INVALID,
    does_not_trust_the_certificate: CloseReason.TLS_FAILED,
    stays_silent: CloseReason.HANDSHAKE_TIMEOUT,
    stays_silent_in_the_middle: CloseReason.HANDSHAKE_TIMEOUT,
    stays_silent_after_the_handshake: CloseReason.HANDSHAKE_TIMEOUT,
    does_not_answer_the_closure_alert: CloseReason.HANDSHAKE_INVALID,
}


@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "proxied"])
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
async def test_each_end_has_a_reason_and_leaves_nothing_behind(
    start: StartTls, pair: Pair, end: End, proxied: bool
) -> None:
    waits = ENDS[end] is CloseReason.HANDSHAKE_TIMEOUT
    server = await start(proxied, connections={"handshake_timeout": 1 if waits else 30})
    # Another connection of the same client stays open: to count the first one off twice would show.
    other = await tunnel(server, pair)
    other.wire.writer.write(proxy_header() if proxied else b"")
    await other.handshake(HANDSHAKE + b"\r\n")
    await eventually(lambda: in_use(server) == 1)
    files = len(os.listdir("/proc/self/fd"))
    client = await tunnel(server, pair)
    client.wire.writer.write(proxy_header() if proxied else b"")
    # On a busy machine, a short time limit may have ended it already.
    await eventually(lambda: in_use(server) == 2 or bool(server.endpoint.closed))
    await end(client)
    await eventually(lambda: in_use(server) == 1)
    assert server.endpoint.closed == {ENDS[end]: 1}
    assert server.endpoint.pending_connections == 0
    client.wire.writer.transport.abort()
    await eventually(lambda: len(os.listdir("/proc/self/fd")) == files)
    assert in_use(server) == 1
    assert server.endpoint.rejected == {}
    other.wire.writer.transport.abort()


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        *(header[:size] for header in (proxy_header(), proxy_line()) for size in (1, 20, len(header) - 1)),
        *(header + more for header in (proxy_header(), proxy_line()) for more in (b"", b"\x16\x03\x01")),
    ],
)
async def test_a_connection_of_a_proxy_without_a_whole_request(start: StartTls, begun: bytes) -> None:
    server = await start(proxied=True, connections={"handshake_timeout": 0.3})
    client = await connected(server, begun)
    assert await everything(client) == b""
    gone = await connected(server, begun)
    gone.writer.close()
    await eventually(lambda: sum(server.endpoint.closed.values()) == 2)
    assert server.endpoint.closed == {CloseReason.HANDSHAKE_TIMEOUT: 1, CloseReason.CONNECTION_LOST: 1}
    assert in_use(server) == 0


@pytest.mark.parametrize("size", [1, 7, 100_000], ids=["in bytes", "in pieces", "at once"])
@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
@pytest.mark.parametrize("header", [proxy_line, proxy_header], ids=["version 1", "version 2"])
async def test_a_proxy_header_comes_before_tls(
    start: StartTls, pair: Pair, size: int, address: str, header: Callable[[str], bytes]
) -> None:
    server = await start(proxied=True, limits={"connections_per_address": 1})
    client = await tunnel(server, pair)
    data = header(address) + client.hello()
    for index in range(0, len(data), size):
        client.wire.writer.write(data[index : index + size])
        await asyncio.sleep(0)
    await client.handshake(ASK[:-2])
    assert server.endpoint.gate.addresses.connections() == {
        address.replace("::7", "::/64") if ":" in address else address: 1
    }
    # Another connection of the same client is closed before the TLS handshake.
    refused = await tunnel(server, pair)
    refused.wire.writer.write(header(address) + refused.hello())
    assert await everything(refused.wire) == b""
    assert server.endpoint.rejected == {RejectReason.ADDRESS_CONNECTIONS: 1}
    client.write(ASK[-2:])
    assert (await client.read()).startswith(b"HTTP/1.1 200 ")
    client.wire.writer.close()
    await eventually(lambda: in_use(server) == 0)
    assert server.endpoint.closed == {}


@pytest.mark.parametrize("header", [b"", LOCAL, UNKNOWN], ids=["none", "of the proxy itself", "unknown"])
async def test_a_proxy_without_a_proxy_header_gives_the_address_in_the_request(
    start: StartTls, pair: Pair, header: bytes
) -> None:
    server = await start(proxied=True, limits={"connections_per_address": 1})
    clients = [await tunnel(server, pair) for _ in range(3)]
    for client, number in zip(clients, (7, 8, 7), strict=True):
        client.wire.writer.write(header)
        await client.handshake(HANDSHAKE + b"X-Forwarded-For: 192.0.2.%d\r\n\r\n" % number)
    assert b" 429 " in await clients[-1].read()
    assert in_use(server) == 2


@pytest.mark.parametrize("second", [proxy_line(), proxy_header()], ids=["version 1", "version 2"])
@pytest.mark.parametrize("first", [LOCAL, UNKNOWN, proxy_line("192.0.2.8"), proxy_header("192.0.2.8")])
async def test_a_second_proxy_header_is_refused(start: StartTls, pair: Pair, first: bytes, second: bytes) -> None:
    server = await start(proxied=True)
    client = await tunnel(server, pair)
    client.wire.writer.write(first + second + client.hello())
    await everything(client.wire)
    await eventually(lambda: server.endpoint.closed == {CloseReason.HANDSHAKE_INVALID: 1})
    assert in_use(server) == 0


@pytest.mark.parametrize("header", [proxy_line(), proxy_header()], ids=["version 1", "version 2"])
async def test_a_proxy_header_of_an_untrusted_client_is_refused_before_tls(
    start: StartTls, pair: Pair, header: bytes
) -> None:
    server = await start()
    client = await tunnel(server, pair)
    client.wire.writer.write(header + client.hello())
    await everything(client.wire)
    await eventually(lambda: server.endpoint.closed == {CloseReason.HANDSHAKE_INVALID: 1})


async def test_a_stop_cuts_pending_connections(start: StartTls, pair: Pair) -> None:
    server = await start(connections={"handshake_timeout": 30})
    clients = [await tunnel(server, pair) for _ in range(3)]
    clients[1].wire.writer.write(clients[1].hello())
    await clients[1].wire.reader.readexactly(1)
    await clients[2].handshake(ASK[:-2])
    await eventually(lambda: in_use(server) == 3)
    await asyncio.wait_for(server.stop(), PATIENCE)
    for client in clients:
        await everything(client.wire)
    await eventually(lambda: in_use(server) == 0)
    assert server.endpoint.closed == {CloseReason.SHUTDOWN: 3}


async def test_without_descriptors_accepting_pauses_and_resumes(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_PAUSE", 0.1)
    server = await start_server()
    real, failures = socket.socket.accept, [errno.ECONNABORTED, errno.EMFILE, errno.ENFILE]

    def failing(listener: socket.socket) -> Any:
        if failures:
            number = failures.pop(0)
            raise OSError(number, os.strerror(number))
        return real(listener)

    monkeypatch.setattr(socket.socket, "accept", failing)
    with capture_logs() as logs:
        client = await connected(server, ASK)
        assert (await everything(client)).startswith(b"HTTP/1.1 200 ")
    assert not failures
    assert [line["event"] for line in logs] == ["accepting_paused"] * 2
