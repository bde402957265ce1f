"""A worker: one of the processes of a tracker on one machine. The supervisor (`tracker.workers`) starts and ends them.

A worker inherits the listening sockets, and a socket to the supervisor, over which both send messages in JSON.
"""

import asyncio
import json
import os
import socket
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

VARIABLE: Final = "PEERSERVERS_WORKER"
"""The variable of the environment by which the supervisor tells a process that it is a worker."""

BEAT_PERIOD: Final = 1.0
"""Seconds between two heartbeats, which tell the supervisor that the event loop of the worker runs."""

MAX_MESSAGE: Final = 1 << 16
"""Bytes of the longest message between worker and supervisor."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker.

    Attributes:
        index: Its place, from 0 to `count` - 1. During a rolling restart, the old worker and the new one have the same.
        count: The number of places.
        number: A number that only this process has. A worker that was started later has a greater one.
        directory: A directory for the sockets of the workers, which only the tracker's user may enter.
    """

    index: int
    count: int
    number: int
    directory: Path


@dataclass(frozen=True, slots=True)
class Inherited:
    """A worker's view of the supervisor's descriptors.

    Attributes:
        worker: The worker.
        control: The socket to the supervisor.
        state: A descriptor that keeps the state directory locked, or -1.
        server: For each place the listening sockets of the public port, one for each address.
        unix: The listening Unix-domain sockets, which all workers share.
        metrics: For each place the listening sockets of the metrics' own port.
        started: The time of the supervisor's start, in Unix seconds.
        handing: For each place the two ends of the connection by which its worker takes connections from others.
    """

    worker: Worker
    control: int
    state: int = -1
    server: tuple[tuple[int, ...], ...] = ()
    unix: tuple[int, ...] = ()
    metrics: tuple[tuple[int, ...], ...] = ()
    started: float = 0.0
    handing: tuple[tuple[int, int], ...] = ()

    def put(self, environment: MutableMapping[str, str]) -> None:
        """Tell a process by its environment."""
        environment[VARIABLE] = json.dumps(asdict(self), default=str)

    @property
    def descriptors(self) -> list[int]:
        """All descriptors."""
        single = [self.control, *self.unix, *([self.state] if self.state >= 0 else [])]
        groups = (*self.server, *self.metrics, *self.handing)
        return [*single, *(descriptor for group in groups for descriptor in group)]


def take_inherited(environment: MutableMapping[str, str] = os.environ) -> Inherited | None:
    """Return what this process inherited, or None if it is no worker. Its own children are then no workers."""
    text = environment.pop(VARIABLE, "")
    if not text:
        return None
    told = json.loads(text)
    worker = Worker(**{**told["worker"], "directory": Path(told["worker"]["directory"])})
    server, metrics = (tuple(map(tuple, told[name])) for name in ("server", "metrics"))
    handing = tuple((read, write) for read, write in told["handing"])
    single = told["control"], told["state"]
    inherited = Inherited(worker, *single, server, tuple(told["unix"]), metrics, told["started"], handing)
    for descriptor in inherited.descriptors:
        os.set_inheritable(descriptor, False)
    return inherited


def make_link() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a connection that keeps messages whole."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class ControlLink:
    """One end of the socket between the supervisor and a worker.

    Args:
        end: One of the sockets that `make_link` returns. It is closed with the link.
        received: Takes each message.
        lost: Called once when the other process has closed its end, which its death does, too.
    """

    def __init__(
        self, end: socket.socket, received: Callable[[Mapping[str, Any]], None], lost: Callable[[], None]
    ) -> None:
        end.setblocking(False)
        self._socket = end
        self._received = received
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(end, self._read)

    def send(self, kind: str, **values: Any) -> bool:
        """Send a message. Return False if the other process cannot get it: it has ended, or does not read."""
        try:
            self._socket.send(json.dumps({"kind": kind, **values}, default=str).encode())
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close this end."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()

    def _read(self) -> None:
        while self._socket.fileno() >= 0:
            try:
                data = self._socket.recv(MAX_MESSAGE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            if data:
                self._received(json.loads(data))
            else:
                self.close()
                self._lost()
