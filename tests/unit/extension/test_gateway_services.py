"""Any node answers for the extensions that run at the gateway: HTTP routes, tables, and WebSocket subprotocols."""

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import pytest
from structlog.testing import capture_logs
from websockets.frames import CloseCode

from tests.client import eventually
from tests.unit.extension.nodes import Bus, FakeStream, Process, node_on
from tracker.extension import Channel, ChannelClosed, CloseReason, Extension, Request, Response, TrackerHandle
from tracker.extension import gateway as module
from tracker.extension.tunnel import WINDOW
from tracker.net.request import RequestHead

GARBAGE = [b"", b"\xff" * 10, b"\x93\x01\x02\x03", b"\x81\xa4type\xa6nobody"]


class Socket:
    """A WebSocket of another tracker, at one node. `put` is its other side."""

    def __init__(self) -> None:
        self.remote_address = "198.51.100.7"
        self.reason: CloseReason | None = None
        self.code: CloseCode | None = None
        self.blocked_since = 0.0
        self.sent: list[tuple[bytes, bool]] = []
        self._inbox: asyncio.Queue[tuple[bytes, bool] | None] = asyncio.Queue()

    @property
    def queued_bytes(self) -> int:
        return 0

    def put(self, payload: bytes, is_text: bool = True) -> None:
        self._inbox.put_nowait((payload, is_text))

    def hang_up(self, reason: CloseReason = CloseReason.CLIENT_CLOSED) -> None:
        self.reason = reason
        self._inbox.put_nowait(None)

    async def receive(self) -> tuple[bytes, bool]:
        message = await self._inbox.get()
        if message is None:
            assert self.reason
            raise ChannelClosed(self.reason.value)
        return message

    def send(self, data: bytes, is_text: bool = True) -> bool:
        assert not self.blocked_since
        if self.reason is None:
            self.sent.append((data, is_text))
        return self.reason is None

    def close(self, code: CloseCode, reason: CloseReason) -> None:
        if self.reason is None:
            self.reason, self.code = reason, code


class Service(Extension):
    """An extension at the gateway with a route, a table and a subprotocol, which echoes."""

    at_gateway = True
    made: list["Service"]

    def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
        super().__init__(tracker, settings)
        self.name = f"node {len(self.made)}"
        self.made.append(self)
        self.served: list[Channel] = []
        self.ended: list[str] = []
        tracker.add_route("/service", self.serve)
        tracker.add_table("service", lambda: [{"node": self.name}], links=True)

    async def serve(self, request: Request) -> Response:
        if request.query == "fail":
            raise RuntimeError("as told")
        body = f"{self.name} {request.query}".encode()
        return Response(body, status=HTTPStatus.ACCEPTED, headers={"x-by": self.name})

    async def echo(self, channel: Channel) -> None:
        self.served.append(channel)
        try:
            while True:
                payload, is_text = await channel.receive()
                if payload == b"bye":
                    return
                if payload == b"fail":
                    raise RuntimeError("as told")
                while channel.blocked_since and channel.reason is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
                channel.send(payload, is_text)
        except ChannelClosed as closed:
            self.ended.append(str(closed))
            raise


class Cluster:
    """Two nodes. The first one is the gateway."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.services: list[Service] = []
        service = type("Service", (Service,), {"made": self.services})
        self.processes = [Process(node_on(bus), service) for _ in range(2)]
        self.handlers = [
            process.gateway.subprotocol("echo", one.echo)
            for process, one in zip(self.processes, self.services, strict=True)
        ]
        bus.move(self.processes[0].gateway)
        self.running: list[asyncio.Task[None]] = []

    def connect(self, node: int) -> Socket:
        """Let another tracker connect to a node."""
        socket = Socket()

        async def serve() -> None:
            await self.handlers[node](socket)

        self.running.append(asyncio.ensure_future(serve()))
        return socket

    async def get(self, node: int, query: str = "") -> bytes:
        return await self.processes[node].endpoint.routes.respond(
            RequestHead(f"GET /service?{query} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        )

    async def table(self, node: int) -> list[dict[str, Any]]:
        tables = self.processes[node].host.tables
        await tables.refresh()
        return tables.read()["service"]


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    monkeypatch.setattr(module, "RETRY", 0.001)
    cluster = Cluster(Bus())
    yield cluster
    for process in cluster.processes:
        process.gateway.close()
    for task in cluster.running:
        task.cancel()
    await asyncio.gather(*cluster.running, return_exceptions=True)


async def test_every_node_serves_a_route_of_the_gateway(cluster: Cluster) -> None:
    for node in range(2):
        response = await cluster.get(node, f"asked={node}")
        assert response.startswith(b"HTTP/1.1 202 Accepted\r\n")
        assert b"x-by: node 0" in response
        assert response.endswith(f"node 0 asked={node}".encode())
    cluster.bus.move(cluster.processes[1].gateway)
    assert (await cluster.get(0)).endswith(b"node 1 ")


async def test_a_route_of_the_gateway_is_not_available_while_there_is_none(cluster: Cluster) -> None:
    cluster.bus.move(None)
    response = await cluster.get(1)
    assert response.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"retry-after: 2" in response


async def test_a_route_that_fails_at_the_gateway_is_logged_there(cluster: Cluster) -> None:
    with capture_logs() as log:
        assert (await cluster.get(1, "fail")).startswith(b"HTTP/1.1 503")
    assert [event["event"] for event in log] == ["gateway_failed"]


async def test_every_node_shows_the_tables_of_the_gateway(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.processes[0].host.tables.off["service"] = "as told"
    assert [await cluster.table(node) for node in range(2)] == [[{"node": "node 0"}]] * 2
    assert cluster.processes[1].host.tables.all_off == {"service": "as told"}
    # Many requests ask the gateway once.
    asked = cluster.bus.asked
    await asyncio.gather(*(cluster.table(1) for _ in range(10)))
    assert cluster.bus.asked == asked
    monkeypatch.setattr(module, "MAX_AGE", 0)
    cluster.bus.move(None)
    assert await cluster.table(1) == []
    cluster.bus.move(cluster.processes[1].gateway)
    assert await cluster.table(1) == [{"node": "node 1"}]
    assert cluster.processes[1].host.tables.all_off == {}


async def test_a_page_does_not_wait_for_a_gateway_that_does_not_answer(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REFRESH_TIMEOUT", 0.01)
    never = asyncio.Event()

    async def hang(_question: bytes) -> bytes:
        await never.wait()
        return b""

    monkeypatch.setattr(cluster.processes[0].gateway, "answer", hang)
    assert await asyncio.wait_for(cluster.table(1), 10) == []
    never.set()
    monkeypatch.undo()
    monkeypatch.setattr(module, "MAX_AGE", 0)
    await eventually(lambda: cluster.bus.asked == 1)
    assert await cluster.table(1) == []
    assert await cluster.table(1) == [{"node": "node 0"}]


@pytest.mark.parametrize("question", GARBAGE)
async def test_garbage_is_not_answered(cluster: Cluster, question: bytes) -> None:
    gateway = cluster.processes[0].gateway
    assert await gateway.answer(question) == b""
    assert gateway.accept(question, FakeStream()) is None


async def test_a_node_that_is_not_the_gateway_answers_no_question(cluster: Cluster) -> None:
    cluster.bus.gateway = cluster.processes[1].gateway
    assert (await cluster.get(0)).endswith(b"node 0 ")
    cluster.processes[0].gateway.move(False)
    assert (await cluster.get(0)).startswith(b"HTTP/1.1 503")


@pytest.mark.parametrize("size", [0, 1, 998, 999, 1000, 70_000])
async def test_the_gateway_serves_a_connection_of_another_node(cluster: Cluster, size: int) -> None:
    socket = cluster.connect(1)
    socket.put(b"t" * size)
    socket.put(b"b" * size, False)
    await eventually(lambda: len(socket.sent) == 2)
    assert socket.sent == [(b"t" * size, True), (b"b" * size, False)]
    (channel,) = cluster.services[0].served
    assert channel.remote_address == "198.51.100.7"
    assert cluster.services[1].served == []


async def test_a_connection_of_the_gateway_itself_needs_no_tunnel(cluster: Cluster) -> None:
    socket = cluster.connect(0)
    await eventually(lambda: cluster.services[0].served == [socket])
    assert cluster.bus.streams == []


async def test_the_end_of_a_connection_ends_the_channel_at_the_gateway_behind_its_messages(cluster: Cluster) -> None:
    socket = cluster.connect(1)
    for _ in range(10):
        socket.put(b"x" * 2000)
    socket.hang_up(CloseReason.TOO_BIG)
    await eventually(lambda: cluster.services[0].ended == ["too_big"])
    await eventually(cluster.running[0].done)
    assert cluster.bus.streams[0].sent > 20_000


async def test_the_end_of_the_channel_ends_the_connection_behind_its_messages(cluster: Cluster) -> None:
    socket = cluster.connect(1)
    socket.put(b"last")
    socket.put(b"bye")
    await eventually(lambda: socket.reason is not None)
    assert (socket.sent, socket.code) == ([(b"last", True)], CloseCode.NORMAL_CLOSURE)


async def test_a_handler_that_fails_at_the_gateway_is_logged_and_ends_the_connection(cluster: Cluster) -> None:
    socket = cluster.connect(1)
    with capture_logs() as log:
        socket.put(b"fail")
        await eventually(lambda: socket.code is not None)
    assert ([event["event"] for event in log], socket.code) == (["channel_failed"], CloseCode.INTERNAL_ERROR)


async def test_a_stream_that_breaks_ends_both_ends(cluster: Cluster) -> None:
    socket = cluster.connect(1)
    await eventually(lambda: cluster.services[0].served != [])
    (stream,) = cluster.bus.streams
    stream.ends()
    stream.other.ends()
    await eventually(lambda: socket.reason is not None)
    assert socket.code == CloseCode.GOING_AWAY
    assert cluster.services[0].ended == ["connection_lost"]


async def test_a_connection_waits_for_the_next_gateway(cluster: Cluster) -> None:
    cluster.bus.move(None)
    socket = cluster.connect(1)
    await asyncio.sleep(0.01)
    cluster.bus.move(cluster.processes[0].gateway)
    socket.put(b"hello")
    await eventually(lambda: socket.sent == [(b"hello", True)])


async def test_a_connection_that_waits_is_served_here_if_this_node_becomes_the_gateway(cluster: Cluster) -> None:
    cluster.bus.move(None)
    socket = cluster.connect(1)
    await asyncio.sleep(0.01)
    cluster.bus.move(cluster.processes[1].gateway)
    await eventually(lambda: cluster.services[1].served == [socket])


async def test_a_connection_ends_if_there_is_no_gateway(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ELECTION", 0.01)
    cluster.bus.move(None)
    socket = cluster.connect(1)
    await eventually(lambda: socket.code is not None)
    assert socket.code == CloseCode.TRY_AGAIN_LATER


async def test_tunnels_end_when_the_gateway_changes(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.01)
    socket = cluster.connect(1)
    await eventually(lambda: cluster.services[0].served != [])
    cluster.bus.move(cluster.processes[1].gateway)
    await eventually(lambda: socket.reason is not None)
    assert socket.code == CloseCode.GOING_AWAY


async def test_a_receiver_that_takes_no_messages_makes_the_sender_wait(cluster: Cluster) -> None:
    """The other tracker does not read: neither node keeps more than the window and one message."""
    socket = cluster.connect(1)
    socket.put(b"x" * 100_000)
    await eventually(lambda: len(socket.sent) == 1)
    socket.blocked_since = 1.0
    for _ in range(60):
        socket.put(b"x" * 100_000)
    (stream,) = cluster.bus.streams
    (served,) = cluster.services[0].served
    await eventually(lambda: bool(served.blocked_since))
    await asyncio.sleep(0.05)
    assert stream.other.sent < WINDOW + 400_000
    # The gateway's handler waits, so that the node reads no more from the socket.
    assert stream.sent < 2 * WINDOW + 600_000
    socket.blocked_since = 0.0
    await eventually(lambda: len(socket.sent) == 61)
    assert served.blocked_since == 0.0


@pytest.mark.parametrize("data", [b"", b"?", b"C1", b"Cabcde"])
async def test_garbage_on_a_stream_ends_the_channel(cluster: Cluster, data: bytes) -> None:
    socket = cluster.connect(1)
    await eventually(lambda: cluster.services[0].served != [])
    cluster.bus.streams[0].send(data)
    await eventually(lambda: socket.code == CloseCode.INTERNAL_ERROR)


async def test_a_sender_that_ignores_the_window_is_cut_off() -> None:
    bus = Bus()
    cluster = Cluster(bus)

    async def idle(channel: Channel) -> None:
        cluster.services[0].served.append(channel)
        await asyncio.sleep(100)

    cluster.processes[0].gateway.subprotocol("echo", idle)
    cluster.connect(1)
    await eventually(lambda: cluster.services[0].served != [])
    for _ in range(5000):
        bus.streams[0].send(b"T" + b"x" * 999)
    await eventually(lambda: cluster.services[0].served[0].reason is CloseReason.INTERNAL_ERROR)
    cluster.processes[0].gateway.close()
    await asyncio.gather(*cluster.running)
