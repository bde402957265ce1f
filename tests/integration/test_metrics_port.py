"""Metrics on a separate port are not on the public one."""

import asyncio
import socket
from pathlib import Path

import pytest

from tests.client import PATIENCE, raw_client
from tests.conftest import StartTracker, TrackerProcess, environment, free_port
from tests.integration.conftest import StartServer
from tests.integration.test_life import assert_one_line, peerservers
from tests.integration.wire import HANDSHAKE
from tests.unit.fakes import peer_id


async def get(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, bytes]:
    """Send an HTTP GET to any port; return the status and the body."""
    return await exchange(port, f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode(), host)


async def exchange(port: int, request: bytes, host: str = "127.0.0.1") -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(request)
    head, _, body = (await asyncio.wait_for(reader.read(), PATIENCE)).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body


@pytest.fixture
async def apart(start_tracker: StartTracker) -> tuple[TrackerProcess, int]:
    """Return a tracker whose metrics have a separate port, and this port."""
    port = free_port()
    return await start_tracker(env=environment("metrics", port=port)), port


@pytest.mark.parametrize("path", ["/metrics", "/stats", "/stats.json"])
async def test_statistics_are_only_on_the_separate_port(apart: tuple[TrackerProcess, int], path: str) -> None:
    tracker, port = apart
    assert (await get(port, path))[0] == 200
    assert (await tracker.get(path))[0] == 404
    assert (await tracker.get(path + "?x"))[0] == 404


async def test_health_is_on_both_and_the_page_on_the_public_one(apart: tuple[TrackerProcess, int]) -> None:
    tracker, port = apart
    for path in ("/health", "/ready"):
        assert (await get(port, path))[0] == 200
        assert (await tracker.get(path))[0] == 200
    assert (await tracker.get("/"))[0] == 200
    assert (await get(port, "/"))[0] == 404


async def test_its_metrics_are_those_of_the_public_port(apart: tuple[TrackerProcess, int]) -> None:
    tracker, port = apart
    async with raw_client(tracker.url) as client:
        await client.announce(peer_id(1))
        body = (await get(port, "/metrics"))[1]
        assert b"\npeerservers_connections 1.0\n" in body
        assert b"\npeerservers_swarms 1.0\n" in body
        assert b"\npeerservers_connections_opened_total 1.0\n" in body


async def test_it_serves_no_peers(apart: tuple[TrackerProcess, int]) -> None:
    tracker, port = apart
    assert (await exchange(port, HANDSHAKE + b"\r\n"))[0] == 404
    assert (await exchange(port, HANDSHAKE.replace(b"GET /", b"GET /metrics") + b"\r\n"))[0] == 200
    async with raw_client(tracker.url) as client:
        await client.announce(peer_id(1))


async def test_clients_of_the_public_port_do_not_lock_out_prometheus(start_tracker: StartTracker) -> None:
    port = free_port()
    limits = environment("limits", exempt=[], connections_per_address=1, max_connections=1)
    tracker = await start_tracker(env=environment("metrics", port=port) | limits)
    async with raw_client(tracker.url):
        for _ in range(5):
            assert (await get(port, "/metrics"))[0] == 200


async def test_an_open_connection_to_it_does_not_delay_the_stop(apart: tuple[TrackerProcess, int]) -> None:
    tracker, port = apart
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await tracker.stop() == 0
    writer.close()


async def test_another_address(start_tracker: StartTracker) -> None:
    port = free_port()
    await start_tracker(env=environment("metrics", port=port, host="127.0.0.2"))
    assert (await get(port, "/metrics", "127.0.0.2"))[0] == 200
    with pytest.raises(ConnectionRefusedError):
        await get(port, "/metrics")


def test_a_taken_port_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = peerservers("serve", "--host", "127.0.0.1", "--port", "0", **environment("metrics", port=port))
        assert_one_line(done, str(port), "in use")


def test_the_public_port_itself_is_one_line() -> None:
    port = free_port()
    done = peerservers("serve", "--host", "127.0.0.1", "--port", str(port), **environment("metrics", port=port))
    assert_one_line(done, "PEERSERVERS_METRICS__PORT: metrics.port: is server.port, too")


@pytest.mark.parametrize(("key", "value"), [("port", "70000"), ("host", ""), ("port", "x")])
def test_mistakes(key: str, value: str, tmp_path: Path) -> None:
    done = peerservers("serve", "--port", "0", "--state-dir", str(tmp_path), **environment("metrics", **{key: value}))
    assert_one_line(done, f"metrics.{key}")


async def test_both_ports_close_at_once(start_server: StartServer) -> None:
    """Within `shutdown_timeout` seconds in all, not one after the other."""
    port = free_port()
    server = await start_server(metrics={"port": port}, server={"shutdown_timeout": 600})
    reader, writer = await asyncio.open_connection(*server.addresses[0])
    writer.write(HANDSHAKE + b"\r\n")
    await reader.readuntil(b"\r\n\r\n")
    # This client never answers the close frame, so the public port waits for it.
    stopping = asyncio.ensure_future(server.stop())
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                other = (await asyncio.open_connection("127.0.0.1", port))[1]
            except ConnectionRefusedError:
                break
            other.close()
            await asyncio.sleep(0)
    assert not stopping.done()
    writer.close()
    await asyncio.wait_for(stopping, PATIENCE)
