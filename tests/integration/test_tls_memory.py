"""Nothing of a TLS connection that has ended stays in memory, also without the garbage collector."""

import asyncio
import ssl
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.certificates import Pair
from tests.client import HASH, eventually, raw_client
from tests.integration.conftest import StartServer
from tests.integration.objects import alive
from tests.unit.fakes import peer_id
from tracker.access.gate import ConnectionInfo
from tracker.net.pending import PendingConnection
from tracker.net.tls_transport import TlsTransport
from tracker.peers import PeerSocket

KINDS = (ConnectionInfo, PendingConnection, TlsTransport, PeerSocket, ssl.SSLObject)


@pytest.mark.usefixtures("no_collector")
async def test_connections_in_every_state(start_server: StartServer, tmp_path: Path) -> None:
    pair = Pair(tmp_path, "127.0.0.1")
    server = await start_server(tls={"certificate": str(pair.certificate), "key": str(pair.key)})
    host, port = server.addresses[0]
    before = alive(*KINDS)

    def has_accepted(number: int) -> bool:
        return server.endpoint.opened == number

    starts = (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01", b"\x16\x03\x01\x00\x02no", b"GET / HTTP/1.1\r\n\r\n")
    for number, start in enumerate(starts, 1):
        _, writer = await asyncio.open_connection(host, port)
        writer.write(start)
        await eventually(partial(has_accepted, number))
        writer.transport.abort()
        await eventually(lambda: alive(*KINDS) == before)
    with suppress(ssl.SSLError):
        await asyncio.open_connection(host, port, ssl=ssl.create_default_context())
    reader, writer = await asyncio.open_connection(host, port, **pair.client())
    writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    async with raw_client(f"wss://{host}:{port}", **pair.client()) as client:
        await client.announce(peer_id(1), HASH)
        assert alive(*KINDS)["TlsTransport"] > before["TlsTransport"]
    del client, reader, writer
    await eventually(lambda: alive(*KINDS) == before)
