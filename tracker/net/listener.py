"""Listening sockets. They hand over each connection before any byte is read of it, so that it counts from the start."""

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog

from tracker.net.unix import UnixListener

BACKLOG: Final = 4096

_BATCH: Final = 100
"""Connections accepted in one turn of the event loop. Open connections are served between two turns."""

_PAUSE: Final = 1.0
"""Seconds without accepting after the system has run out of file descriptors or memory."""

_EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

_RECEIVE_BUFFER: Final = 65536
"""Bytes of the kernel's receive buffer. One turn of the event loop reads and handles all of it: with the kernel's own
megabytes, a few flooding clients could block all others for seconds."""

Accepted = Callable[[socket.socket, str | None], None]
"""Takes a non-blocking socket and the numeric address of its peer, or None on a Unix-domain socket."""


class Acceptor:
    """Listens, and calls `accepted` with each connection.

    An asyncio server would hand over a TLS connection only after the handshake, and could not count it before.

    Args:
        hosts: The addresses to listen on over TCP.
        port: The TCP port, or 0 for a free one.
        unix_sockets: The paths of the Unix-domain sockets to listen on.
        unix_mode: The mode of their files.
        accepted: Takes the connections.

    Raises:
        OSError: An address cannot be listened on. `filename` is the path of a Unix-domain socket.
    """

    def __init__(
        self, hosts: Sequence[str], port: int, unix_sockets: Sequence[str], unix_mode: int, accepted: Accepted
    ) -> None:
        self._accepted = accepted
        self._listeners: list[socket.socket] = []
        self._unix: list[UnixListener] = []
        try:
            for host in hosts:
                self._listeners += _bind(host, port, alone=len(hosts) == 1)
                # With port 0, all addresses share the port that the first one got.
                port = self._listeners[-1].getsockname()[1]
            for path in unix_sockets:
                self._unix.append(UnixListener(path, unix_mode, BACKLOG))
        except BaseException:
            self.close()
            raise
        self._loop = asyncio.get_running_loop()
        for listener in (*self._listeners, *(unix.socket for unix in self._unix)):
            self._loop.add_reader(listener, self._accept, listener)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The pairs of address and port that it listens on over TCP."""
        return [listener.getsockname()[:2] for listener in self._listeners]

    def close(self) -> None:
        """Stop listening, and remove the files of Unix-domain sockets."""
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            if listener.fileno() >= 0:
                loop.remove_reader(listener)
                listener.close()
        for unix in self._unix:
            if unix.socket.fileno() >= 0:
                loop.remove_reader(unix.socket)
                unix.close()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                accepted, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    # The client closed the connection before it was accepted.
                    continue
                structlog.get_logger().warning("accepting_paused", error=error.strerror, seconds=_PAUSE)
                # The event loop would report the socket as ready in every turn.
                self._loop.remove_reader(listener)
                self._loop.call_later(_PAUSE, self._resume, listener)
                return
            accepted.setblocking(False)
            self._accepted(accepted, address[0] if isinstance(address, tuple) else None)

    def _resume(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            self._loop.add_reader(listener, self._accept, listener)


def dismiss(unserved: socket.socket, answer: bytes) -> None:
    """Close a socket, after sending `answer` if it is not empty."""
    if answer:
        with suppress(OSError):
            # Closing with unread data would reset the connection, and a reset may overtake the answer.
            unserved.recv(_RECEIVE_BUFFER)
        with suppress(OSError):
            # As the first data that is sent, it fits into the kernel's send buffer.
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
