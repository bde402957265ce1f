"""The possessions of the supervisor that all workers share: sockets, the state directory, a directory for sockets.

No connection is lost when a worker ends: the queue of connections that wait to be accepted belongs to the socket, and
the next worker with the same place inherits it.
"""

import socket
import time
from collections.abc import Sequence

from tracker.extension.state import ExtensionOff, StateDirectory
from tracker.net.listener import BACKLOG, listen_in_groups
from tracker.net.unix import UnixListener
from tracker.server import opening
from tracker.settings import Settings
from tracker.worker import Inherited, Worker, make_link
from tracker.workers.directory import RuntimeDirectory


class Shared:
    """The listening sockets and the directories of `count` workers.

    Attributes:
        directory: The directory for the sockets between workers.

    Raises:
        StartError: if an address cannot be listened on.
        ConfigError: if another tracker uses the state directory, or if an operator has set it and it cannot be used.
        OSError: if there is no room for `directory`.
    """

    def __init__(self, settings: Settings, count: int) -> None:
        server, metrics = settings.server, settings.metrics
        self._started = time.time()
        self._state = StateDirectory(settings)
        self._server: list[list[socket.socket]] = []
        self._metrics: list[list[socket.socket]] = []
        self._unix: list[UnixListener] = []
        self._handing: list[tuple[socket.socket, socket.socket]] = []
        self._runtime = RuntimeDirectory()
        self.directory = self._runtime.path
        try:
            self._lock = self._locked()
            if metrics.port:
                with opening("metrics", [metrics.host], metrics.port):
                    self._metrics = listen_in_groups([metrics.host], metrics.port, count)
            # They need no names: all workers inherit them.
            self._handing = [make_link() for _ in range(count)]
            for end in (end for ends in self._handing for end in ends):
                end.setblocking(False)
            with opening("server", server.hosts, server.port):
                self._server = listen_in_groups(server.hosts, server.port, count)
                for path in server.unix_sockets:
                    self._unix.append(UnixListener(path, int(server.unix_socket_mode, 8), BACKLOG))
        except BaseException:
            self.close()
            raise

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The pairs of address and port of the public port."""
        return [one.getsockname()[:2] for one in self._server[0]]

    def inherited(self, worker: Worker, control: int) -> Inherited:
        """Return the part of a worker that has `control` as its socket to the supervisor."""
        unix = tuple(listener.socket.fileno() for listener in self._unix)
        groups = _descriptors(self._server), unix, _descriptors(self._metrics)
        handing = tuple((reader.fileno(), writer.fileno()) for reader, writer in self._handing)
        return Inherited(worker, control, self._lock, *groups, self._started, handing)

    def stop_listening(self) -> None:
        """Close the sockets of this process, and remove the files of Unix-domain sockets."""
        for group in (*self._server, *self._metrics):
            for listener in group:
                listener.close()
        for unix in self._unix:
            unix.close()
        for ends in self._handing:
            for end in ends:
                end.close()

    def close(self) -> None:
        """Close the sockets, remove the directory of sockets, and let others use the state directory."""
        self.stop_listening()
        self._runtime.close()
        self._state.close()

    def _locked(self) -> int:
        """Return a descriptor by which all processes that have it lock the state directory, or -1."""
        try:
            return self._state.use(lambda _: self._state.descriptor)
        except ExtensionOff:
            # The extensions that need it say so.
            return -1


def _descriptors(groups: Sequence[Sequence[socket.socket]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(one.fileno() for one in group) for group in groups)
