"""Connections whose worker has a full queue: they wait for a while, and then stay."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.client import announce, eventually
from tests.unit.fakes import peer_id
from tests.unit.net.test_handover import masked
from tracker.access.gate import ConnectionInfo
from tracker.net import handover
from tracker.net.handover import HandOver, Undecided
from tracker.net.placement import Placement

SWARMS = [f"swarm {number:014}" for number in range(1000)]
MESSAGES = [masked(json.dumps(announce(peer_id(1), swarm))) for swarm in SWARMS]
"""First messages of clients of many swarms, half of which the other worker serves."""


class Websocket:
    """Takes the data of a connection that stays. The part of a `WebSocket` that a hand-over uses."""

    def __init__(self) -> None:
        self.reason = None
        self.transport: Any = None
        self.data = b""
        self.is_lost = False

    def data_received(self, data: bytes) -> None:
        assert not self.is_lost
        self.data += data

    def connection_lost(self, _error: Exception | None) -> None:
        assert not self.is_lost
        self.is_lost = True


class Worker:
    """The endpoint of a worker. It keeps the other ends of its sockets."""

    room = 100_000
    connections = 10_000

    def __init__(self) -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        for pair in pairs:
            for one in pair:
                one.setblocking(False)
        inboxes, outboxes = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        self.queue = inboxes[1]
        """From which the other worker would take connections."""
        self.forgotten: list[Any] = []
        self.clients: list[socket.socket] = []
        self.hand_over = HandOver(Placement(0, 2), 0, inboxes, outboxes, self)
        self._sockets = inboxes + outboxes

    def forget(self, websocket: Any) -> None:
        self.forgotten.append(websocket)

    def take(self, *_: object) -> None:
        raise AssertionError("nothing was handed to this worker")

    async def accept(self, message: bytes) -> Undecided:
        """Return a connection whose first message has arrived."""
        ours, theirs = socket.socketpair()
        self.clients.append(theirs)
        websocket: Any = Websocket()
        info = ConnectionInfo("192.0.2.1", head=b"GET / HTTP/1.1\r\n\r\n")
        undecided = self.hand_over.undecided(websocket, info)
        ours.setblocking(False)
        websocket.transport, _ = await asyncio.get_running_loop().create_unix_connection(lambda: undecided, sock=ours)
        undecided.data_received(message)
        return undecided

    def taken(self) -> int:
        """Return the number of connections in the queue, and empty it."""
        count = 0
        while True:
            try:
                message, descriptors, _, _ = socket.recv_fds(self.queue, 1 << 18, 1)
            except BlockingIOError:
                return count
            assert json.loads(message.partition(b"\n")[0])["address"] == "192.0.2.1"
            socket.close(descriptors[0])
            count += 1

    def close(self) -> None:
        self.hand_over.close()
        for one in self._sockets + self.clients:
            one.close()


@asynccontextmanager
async def full_worker() -> AsyncIterator[tuple[Worker, list[Undecided]]]:
    """Start a worker with clients, and fill its queue to the other one. Yield it with the clients that wait."""
    worker = Worker()
    try:
        waiting: list[Undecided] = []
        # So that neither seems to have too many connections.
        worker.hand_over.set_loads([10_000, 10_000])
        for message in MESSAGES:
            undecided = await worker.accept(message)
            if undecided.deadline:
                waiting.append(undecided)
            if len(waiting) == 20:
                break
        assert len(waiting) == 20
        yield worker, waiting
    finally:
        worker.close()


def websocket_of(undecided: Undecided) -> Any:
    return undecided.websocket


async def test_connections_wait_for_room_in_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "PATIENCE", 1000.0)
    async with full_worker() as (worker, waiting):
        sent = len(worker.forgotten)
        assert sent > 0
        assert not any(undecided.is_gone or websocket_of(undecided).data for undecided in waiting)
        assert worker.taken() == sent
        await eventually(lambda: all(undecided.is_gone for undecided in waiting))
        assert worker.taken() == 20
        assert worker.forgotten[-20:] == [undecided.websocket for undecided in waiting]


async def test_they_stay_if_the_other_worker_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "PATIENCE", 0.1)
    async with full_worker() as (worker, waiting):
        worker.clients[-1].send(b"more")
        await eventually(lambda: websocket_of(waiting[-1]).data.endswith(b"more"))
        for undecided in waiting:
            assert websocket_of(undecided).data.removesuffix(b"more") in MESSAGES
            assert not undecided.is_gone


@pytest.mark.parametrize("end", ["adopt", "close"])
async def test_they_stay_if_the_other_worker_ends_or_this_one(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setattr(handover, "PATIENCE", 1000.0)
    async with full_worker() as (worker, waiting):
        if end == "adopt":
            worker.taken()
            worker.hand_over.adopt(1)
        else:
            worker.hand_over.close()
        assert all(websocket_of(undecided).data in MESSAGES for undecided in waiting)


async def test_one_that_ends_meanwhile_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "PATIENCE", 1000.0)
    async with full_worker() as (worker, waiting):
        sent = len(worker.forgotten)
        websocket_of(waiting[3]).transport.abort()
        await eventually(lambda: websocket_of(waiting[3]).is_lost)
        assert worker.taken() == sent
        await eventually(lambda: all(undecided.is_gone for undecided in waiting))
        assert worker.taken() == 19
        assert websocket_of(waiting[3]) not in worker.forgotten
