"""Nodes over real NATS servers that end, hang, refuse, and carry the messages of other programs."""

import asyncio
import logging
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import nats
import nkeys
import pytest

from extensions.cluster.nats import Nats
from extensions.cluster.nats_connection import MAX_BUFFERED
from extensions.cluster.nats_options import NatsOptions, NatsSettings
from extensions.cluster.transport import MAX_PAYLOAD
from extensions.cluster.troubles import Trouble
from tests.certificates import Pair
from tests.client import PATIENCE, eventually
from tests.conftest import free_port
from tests.integration.nodes import RecordingNode
from tests.nats_accounts import Operator, new_seed
from tests.nats_server import NatsServers
from tracker.extension import ConfigError

A, B = "a" * 16, "b" * 16
NAME = "test"
SECRET = "not/for:the@log"


class Log:
    """Keeps the lines of a log."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append({"event": event, **fields})

    warning = info

    def exception(self, event: str, **fields: Any) -> None:
        raise AssertionError(event)

    def of(self, event: str) -> list[dict[str, Any]]:
        """Return the lines with an event."""
        return [line for line in self.lines if line["event"] == event]


class NatsNode(RecordingNode):
    """A node with a transport over NATS."""

    def __init__(self, node_id: str, servers: list[str], name: str = NAME, **settings: Any) -> None:
        self.log = Log()
        self.nats = Nats(NatsOptions(NatsSettings(servers=servers, **settings)), name, self.log)
        super().__init__(node_id, self.nats)

    async def is_connected(self, works: bool = True) -> None:
        """Wait until the transport works, or does not."""
        await self.until(lambda: self.connected[-1:] == [works])

    async def reaches(self, other: "NatsNode", payload: bytes = b"hello") -> None:
        """Wait until messages reach another node; forget those that it has received."""
        async with asyncio.timeout(PATIENCE):
            while payload not in other.received:
                self.nats.send(other.node_id, payload)
                await asyncio.sleep(0.01)
        other.received.clear()

    def complaints(self) -> list[tuple[str, str]]:
        """Return reason and text of the lines that tell of trouble."""
        return [(line["reason"], line["error"]) for line in self.log.of("nats_unavailable")]


@asynccontextmanager
async def serving(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """Serve a TCP port. Yield host and port."""
    port = free_port()
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.close()


StartNode = Callable[..., Awaitable[NatsNode]]


@pytest.fixture
async def servers() -> AsyncIterator[NatsServers]:
    async with NatsServers() as servers:
        yield servers


@pytest.fixture
async def start(caplog: pytest.LogCaptureFixture) -> AsyncIterator[StartNode]:
    """Start nodes. At the end, no library may have logged an error, and no task may be left."""
    started: list[NatsNode] = []
    others = asyncio.all_tasks()

    async def start_node(node_id: str, *servers: str, **options: Any) -> NatsNode:
        started.append(NatsNode(node_id, list(servers), **options))
        await started[-1].start()
        return started[-1]

    yield start_node
    await asyncio.gather(*(node.nats.stop() for node in started))
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
    # Those of the tests' own servers end when they see that the connection is closed.
    with suppress(TimeoutError):
        await eventually(lambda: asyncio.all_tasks() <= {*others, asyncio.current_task()})
    assert asyncio.all_tasks() - {*others, asyncio.current_task()} == set()
    for node in started:
        assert SECRET not in repr(node.log.lines)


async def test_nodes_send_and_broadcast(servers: NatsServers, start: StartNode) -> None:
    server = await servers.start()
    a, b = await start(A, server.url), await start(B, server.url)
    other = await start(A, server.url, name="other")
    for node in (a, b, other):
        await node.is_connected()
    assert a.nats.send(B, b"one")
    assert a.nats.send(B, b"two")
    a.nats.broadcast(b"to all")
    b.nats.broadcast(b"from b")
    await b.until(lambda: b.received == [b"one", b"two", b"to all"])
    await a.has(b"from b")
    # It cannot be known whether a node is there.
    assert a.nats.send("c" * 16, b"lost")
    assert [*other.received, *a.lost] == []
    await eventually(lambda: a.nats.round_trip > 0)
    await b.nats.stop()
    assert not b.nats.send(A, b"too late")
    assert b.connected == [True]


async def test_a_stop_sends_buffered_messages(servers: NatsServers, start: StartNode) -> None:
    server = await servers.start()
    a, b = await start(A, server.url), await start(B, server.url)
    await a.is_connected()
    await b.is_connected()
    messages = [bytes([number]) * MAX_PAYLOAD for number in range(3)]
    assert all(a.nats.send(B, message) for message in messages)
    assert a.nats.pending(B) > 2 * MAX_PAYLOAD
    await a.nats.stop()
    await b.has(*messages)


async def test_nats_comes_later_than_the_nodes(servers: NatsServers, start: StartNode) -> None:
    server = servers.make()
    a, b = await start(A, server.url), await start(B, server.url)
    await eventually(lambda: a.nats.troubles[Trouble.UNREACHABLE] > 2)
    assert not a.nats.send(B, b"not sent")
    a.nats.broadcast(b"not sent")
    assert a.nats.pending(B) == MAX_BUFFERED
    assert a.connected == []
    await server.start()
    await a.is_connected()
    await b.is_connected()
    await a.reaches(b)
    # The log tells once.
    assert a.complaints() == [("unreachable", "connection refused")]
    assert len(a.log.of("nats_connected")) == 1


async def test_a_server_is_killed_and_started_again(servers: NatsServers, start: StartNode) -> None:
    server = await servers.start()
    a, b = await start(A, server.url), await start(B, server.url)
    await a.is_connected()
    await b.is_connected()
    await server.stop(signal.SIGKILL)
    await a.is_connected(False)
    await b.is_connected(False)
    assert not a.nats.send(B, b"not kept")
    await server.start()
    await a.is_connected()
    await b.is_connected()
    await a.reaches(b)
    await b.reaches(a)
    assert b"not kept" not in b.received
    assert a.connected == [True, False, True]
    assert a.nats.troubles[Trouble.LOST] == 1


async def test_a_server_is_stopped_and_continued(servers: NatsServers, start: StartNode) -> None:
    """A server that does not read is noticed by its missing pong, though all buffers are full."""
    server = await servers.start()
    a, b = await start(A, server.url), await start(B, server.url)
    await a.is_connected()
    await b.is_connected()
    server.tell(signal.SIGSTOP)
    payload, sent = bytes(MAX_PAYLOAD // 2), 0
    while a.nats.send(B, payload):
        sent += 1
        assert sent < 100
        await asyncio.sleep(0)
    assert MAX_PAYLOAD < a.nats.pending(B) <= 4 * MAX_PAYLOAD
    a.nats.broadcast(payload)
    assert a.nats.troubles[Trouble.BUFFER_FULL] == 1
    await a.is_connected(False)
    await b.is_connected(False)
    assert a.nats.pending(B) == MAX_BUFFERED
    server.tell(signal.SIGCONT)
    await a.is_connected()
    await b.is_connected()
    await a.reaches(b)
    assert a.complaints()[0] == ("stuck", "no answer to a ping")


async def test_a_node_stops_while_the_server_hangs(servers: NatsServers, start: StartNode) -> None:
    server = await servers.start()
    a = await start(A, server.url)
    await a.is_connected()
    server.tell(signal.SIGSTOP)
    for _ in range(100):
        a.nats.send(B, bytes(MAX_PAYLOAD // 2))
        await asyncio.sleep(0)
    await asyncio.wait_for(a.nats.stop(), PATIENCE)


async def test_one_of_three_servers_is_killed(servers: NatsServers, start: StartNode) -> None:
    """The nodes know one server each. They go to the others, which that one has named."""
    cluster = [servers.make(cluster=[])]
    cluster += [servers.make(cluster=cluster[:1]) for _ in range(2)]
    cluster[0].config["cluster"] = {"name": "test", "host": "127.0.0.1", "port": cluster[0].route}
    for server in cluster:
        await server.start()
    a, b = await start(A, cluster[0].url), await start(B, cluster[1].url)
    await a.is_connected()
    await b.is_connected()
    await a.reaches(b)
    await b.reaches(a)
    # Servers name others when these have joined, which may be after the connection was made.
    await eventually(lambda: a.nats.servers_named >= 2)
    await cluster[0].stop(signal.SIGKILL)
    await a.until(lambda: a.connected == [True, False, True])
    await a.reaches(b)
    await b.reaches(a)
    assert b.connected == [True]
    assert a.log.of("nats_connected")[-1]["server"] != f"127.0.0.1:{cluster[0].port}"


async def test_a_server_in_lame_duck_mode_is_left_in_time(servers: NatsServers, start: StartNode) -> None:
    first = servers.make(cluster=[])
    first.config["cluster"] = {"name": "test", "host": "127.0.0.1", "port": first.route}
    second = servers.make(cluster=[first])
    await first.start()
    a = await start(A, first.url)
    await a.is_connected()
    # The first server tells of the second one, which joins later.
    await second.start()
    b = await start(B, second.url)
    await a.reaches(b)
    await b.reaches(a)
    first.tell(signal.SIGUSR2)
    await eventually(lambda: len(a.log.of("nats_connected")) == 2)
    await a.reaches(b)
    await b.reaches(a)
    assert a.connected == [True]
    assert a.nats.troubles == {}


async def test_a_server_in_lame_duck_mode_is_kept_if_it_is_the_only_one(servers: NatsServers, start: StartNode) -> None:
    server = await servers.start()
    a, b = await start(A, server.url), await start(B, server.url)
    await a.is_connected()
    await b.is_connected()
    server.tell(signal.SIGUSR2)
    await eventually(lambda: "lame duck" in server.log.lower())
    await a.reaches(b)
    await server.stop()
    await a.is_connected(False)
    await server.start()
    await a.is_connected()
    await b.is_connected()
    await a.reaches(b)


@pytest.mark.parametrize("kind", ["password", "password in url", "token", "token in url", "nkey", "credentials"])
async def test_credentials(servers: NatsServers, start: StartNode, tmp_path: Path, kind: str) -> None:
    """The right ones are accepted; wrong ones refused with one line; and the right ones tried again work later."""
    quoted = SECRET.replace("/", "%2F").replace(":", "%3A").replace("@", "%40")
    server = servers.make()
    url, right, wrong = server.url, {}, {}
    wrong_url = url
    file = tmp_path / "file"
    match kind:
        case "password":
            server.config["authorization"] = {"user": "me", "password": SECRET}
            right, wrong = {"user": "me", "password": SECRET}, {"user": "me", "password": f"{SECRET}x"}
        case "password in url":
            server.config["authorization"] = {"user": "me", "password": SECRET}
            url, wrong_url = (url.replace("//", f"//me:{quoted}{more}@") for more in ("", "x"))
        case "token":
            server.config["authorization"] = {"token": SECRET}
            right, wrong = {"token": SECRET}, {"token": f"{SECRET}x"}
        case "token in url":
            server.config["authorization"] = {"token": SECRET}
            url, wrong_url = (url.replace("//", f"//{quoted}{more}@") for more in ("", "x"))
        case "nkey":
            seed = new_seed(nkeys.PREFIX_BYTE_USER)
            server.config["authorization"] = {"users": [{"nkey": nkeys.from_seed(seed).public_key.decode()}]}
            file.write_bytes(seed + b"\n")
            (tmp_path / "wrong").write_bytes(new_seed(nkeys.PREFIX_BYTE_USER))
            right, wrong = {"nkey_file": str(file)}, {"nkey_file": str(tmp_path / "wrong")}
        case "credentials":
            operator = Operator()
            server.config |= operator.server_config()
            file.write_text(operator.credentials())
            (tmp_path / "wrong").write_text(Operator().credentials())
            right, wrong = {"credentials_file": str(file)}, {"credentials_file": str(tmp_path / "wrong")}
    await server.start()
    a, b = await start(A, url, **right), await start(B, wrong_url, **wrong)
    await a.is_connected()
    await eventually(lambda: b.nats.troubles[Trouble.REFUSED] > 1)
    assert b.complaints() == [("refused", "Authorization Violation")]
    assert b.connected == []
    assert not b.nats.send(A, b"not sent")
    if "file" in repr(wrong):
        # The file is read again for each attempt.
        (tmp_path / "wrong").write_bytes(file.read_bytes())
    else:
        server.config["authorization"] = {**server.config["authorization"]}
        for key in ("password", "token"):
            if key in server.config["authorization"]:
                server.config["authorization"][key] = f"{SECRET}x"
        server.reload()
    await b.is_connected()
    if "file" in repr(wrong):
        await b.reaches(a)
    else:
        # The server has also ended the connection whose password is no longer valid.
        await a.is_connected(False)
        await eventually(lambda: a.nats.troubles[Trouble.REFUSED] > 0)


@pytest.mark.parametrize("denied", ["publish", "subscribe"])
async def test_permissions(servers: NatsServers, start: StartNode, denied: str) -> None:
    """A user that may not use the subjects is told so once, and the node goes on when that changes."""
    user: dict[str, Any] = {
        "user": "me",
        "password": SECRET,
        "permissions": {denied: {"deny": [f"peerservers.{NAME}.>"]}},
    }
    server = await servers.start(authorization={"users": [user]})
    a = await start(A, server.url, user="me", password=SECRET)
    await eventually(lambda: a.nats.troubles[Trouble.FORBIDDEN] > 1)
    assert a.connected == []
    [(reason, text)] = a.complaints()
    assert reason == "forbidden"
    assert text.startswith(
        f'permissions violation for {"publish" if denied == "publish" else "subscription"} to "peerservers.'
    )
    del user["permissions"]
    server.reload()
    await a.is_connected()
    # If it loses the permissions, the connection ends.
    user["permissions"] = {"publish": {"deny": [f"peerservers.{NAME}.>"]}}
    server.reload()

    async def has_noticed() -> bool:
        a.nats.broadcast(b"denied")
        return a.connected[-1:] == [False]

    await eventually(has_noticed)


async def test_tls(servers: NatsServers, start: StartNode, tmp_path: Path) -> None:
    pair = Pair(tmp_path, "127.0.0.1")
    other = tmp_path / "other"
    other.mkdir()
    tls = {"cert_file": str(pair.certificate), "key_file": str(pair.key)}
    server = await servers.start(tls=tls)
    url = server.url.replace("nats:", "tls:")
    a = await start(A, url, tls_ca=str(pair.authority))
    b = await start(B, server.url, tls_ca=str(pair.authority))
    stranger = await start(B, url, tls_ca=str(Pair(other).authority))
    await a.is_connected()
    await b.is_connected()
    await a.reaches(b, bytes(MAX_PAYLOAD))
    assert a.nats.connection
    assert a.nats.connection.is_tls
    await eventually(lambda: stranger.nats.troubles[Trouble.UNREACHABLE] > 1)
    assert {text for _, text in stranger.complaints()} == {
        "invalid certificate: unable to get local issuer certificate"
    }
    await server.stop()
    await a.is_connected(False)
    await server.start()
    await a.is_connected()


async def test_client_certificates(servers: NatsServers, start: StartNode, tmp_path: Path) -> None:
    pair = Pair(tmp_path, "127.0.0.1")
    files = {"cert_file": str(pair.certificate), "key_file": str(pair.key), "ca_file": str(pair.authority)}
    server = await servers.start(tls={**files, "verify": True})
    url, ca = server.url.replace("nats:", "tls:"), str(pair.authority)
    a = await start(A, url, tls_ca=ca, tls_certificate=str(pair.combined))
    b = await start(B, url, tls_ca=ca, tls_certificate=str(pair.certificate), tls_key=str(pair.key))
    without = await start(B, url, tls_ca=ca)
    await a.is_connected()
    await b.is_connected()
    await a.reaches(b)
    await eventually(lambda: without.nats.troubles.total() > 1)
    assert without.connected == []


async def test_no_password_is_sent_without_tls(start: StartNode) -> None:
    """A server without TLS, or a program that takes its place, gets no credentials if the URL says `tls://`."""
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.9.10","max_payload":1048576,"auth_required":true}\r\n')
        received.append(await reader.read())
        writer.close()

    async with serving(serve) as address:
        a = await start(A, f"tls://{address}", user="me", password=SECRET)
        await eventually(lambda: len(received) > 1)
        assert b"".join(received) == b""
        assert set(a.complaints()) == {("unreachable", "the server does not use TLS")}


@pytest.mark.parametrize(
    "hello",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"INFO not JSON\r\n",
        b"INFO []\r\n",
        b'INFO {"max_payload":"x"}\r\nPONG\r\n',
        b'INFO {"max_payload":100}\r\nPONG\r\n',
        b"INFO {}\r\nGARBAGE\r\n",
        b"INFO {}\r\nPONG\r\nGARBAGE\r\n",
        b"INFO {}\r\nPONG\r\nMSG a 1 99999999999999\r\n",
        b"INFO {}\r\nPONG\r\n-ERR 'Unknown Protocol Operation'\r\n",
        b"INFO {}\r\nPONG\r\n-ERR 'maximum connections exceeded'\r\n",
        b"INFO {}\r\nPONG\r\nINFO not JSON\r\n",
        b"x" * 100_000,
    ],
)
async def test_other_programs_on_the_port(start: StartNode, hello: bytes) -> None:
    """They are no servers: the node tries again, and logs no traceback."""
    attempts = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        with suppress(OSError):
            writer.write(hello)
            if hello[-1:] != b"x":
                await asyncio.wait([asyncio.ensure_future(reader.read())], timeout=0.05)
        writer.close()

    async with serving(serve) as address:
        a = await start(A, f"nats://{address}")
        await eventually(lambda: attempts > 1)
        assert a.connected == []
        assert a.complaints() != []


async def test_the_longest_message(servers: NatsServers, start: StartNode) -> None:
    server = await servers.start(max_payload=50_000)
    a, b = await start(A, server.url), await start(B, server.url)
    await a.is_connected()
    await b.is_connected()
    assert a.nats.max_payload == 50_000
    assert a.nats.send(B, bytes(50_000))
    assert not a.nats.send(B, bytes(50_001))
    await b.has(bytes(50_000))
    await server.stop()
    server.config["max_payload"] = 8 * MAX_PAYLOAD
    await server.start()
    await a.until(lambda: a.connected == [True, False, True])
    assert a.nats.max_payload == MAX_PAYLOAD
    assert not a.nats.send(B, bytes(MAX_PAYLOAD + 1))


async def test_messages_of_other_programs(servers: NatsServers, start: StartNode) -> None:
    """They are passed on, because only the node can tell, and the connection stays. Too long ones are dropped."""
    server = await servers.start(max_payload=4 * MAX_PAYLOAD)
    a = await start(A, server.url)
    await a.is_connected()
    client = await nats.connect(server.url)
    for subject in (f"peerservers.{NAME}.nodes", f"peerservers.{NAME}.node.{A}"):
        await client.publish(subject, b"\xff" * 1000)
        await client.publish(subject, b"")
        await client.publish(subject, b"with headers", headers={"Name": "value"}, reply="reply.to")
        await client.publish(subject, bytes(MAX_PAYLOAD + 1))
        await client.publish(subject, b"last")
    await client.publish(f"peerservers.{NAME}.node.{B}", b"for another node")
    await client.publish(f"peerservers.{NAME}", b"elsewhere")
    await client.close()
    await a.has(*[b"\xff" * 1000, b"with headers", b"last"] * 2)
    await eventually(lambda: a.nats.troubles == {Trouble.TOO_LONG: 2})
    assert a.connected == [True]


async def test_a_node_that_is_too_slow_for_the_server(servers: NatsServers, start: StartNode) -> None:
    """The server ends the connection, so its buffers are bounded; the node connects again."""
    server = await servers.start(max_pending=1 << 20, write_deadline="1s")
    a = await start(A, server.url)
    await a.is_connected()

    def flood() -> None:
        """Send more than the server and the kernel keep."""
        payload = bytes(500_000)
        with socket.create_connection(("127.0.0.1", server.port)) as stream:
            stream.sendall(b'CONNECT {"verbose":false}\r\n')
            for _ in range(40):
                stream.sendall(b"PUB peerservers.%s.nodes %d\r\n%s\r\n" % (NAME.encode(), len(payload), payload))
            stream.sendall(b"PING\r\n")
            while b"PONG" not in stream.recv(1 << 16):
                pass

    thread = threading.Thread(target=flood)
    thread.start()
    while "Slow Consumer" not in server.log:
        # The event loop is blocked, as by a node with too much to do.
        time.sleep(0.01)  # noqa: ASYNC251
    thread.join()
    await a.until(lambda: a.connected == [True, False, True])
    assert a.nats.troubles.total() >= 1


@pytest.mark.parametrize(
    ("key", "content", "text"),
    [
        ("credentials_file", SECRET, "not a JWT and a user's seed"),
        ("credentials_file", None, "No such file or directory"),
        ("nkey_file", SECRET, "not the seed of a user's key"),
        ("nkey_file", b"\xff", "not text"),
        ("tls_ca", SECRET, "not a certificate and its key in PEM form"),
        ("tls_ca", None, "No such file or directory"),
        ("tls_certificate", SECRET, "not a certificate and its key in PEM form"),
    ],
)
async def test_files_that_cannot_be_used(tmp_path: Path, key: str, content: str | bytes | None, text: str) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as error:
        await NatsNode(A, ["nats://127.0.0.1:1"], **{key: str(file)}).start()
    assert str(error.value) == f"extensions.cluster.{key}: {file}: {text}"


async def test_an_encrypted_key(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.renew(passphrase=b"secret")
    with pytest.raises(ConfigError, match=r"tls_certificate: .*: the key is encrypted"):
        await NatsNode(A, ["nats://127.0.0.1:1"], tls_certificate=str(pair.combined)).start()


async def test_a_file_that_vanishes(servers: NatsServers, start: StartNode, tmp_path: Path) -> None:
    """It is missed when the next connection is made, and no connection is made without it."""
    file = tmp_path / "file"
    seed = new_seed(nkeys.PREFIX_BYTE_USER)
    file.write_bytes(seed)
    user = nkeys.from_seed(seed).public_key.decode()
    server = await servers.start(authorization={"users": [{"nkey": user}]})
    a = await start(A, server.url, nkey_file=str(file))
    await a.is_connected()
    file.unlink()
    await server.stop()
    await server.start()
    await eventually(lambda: a.nats.troubles[Trouble.REFUSED] > 0)
    assert a.complaints()[-1] == ("refused", f"extensions.cluster.nkey_file: {file}: No such file or directory")
    file.write_bytes(seed)
    await a.until(lambda: a.connected == [True, False, True])
