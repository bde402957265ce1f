"""Listening sockets. They hand over each connection before any byte is read of it, so that it counts from the start."""

import asyncio
import errno
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
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


class Listening:
    """The sockets of one port on which a process listens.

    Attributes:
        own: TCP sockets from which only this process accepts connections.
        shared: Sockets from which several processes accept.
        unix: Unix-domain sockets whose files this process has made, and removes.
        spare: By the place of another worker, its own TCP sockets, from which this process accepts only on demand.
    """

    def __init__(
        self,
        own: Sequence[socket.socket] = (),
        shared: Sequence[socket.socket] = (),
        unix: Sequence[UnixListener] = (),
        spare: Mapping[int, Sequence[socket.socket]] = MappingProxyType({}),
    ) -> None:
        self.own = own
        self.shared = shared
        self.unix = unix
        self.spare = spare

    @classmethod
    def inherited(cls, groups: Sequence[Sequence[int]], index: int, shared: Sequence[int] = ()) -> "Listening":
        """Return the sockets that a worker has inherited: those of each place, of which `index` is its own."""
        sockets = [[_of(descriptor) for descriptor in group] for group in groups]
        spare = {place: group for place, group in enumerate(sockets) if place != index}
        return cls(sockets[index] if groups else (), [_of(descriptor) for descriptor in shared], spare=spare)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The pairs of address and port of TCP."""
        return [listener.getsockname()[:2] for listener in self.own]

    def close(self) -> None:
        """Stop listening, and remove the files of Unix-domain sockets. Other processes keep sockets that they share."""
        for listener in (*self.own, *self.shared, *(one for group in self.spare.values() for one in group)):
            listener.close()
        for unix in self.unix:
            unix.close()


def listen(hosts: Sequence[str], port: int, unix_sockets: Sequence[str] = (), unix_mode: int = 0) -> Listening:
    """Listen for one process.

    Args:
        hosts: The addresses to listen on over TCP.
        port: The TCP port, or 0 for a free one.
        unix_sockets: The paths of the Unix-domain sockets to listen on.
        unix_mode: The mode of their files.

    Raises:
        OSError: An address cannot be listened on. `filename` is the path of a Unix-domain socket.
    """
    own: list[socket.socket] = []
    unix: list[UnixListener] = []
    listening = Listening(own, unix=unix)
    try:
        for host in hosts:
            own += _bind(host, port, alone=len(hosts) == 1)
            # With port 0, all addresses share the port that the first one got.
            port = own[-1].getsockname()[1]
        for path in unix_sockets:
            unix.append(UnixListener(path, unix_mode, BACKLOG))  # noqa: PERF401
    except BaseException:
        listening.close()
        raise
    return listening


class Acceptor:
    """Calls `accepted` with each connection to the sockets of `listening`, which it closes at its own end.

    An asyncio server would hand over a TLS connection only after the handshake, and could not count it before.
    """

    def __init__(self, listening: Listening, accepted: Accepted) -> None:
        self._listening = listening
        self._accepted = accepted
        self._loop = asyncio.get_running_loop()
        self._readers: set[socket.socket] = set()
        for listener in (*listening.own, *(unix.socket for unix in listening.unix)):
            self._read(listener, _BATCH)
        for listener in listening.shared:
            self._read(listener, 1)

    def close(self) -> None:
        """Stop accepting."""
        for listener in self._readers:
            if listener.fileno() >= 0:
                self._loop.remove_reader(listener)
        self._readers.clear()
        self._listening.close()

    def adopt(self, place: int) -> None:
        """Accept the connections of another worker, too, because it does not."""
        for listener in self._listening.spare.get(place, ()):
            self._read(listener, 1)

    def release(self, place: int) -> None:
        """Leave the connections of another worker to it again."""
        for listener in self._listening.spare.get(place, ()):
            if listener in self._readers:
                self._readers.discard(listener)
                self._loop.remove_reader(listener)

    def _read(self, listener: socket.socket, batch: int) -> None:
        if listener.fileno() >= 0:
            self._readers.add(listener)
            self._loop.add_reader(listener, self._accept, listener, batch)

    def _accept(self, listener: socket.socket, batch: int) -> None:
        for _ in range(batch):
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
                self._loop.call_later(_PAUSE, self._resume, listener, batch)
                return
            accepted.setblocking(False)
            self._accepted(accepted, address[0] if isinstance(address, tuple) else None)

    def _resume(self, listener: socket.socket, batch: int) -> None:
        if listener in self._readers:
            self._read(listener, batch)


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


def listen_in_groups(hosts: Sequence[str], port: int, count: int) -> list[list[socket.socket]]:
    """Listen for `count` processes on one TCP port, or 0 for a free one: return the sockets of each.

    The kernel distributes the connections (SO_REUSEPORT, socket(7)). Each socket has a queue of its own, which lasts as
    long as any process has the socket.

    Raises:
        OSError: An address cannot be listened on.
    """
    groups: list[list[socket.socket]] = [[] for _ in range(count)]
    try:
        for host in hosts:
            if port:
                # Another tracker of this user might have such a group, too, which the kernel would join to ours.
                for probe in _bind(host, port, alone=len(hosts) == 1):
                    probe.close()
            for group in groups:
                group += _bind(host, port, alone=len(hosts) == 1, is_shared=True)
                port = group[-1].getsockname()[1]
    except BaseException:
        for group in groups:
            for listener in group:
                listener.close()
        raise
    return groups


def _bind(host: str, port: int, alone: bool, is_shared: bool = False) -> list[socket.socket]:
    bound = []
    try:
        for family, kind, proto, _, address in socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            listener = socket.socket(family, kind, proto)
            bound.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if is_shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
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


def _of(descriptor: int) -> socket.socket:
    listener = socket.socket(fileno=descriptor)
    listener.setblocking(False)
    return listener
