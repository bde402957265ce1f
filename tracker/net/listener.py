"""Accepting connections, as plain sockets: what is to be counted is counted before anything is read of it."""

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog

BACKLOG: Final = 4096

_BATCH: Final = 100
"""Connections accepted in one turn of the loop; those that are there already have their turn in between."""

_PAUSE: Final = 1.0
"""Seconds without accepting when the system has no descriptors or no memory left."""

_EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

_RECEIVE_BUFFER: Final = 65536
"""Bytes that the kernel holds of what a client has sent. All of it is read, and kept room for, in one go: with the
megabytes that it would take by itself, a few flooding clients could hold up everybody for seconds."""

Accepted = Callable[[socket.socket, str], None]
"""Takes a socket, which does not block, and the numeric address of its other end."""


class Acceptor:
    """Listens, and hands over each connection. Not by asyncio's servers: under TLS they show it only when the client
    has done its part of the handshake, and what is not shown is not counted.

    Raises `OSError` if an address cannot be had.
    """

    def __init__(self, hosts: Sequence[str], port: int, accepted: Accepted) -> None:
        self._accepted = accepted
        self._listeners: list[socket.socket] = []
        try:
            for host in hosts:
                self._listeners += _bind(host, port, alone=len(hosts) == 1)
                # With port 0, all addresses share the port that the first one got.
                port = self._listeners[-1].getsockname()[1]
        except BaseException:
            self.close()
            raise
        self._loop = asyncio.get_running_loop()
        for listener in self._listeners:
            self._loop.add_reader(listener, self._accept, listener)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The (address, port) pairs listened on."""
        return [listener.getsockname()[:2] for listener in self._listeners]

    def close(self) -> None:
        """Listen no more."""
        for listener in self._listeners:
            if listener.fileno() >= 0:
                asyncio.get_running_loop().remove_reader(listener)
                listener.close()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                accepted, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    # It was gone before it was taken.
                    continue
                structlog.get_logger().warning("accepting_paused", error=error.strerror, seconds=_PAUSE)
                # It would be reported as ready again and again.
                self._loop.remove_reader(listener)
                self._loop.call_later(_PAUSE, self._resume, listener)
                return
            accepted.setblocking(False)
            self._accepted(accepted, address[0])

    def _resume(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            self._loop.add_reader(listener, self._accept, listener)


def dismiss(unserved: socket.socket, answer: bytes) -> None:
    """Close, after an answer if there is one."""
    if answer:
        with suppress(OSError):
            # What is not read would turn the end into a reset, which may overtake the answer.
            unserved.recv(_RECEIVE_BUFFER)
        with suppress(OSError):
            # As the first that is sent it has room in the kernel's buffer.
            unserved.send(answer)
    unserved.close()


def _bind(host: str, port: int, alone: bool) -> list[socket.socket]:
    bound = []
    try:
        for family, kind, proto, _, address in socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            listener = socket.socket(family, kind, proto)
            bound.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not (alone and host == "::"))
            listener.bind((*address[:1], port, *address[2:]))
            listener.listen(BACKLOG)
            listener.setblocking(False)
            port = listener.getsockname()[1]
    except BaseException:
        for listener in bound:
            listener.close()
        raise
    return bound
