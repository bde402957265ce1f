"""Unix-domain sockets between the nodes of one machine."""

import asyncio
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from extensions.cluster import unix
from extensions.cluster.transport import MAX_PAYLOAD
from extensions.cluster.troubles import Trouble
from extensions.cluster.unix import HELLO, MAX_BUFFERED, UnixSockets
from tests.client import PATIENCE, eventually
from tests.integration.nodes import RecordingNode
from tracker.extension import ConfigError

A, B, C, D = "a" * 16, "b" * 16, "c" * 16, "d" * 16


class UnixNode(RecordingNode):
    """A node with a transport over Unix-domain sockets."""

    def __init__(self, node_id: str, directory: Path) -> None:
        self.sockets = UnixSockets(directory)
        super().__init__(node_id, self.sockets)

    async def sees(self, *node_ids: str) -> None:
        """Wait until exactly these nodes are connected."""
        await eventually(lambda: sorted(self.sockets.nodes) == sorted(node_ids))


class RawNode:
    """The other end of a node's socket, which may send anything."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, payload: bytes) -> None:
        """Send a message."""
        self.writer.write(len(payload).to_bytes(4, "big") + payload)

    async def receive(self) -> bytes:
        """Return the next message."""
        length = await asyncio.wait_for(self.reader.readexactly(4), PATIENCE)
        return await asyncio.wait_for(self.reader.readexactly(int.from_bytes(length, "big")), PATIENCE)

    async def is_closed(self) -> bool:
        """Wait for the end of the connection."""
        await asyncio.wait_for(self.reader.read(), PATIENCE)
        return True


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a directory whose path is short enough for sockets."""
    with TemporaryDirectory() as path:
        yield Path(path)


StartNode = Callable[[str], Awaitable[UnixNode]]
ConnectRaw = Callable[..., Awaitable[RawNode]]


@pytest.fixture
async def start(directory: Path) -> AsyncIterator[StartNode]:
    started = []

    async def start_node(node_id: str) -> UnixNode:
        started.append(UnixNode(node_id, directory))
        await started[-1].start()
        return started[-1]

    yield start_node
    for node in started:
        await node.sockets.stop()


@pytest.fixture
async def connect_raw(directory: Path) -> AsyncIterator[ConnectRaw]:
    """Connect to the socket of node A; introduce the connection as a node, if there is an id."""
    opened: list[RawNode] = []

    async def connect(node_id: str = "") -> RawNode:
        opened.append(RawNode(*await asyncio.open_unix_connection(directory / f"{A}.sock")))
        assert await opened[-1].receive() == HELLO + A.encode()
        if node_id:
            opened[-1].send(HELLO + node_id.encode())
        return opened[-1]

    yield connect
    for raw in opened:
        raw.writer.close()


async def test_each_node_reaches_each_other_node(start: StartNode, directory: Path) -> None:
    a, c, b = await start(A), await start(C), await start(B)
    for node in (a, b, c):
        await node.sees(*{A, B, C} - {node.node_id})
        assert node.connected == [True]
    assert a.sockets.send(B, b"from a")
    assert c.sockets.send(B, b"from c")
    await b.has(b"from a", b"from c")
    b.sockets.broadcast(b"from b")
    await a.has(b"from b")
    await c.has(b"from b")
    assert b.received == []
    assert not a.sockets.send(D, b"to an unknown node")
    assert a.sockets.pending(D) == a.sockets.pending(B) == 0
    await c.sockets.stop()
    await a.until(lambda: a.lost == [C])
    await b.until(lambda: b.lost == [C])
    assert not a.sockets.send(C, b"too late")
    assert c.lost == []
    assert sorted(os.listdir(directory)) == [f"{A}.sock", f"{B}.sock"]


async def test_messages_of_all_lengths_stay_whole(start: StartNode) -> None:
    a, b = await start(A), await start(B)
    await a.sees(B)
    lengths = [1, 3, 4, 1000, 70_000, 262_140, 262_144, 262_145, MAX_PAYLOAD, 5, MAX_PAYLOAD, *range(2, 300, 7)]
    messages = [random.randbytes(length) for length in lengths]
    for message in messages:
        await eventually(lambda: a.sockets.pending(B) < MAX_PAYLOAD)
        assert a.sockets.send(B, message)
    await b.until(lambda: len(b.received) == len(messages))
    assert b.received == messages


async def test_messages_may_arrive_in_pieces(start: StartNode, connect_raw: ConnectRaw) -> None:
    a = await start(A)
    raw = await connect_raw()
    stream = b"".join(
        len(payload).to_bytes(4, "big") + payload for payload in (HELLO + B.encode(), b"first", b"x" * 40, b"last")
    )
    for position in range(len(stream)):
        raw.writer.write(stream[position : position + 1])
        await raw.writer.drain()
        await asyncio.sleep(0)
    await a.has(b"first", b"x" * 40, b"last")


async def test_a_killed_node_is_lost_and_its_successor_found(start: StartNode, directory: Path) -> None:
    """The file that it has left is removed."""
    source = (
        "import asyncio, sys; from pathlib import Path; from extensions.cluster.unix import UnixSockets\n"
        "async def main():\n"
        "    ignore = lambda *_: None\n"
        "    sockets = UnixSockets(Path(sys.argv[1]))\n"
        "    await sockets.start(sys.argv[2], ignore, ignore, ignore)\n"
        "    while True:\n"
        "        await asyncio.sleep(1)\n"
        "asyncio.run(main())"
    )
    a, c = await start(A), await start(C)
    for node_id in (B, D):
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", source, str(directory), node_id)
        await a.sees(node_id, C)
        await c.sees(node_id, A)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await a.sees(C)
        await c.sees(A)
        await eventually(lambda: sorted(os.listdir(directory)) == [f"{A}.sock", f"{C}.sock"])
    assert a.lost == c.lost == [B, D]


async def test_the_file_of_a_dead_node_is_removed(start: StartNode, directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(directory / f"{A}.sock"))
    await start(B)
    await eventually(lambda: os.listdir(directory) == [f"{B}.sock"])


@pytest.mark.parametrize("length", [0, MAX_PAYLOAD + 1, 0xFFFFFFFF])
async def test_an_invalid_length_ends_the_connection(start: StartNode, connect_raw: ConnectRaw, length: int) -> None:
    a = await start(A)
    raw = await connect_raw(B)
    raw.send(b"valid")
    raw.writer.write(length.to_bytes(4, "big") + b"more")
    assert await raw.is_closed()
    await a.until(lambda: a.lost == [B])
    assert a.received == [b"valid"]
    assert a.sockets.troubles == {Trouble.INVALID_LENGTH: 1}


@pytest.mark.parametrize(
    "hello",
    [
        b"GET / HTTP/1.1\r\n",
        HELLO,
        HELLO + b"b" * 15,
        HELLO + b"b" * 17,
        HELLO + b"B" * 16,
        HELLO + b"\xff" * 16,
        b"PSN2" + b"b" * 16,
        # Its own id, and one that it connects to itself.
        HELLO + A.encode(),
        HELLO + b"0" * 16,
    ],
)
async def test_other_programs_are_no_nodes(start: StartNode, connect_raw: ConnectRaw, hello: bytes) -> None:
    a = await start(A)
    raw = await connect_raw()
    raw.send(hello)
    raw.send(b"not received")
    assert await raw.is_closed()
    assert a.sockets.troubles == {Trouble.NOT_A_NODE: 1}
    assert [*a.received, *a.lost, *a.sockets.nodes] == []


async def test_a_connection_without_introduction_ends(
    start: StartNode, connect_raw: ConnectRaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix, "HELLO_TIMEOUT", 0.01)
    a = await start(A)
    raw = await connect_raw()
    assert await raw.is_closed()
    assert a.sockets.troubles == {Trouble.NOT_A_NODE: 1}


async def test_a_node_that_is_not_the_expected_one_is_not_used(start: StartNode, directory: Path) -> None:
    """A node expects the id that the name of the file tells."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        RawNode(reader, writer).send(HELLO + b"1" * 16)
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(serve, directory / f"{'0' * 16}.sock")
    try:
        a = await start(A)
        await eventually(lambda: a.sockets.troubles[Trouble.NOT_A_NODE] >= 2)
        assert a.sockets.nodes == a.lost == []
    finally:
        server.close()


async def test_a_connection_that_replaces_another_one(start: StartNode, connect_raw: ConnectRaw) -> None:
    """The loss of the first one is told once, before the second one is used."""
    a = await start(A)
    first = await connect_raw(B)
    await a.sees(B)
    second = await connect_raw(B)
    assert await first.is_closed()
    assert a.lost == [B]
    assert a.sockets.send(B, b"to the second")
    assert await second.receive() == b"to the second"
    second.writer.close()
    await a.until(lambda: len(a.lost) == 2)
    assert a.sockets.troubles == {Trouble.REPLACED: 1}


async def test_a_node_that_does_not_read_has_a_bounded_buffer(start: StartNode, connect_raw: ConnectRaw) -> None:
    a, c = await start(A), await start(C)
    raw = await connect_raw(B)
    await a.sees(B, C)
    payload = bytes(MAX_PAYLOAD // 2)
    sent = 0
    while a.sockets.send(B, payload):
        sent += 1
        assert sent < 100
        # All that the kernel takes is not pending.
        await asyncio.sleep(0)
    assert MAX_PAYLOAD < a.sockets.pending(B) <= MAX_BUFFERED
    a.sockets.broadcast(payload)
    await c.has(payload)
    assert a.sockets.troubles == {Trouble.BUFFER_FULL: 1}
    # All that was accepted arrives when it reads again.
    for _ in range(sent):
        assert await raw.receive() == payload
    await eventually(lambda: a.sockets.pending(B) == 0)
    assert a.sockets.send(B, b"next")
    assert await raw.receive() == b"next"


async def test_a_stop_sends_buffered_messages(start: StartNode, connect_raw: ConnectRaw) -> None:
    a = await start(A)
    raw = await connect_raw(B)
    await a.sees(B)
    for _ in range(3):
        assert a.sockets.send(B, bytes(MAX_PAYLOAD))
    stopping = asyncio.create_task(a.sockets.stop())
    for _ in range(3):
        assert await raw.receive() == bytes(MAX_PAYLOAD)
    assert await raw.is_closed()
    await stopping
    assert a.lost == []


async def test_a_stop_does_not_wait_for_a_node_that_does_not_read(
    start: StartNode, connect_raw: ConnectRaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix, "STOP_TIMEOUT", 0.01)
    a = await start(A)
    raw = await connect_raw(B)
    await a.sees(B)
    assert a.sockets.send(B, bytes(MAX_PAYLOAD))
    await asyncio.wait_for(a.sockets.stop(), PATIENCE)
    assert len(await asyncio.wait_for(raw.reader.read(), PATIENCE)) < MAX_PAYLOAD


async def test_processes_of_other_users_are_refused(
    start: StartNode, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await start(A)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    raw = RawNode(*await asyncio.open_unix_connection(directory / f"{A}.sock"))
    assert await raw.is_closed()
    assert a.sockets.troubles == {Trouble.OTHER_USER: 1}
    raw.writer.close()


async def test_a_directory_for_all_is_not_used(directory: Path) -> None:
    os.chmod(directory, 0o755)
    with pytest.raises(ConfigError, match="other users than this one can use the directory"):
        await UnixNode(A, directory).start()


@pytest.mark.parametrize(("name", "text"), [("none", "No such file or directory"), ("x" * 90, "too long")])
async def test_a_directory_that_cannot_be_used(directory: Path, name: str, text: str) -> None:
    long = directory / name
    if "long" in text:
        long.mkdir(mode=0o700)
    with pytest.raises(ConfigError, match=text):
        await UnixNode(A, long).start()


async def test_a_directory_that_has_vanished(start: StartNode, directory: Path) -> None:
    """Nodes that are connected stay so."""
    a, b = await start(A), await start(B)
    await a.sees(B)
    await b.sees(A)
    for name in os.listdir(directory):
        (directory / name).unlink()
    os.rmdir(directory)
    await eventually(lambda: a.sockets.troubles[Trouble.UNREACHABLE] >= 2)
    assert a.sockets.send(B, b"still here")
    await b.has(b"still here")
    os.mkdir(directory, mode=0o700)
