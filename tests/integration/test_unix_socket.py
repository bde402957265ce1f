"""A Unix-domain socket to listen on: its file, and the connections of proxies over it."""

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier

import pytest
from websockets.exceptions import InvalidStatus

from tests.certificates import Pair
from tests.client import PATIENCE, eventually, offers, raw_client
from tests.conftest import StartTracker, environment
from tests.integration.conftest import StartServer
from tests.integration.test_life import assert_one_line, peerservers
from tests.integration.wire import CLIENT, HANDSHAKE, Tunnel, WireClient, in_use, proxy_header, proxy_line
from tests.unit.fakes import peer_id
from tracker.net.unix import UnixListener
from tracker.reasons import RejectReason

A, B = peer_id(1), peer_id(2)
ASK = b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n"


@pytest.fixture
def path() -> Iterator[Path]:
    """Return the path of a socket. pytest's own directories may have too long paths."""
    with TemporaryDirectory() as directory:
        yield Path(directory) / "socket"


async def connected(path: Path, data: bytes = b"") -> WireClient:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    return WireClient(reader, writer)


async def response(client: WireClient) -> bytes:
    """Return all data until the end of the connection, and close it."""
    data = await asyncio.wait_for(client.reader.read(), PATIENCE)
    client.writer.close()
    return data


def is_healthy(**settings: object) -> bool:
    """Run the health check with settings of the section `server`."""
    env = {**os.environ, **environment("server", **settings)}
    return subprocess.run([sys.executable, "-m", "tracker", "health"], env=env, check=False).returncode == 0


async def test_peers_meet_over_the_socket_and_tcp(start_tracker: StartTracker, path: Path) -> None:
    tracker = await start_tracker("--host", f"unix:{path}")
    await eventually(lambda: [line.get("unix_socket") for line in tracker.log] == [None, str(path), None])
    async with raw_client(tracker.url) as a, raw_client(f"unix:{path}") as b:
        await a.announce(A)
        await b.announce(B, offers=offers(1))
        assert (await a.receive())["peer_id"] == B
        assert await tracker.metric("peerservers_connections") == 2
        tracker.tell(signal.SIGTERM)
        assert (await b.closed())[0] == 1001
    assert await tracker.stop() == 0
    assert os.listdir(path.parent) == []


async def test_the_socket_instead_of_tcp(start_tracker: StartTracker, path: Path) -> None:
    """Pages, metrics, `peerservers check` and the health check of the image work over it."""
    tracker = await start_tracker(host=f"unix:{path}")
    assert [line["event"] for line in tracker.log] == ["listening", "started"]
    for page in ("/", "/ready", "/metrics"):
        assert (await tracker.get(page))[0] == 200
    done = await asyncio.to_thread(peerservers, "check", f"unix:{path}", "--json")
    assert (done.returncode, json.loads(done.stdout)["peers_can_meet"]) == (0, True)
    assert await asyncio.to_thread(is_healthy, host=f"unix:{path}")
    assert await tracker.stop() == 0
    assert not await asyncio.to_thread(is_healthy, host=f"unix:{path}")
    assert peerservers("check", f"unix:{path}").returncode == 1


async def test_the_health_check_over_tcp(start_tracker: StartTracker, tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    tracker = await start_tracker(host="0.0.0.0", env=pair.env)
    env = {**pair.env, **environment("server", port=tracker.port)}
    assert await asyncio.to_thread(is_healthy, port=tracker.port) is False
    os.environ.update(env)
    try:
        assert await asyncio.to_thread(is_healthy, port=tracker.port)
    finally:
        for name in env:
            del os.environ[name]


@pytest.mark.parametrize(("setting", "mode"), [(None, 0o660), ("666", 0o666), ("0600", 0o600)])
async def test_the_mode_of_the_file(start_tracker: StartTracker, path: Path, setting: str | None, mode: int) -> None:
    env = environment("server", unix_socket_mode=setting) if setting else {}
    await start_tracker(host=f"unix:{path}", env=env)
    assert stat.S_IMODE(os.stat(path).st_mode) == mode


async def test_the_file_of_a_killed_tracker_is_replaced(start_tracker: StartTracker, path: Path) -> None:
    killed = await start_tracker(host=f"unix:{path}")
    await killed.stop(signal.SIGKILL)
    assert os.listdir(path.parent) == [path.name]
    tracker = await start_tracker(host=f"unix:{path}")
    assert (await tracker.get("/health"))[0] == 200


async def test_the_socket_of_another_process_is_left_to_it(start_tracker: StartTracker, path: Path) -> None:
    tracker = await start_tracker(host=f"unix:{path}")
    for hosts in ([f"unix:{path}"], [f"unix:{path.parent}/other", f"unix:{path}"]):
        done = await asyncio.to_thread(peerservers, "serve", "--port", "0", *(f"--host={host}" for host in hosts))
        assert_one_line(done, f"unix:{path}: another process listens there")
        assert os.listdir(path.parent) == [path.name]
    assert (await tracker.get("/health"))[0] == 200


def test_a_socket_with_a_full_backlog_is_left_to_its_process(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as client:
        other.bind(str(path))
        other.listen(0)
        client.connect(str(path))
        assert_one_line(peerservers("serve", "--host", f"unix:{path}"), str(path), "another process listens there")
        other.accept()[0].close()


@pytest.mark.parametrize("kind", ["file", "directory", "link", "dangling link"])
def test_other_files_are_kept(path: Path, kind: str) -> None:
    if kind == "directory":
        path.mkdir()
    elif kind == "file":
        path.write_text("important")
    else:
        target = path.with_name("target")
        path.symlink_to(target)
        if kind == "link":
            with socket.socket(socket.AF_UNIX) as stale:
                stale.bind(str(target))
    before = [(entry.name, entry.inode()) for entry in os.scandir(path.parent)]
    assert_one_line(peerservers("serve", "--host", f"unix:{path}"), f"unix:{path}", "not a socket")
    assert [(entry.name, entry.inode()) for entry in os.scandir(path.parent)] == before


@pytest.mark.parametrize(
    ("host", "parts"),
    [
        ("unix:", ["server.host", "absolute path"]),
        ("unix:socket", ["server.host", "absolute path"]),
        ("unix:/tmp/", ["server.host", "absolute path"]),
        ("unix:@name", ["server.host", "absolute path"]),
        ("unix:/tmp/" + "x" * 103, ["server.host", "107 bytes"]),
        ("unix:/tmp/" + "\N{LATIN SMALL LETTER E WITH ACUTE}" * 52, ["server.host", "107 bytes"]),
        ("unix:/no/such/directory/socket", ["unix:/no/such/directory/socket", "No such file or directory"]),
        ("unix:/dev/null/socket", ["unix:/dev/null/socket", "Not a directory"]),
    ],
)
def test_paths_that_cannot_be_used(host: str, parts: list[str]) -> None:
    assert_one_line(peerservers("serve", "--host", host), *parts)


@pytest.mark.parametrize("mode", ["", "66", "0o660", "888", "1777", "rw"])
def test_modes_that_cannot_be_used(mode: str) -> None:
    assert_one_line(peerservers("serve", PEERSERVERS_SERVER__UNIX_SOCKET_MODE=mode), "server.unix_socket_mode")


@pytest.mark.parametrize("name", ["X-Forwarded-For", "forwarded", "X Real IP", "X-Real-IP:", "x" * 101])
def test_header_names_that_cannot_be_used(name: str) -> None:
    done = peerservers("serve", PEERSERVERS_SERVER__CLIENT_ADDRESS_HEADER=name)
    assert_one_line(done, "server.client_address_header")


def test_the_longest_path(path: Path) -> None:
    longest = path.with_name("x" * (107 - len(os.fsencode(path.parent)) - 1))
    listener = UnixListener(str(longest), 0o660, 1)
    assert longest.is_socket()
    listener.close()
    with pytest.raises(OSError, match="too long") as caught:
        UnixListener(f"{longest}x", 0o660, 1)
    assert caught.value.filename == f"{longest}x"
    assert os.listdir(path.parent) == []


def test_a_file_that_replaces_the_socket_is_kept(path: Path) -> None:
    first = UnixListener(str(path), 0o660, 1)
    path.unlink()
    second = UnixListener(str(path), 0o660, 1)
    first.close()
    assert path.is_socket()
    second.close()
    assert not os.path.lexists(path)
    # The file may also be gone already.
    third = UnixListener(str(path), 0o660, 1)
    path.unlink()
    third.close()


def test_only_one_of_many_replaces_a_stale_file(path: Path) -> None:
    together = Barrier(8)

    def listen() -> UnixListener | None:
        together.wait(PATIENCE)
        try:
            return UnixListener(str(path), 0o660, 100)
        except OSError:
            return None

    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as stale:
                stale.bind(str(path))
            listeners = [future.result(PATIENCE) for future in [pool.submit(listen) for _ in range(8)]]
            (only,) = filter(None, listeners)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
            only.close()
            assert not os.path.lexists(path)


def test_a_lock_of_another_process_prevents_nothing(path: Path) -> None:
    program = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program, path.parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout
        holder.stdout.readline()
        listener = UnixListener(str(path), 0o660, 1)
        assert path.is_socket()
        listener.close()
        holder.kill()


@pytest.mark.parametrize("header", [proxy_line(), proxy_header()], ids=["version 1", "version 2"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_proxy_header_over_the_socket(
    start_server: StartServer, path: Path, tmp_path: Path, header: bytes, tls: bool
) -> None:
    pair = Pair(tmp_path)
    server = await start_server(
        server={"host": f"unix:{path}"},
        limits={"exempt": [], "connections_per_address": 1},
        tls={"certificate": str(pair.certificate), "key": str(pair.key)} if tls else {},
    )
    assert server.addresses == []

    async def ask(header: bytes, data: bytes) -> tuple[WireClient, Tunnel]:
        client = await connected(path, header)
        tunnel = Tunnel(client, pair.client()["ssl"])
        if tls:
            await tunnel.handshake(data)
        else:
            client.writer.write(data)
        return client, tunnel

    first, _ = await ask(header, HANDSHAKE + b"\r\n")
    await eventually(lambda: server.endpoint.gate.addresses.connections() == {CLIENT: 1})
    await eventually(lambda: len(server.endpoint.websockets) == 1)
    if tls:
        with pytest.raises(ConnectionError):
            await ask(header, ASK)
    else:
        assert (await response((await ask(header, ASK))[0])).startswith(b"HTTP/1.1 429 ")
    other, tunnel = await ask(proxy_line("192.0.2.8"), ASK)
    assert (await tunnel.read() if tls else await response(other)).startswith(b"HTTP/1.1 200 ")
    assert server.endpoint.rejected == {RejectReason.ADDRESS_CONNECTIONS: 1}
    for client in (first, other):
        client.writer.transport.abort()


async def test_headers_over_the_socket(start_server: StartServer, path: Path) -> None:
    """Its peers are trusted proxies. Without an address they have no limits, as health checks need none."""
    server = await start_server(
        server={"host": f"unix:{path}", "client_address_header": "X-Real-IP"},
        limits={"exempt": [], "connections_per_address": 1},
    )
    own = [await connected(path, HANDSHAKE + b"\r\n") for _ in range(3)]
    await eventually(lambda: len(server.endpoint.websockets) == 3)
    assert in_use(server) == 0
    named = await connected(path, HANDSHAKE + b"X-Real-IP: 192.0.2.7\r\n\r\n")
    await eventually(lambda: server.endpoint.gate.addresses.connections() == {CLIENT: 1})
    assert (await response(await connected(path, ASK[:-2] + b"X-Real-IP: 192.0.2.7\r\n\r\n")))[9:12] == b"429"
    twice = b"X-Real-IP: 192.0.2.8\r\nx-real-ip: 192.0.2.9\r\n\r\n"
    assert (await response(await connected(path, ASK[:-2] + twice)))[9:12] == b"400"
    assert server.endpoint.rejected == {RejectReason.ADDRESS_CONNECTIONS: 1, RejectReason.CLIENT_ADDRESS: 1}
    for client in (*own, named):
        client.writer.transport.abort()
    await eventually(lambda: in_use(server) == 0)


async def test_the_named_header_of_a_proxy_over_tcp(start_tracker: StartTracker, tmp_path: Path) -> None:
    """The setting takes effect on a reload."""
    file = tmp_path / "peerservers.toml"
    file.write_text(
        '[server]\ntrusted_proxies = ["127.0.0.1"]\nclient_address_header = "CF-Connecting-IP"\n'
        "[limits]\nexempt = []\nconnections_per_address = 1\n"
    )
    tracker = await start_tracker("--config", str(file))

    async def refusal(**headers: str) -> int:
        with pytest.raises(InvalidStatus) as caught:
            await raw_client(tracker.url, additional_headers=headers).__aenter__()
        status: int = caught.value.response.status_code
        return status

    client = {"CF-Connecting-IP": CLIENT}
    async with raw_client(tracker.url, additional_headers=client):
        assert await refusal(**client) == 429
        assert await refusal(**client, **{"X-Forwarded-For": "198.51.100.9"}) == 429
        assert await refusal(**{"CF-Connecting-IP": "198.51.100.9, 192.0.2.7"}) == 400
        assert await tracker.metric("peerservers_rejected_total", reason="client_address") == 1
        file.write_text(file.read_text().replace("CF-Connecting-IP", "X-Real-IP"))
        tracker.log.clear()
        tracker.tell(signal.SIGHUP)
        await tracker.logged("reloaded")
        assert [line["event"] for line in tracker.log] == ["reloaded"]
        assert await refusal(**{"CF-Connecting-IP": "198.51.100.9", "X-Real-IP": CLIENT}) == 429
