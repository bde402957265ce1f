"""Listening sockets for one process, and for several."""

import asyncio
import errno
import os
import socket
from collections.abc import Iterator

import pytest

from tests.client import eventually
from tracker.net.listener import Acceptor, Listening, listen, listen_in_groups

Groups = list[list[socket.socket]]


@pytest.fixture
def groups() -> Iterator[Groups]:
    """The sockets of three workers on one free port."""
    groups = listen_in_groups(["127.0.0.1", "127.0.0.2"], 0, 3)
    yield groups
    for group in groups:
        for one in group:
            one.close()


def port_of(groups: Groups) -> int:
    port: int = groups[0][0].getsockname()[1]
    return port


def test_all_workers_share_the_port(groups: Groups) -> None:
    addresses = [[one.getsockname() for one in group] for group in groups]
    assert addresses == [[("127.0.0.1", port_of(groups)), ("127.0.0.2", port_of(groups))]] * 3


def test_no_other_process_of_this_user_can_share_it(groups: Groups) -> None:
    port = port_of(groups)
    in_use = os.strerror(errno.EADDRINUSE)
    with pytest.raises(OSError, match=in_use):
        listen_in_groups(["127.0.0.1"], port, 2)
    with pytest.raises(OSError, match=in_use):
        listen(["127.0.0.1"], port)


class Worker:
    """Accepts as the worker of a place does, until it is closed."""

    def __init__(self, groups: Groups, index: int) -> None:
        self.accepted: list[socket.socket] = []
        copies = [[one.dup() for one in group] for group in groups]
        spare = {place: group for place, group in enumerate(copies) if place != index}
        self.acceptor = Acceptor(Listening(copies[index], spare=spare), lambda one, _: self.accepted.append(one))

    def close(self) -> None:
        self.acceptor.close()
        for one in self.accepted:
            one.close()


async def connect(port: int, count: int) -> list[socket.socket]:
    clients = []
    for _ in range(count):
        client = socket.socket()
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
        clients.append(client)
    return clients


async def test_each_worker_accepts_its_own_connections_and_those_that_it_adopts(groups: Groups) -> None:
    first, second = Worker(groups, 0), Worker(groups, 1)
    clients = await connect(port_of(groups), 90)
    # Those of the third one wait.
    waiting = await settled(first, second)
    assert 0 < waiting < 90
    first.acceptor.adopt(2)
    await eventually(lambda: len(first.accepted) + len(second.accepted) == 90)
    first.acceptor.release(2)
    more = await connect(port_of(groups), 30)
    third = Worker(groups, 2)
    await eventually(lambda: sum(len(one.accepted) for one in (first, second, third)) == 120)
    assert first.accepted
    assert second.accepted
    assert third.accepted
    for worker in (first, second, third):
        worker.close()
    for client in clients + more:
        client.close()


async def settled(first: Worker, second: Worker) -> int:
    """Return the number of 90 connections that two workers leave, once that does not change."""
    before = -1
    while before != (before := len(first.accepted) + len(second.accepted)):
        for _ in range(100):
            await asyncio.sleep(0)
    return 90 - before


async def test_a_successor_accepts_what_its_predecessor_has_left(groups: Groups) -> None:
    predecessors = [Worker(groups, index) for index in range(3)]
    for one in predecessors:
        one.close()
    clients = await connect(port_of(groups), 60)
    successors = [Worker(groups, index) for index in range(3)]
    await eventually(lambda: sum(len(one.accepted) for one in successors) == 60)
    for one in successors:
        one.close()
    for client in clients:
        client.close()
