"""The sockets of all workers, which the supervisor opens and keeps.

No connection is lost when a worker ends: the queue of connections that wait to be accepted belongs to the socket, and
the next worker with the same place inherits it.
"""

import socket
from collections.abc import Sequence

from tracker.net.listener import BACKLOG, listen_in_groups
from tracker.net.unix import UnixListener
from tracker.server import opening
from tracker.settings import Settings
from tracker.worker import Inherited, Worker


class WorkerSockets:
    """The listening sockets of `count` workers.

    Raises:
        StartError: if an address cannot be listened on.
    """

    def __init__(self, settings: Settings, count: int) -> None:
        server, metrics = settings.server, settings.metrics
        self._server: list[list[socket.socket]] = []
        self._metrics: list[list[socket.socket]] = []
        self._unix: list[UnixListener] = []
        try:
            if metrics.port:
                with opening("metrics", [metrics.host], metrics.port):
                    self._metrics = listen_in_groups([metrics.host], metrics.port, count)
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
        return Inherited(worker, control, _descriptors(self._server), unix, _descriptors(self._metrics))

    def close(self) -> None:
        """Close the sockets of this process, and remove the files of Unix-domain sockets."""
        for group in (*self._server, *self._metrics):
            for listener in group:
                listener.close()
        for unix in self._unix:
            unix.close()


def _descriptors(groups: Sequence[Sequence[socket.socket]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(one.fileno() for one in group) for group in groups)
