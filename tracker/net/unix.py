"""A Unix-domain socket to listen on, and its file."""

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_LOCK_ATTEMPTS: Final = 100
_LOCK_PAUSE: Final = 0.01
"""Seconds between two attempts."""


class UnixListener:
    """A listening Unix-domain socket.

    A file that a crashed process has left behind is replaced. A socket on which another process listens is not, nor is
    any other file.

    Attributes:
        path: The path of its file.
        socket: The socket, which does not block.

    Raises:
        OSError: It cannot be listened on; `filename` is the path.
    """

    def __init__(self, path: str, mode: int, backlog: int) -> None:
        self.path = path
        self._identity: tuple[int, int] | None = None
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _locked(Path(path).parent):
                _remove_stale(path)
                self.socket.bind(path)
                self._identity = _identity(path)
                # Before `listen` no process can connect, so the mode holds from the start.
                os.chmod(path, mode)
                self.socket.listen(backlog)
        except OSError as error:
            self.close()
            raise OSError(error.errno, error.strerror or str(error), path) from None
        self.socket.setblocking(False)

    def close(self) -> None:
        """Remove the file unless it is another socket's by now, and stop listening."""
        with suppress(OSError):
            # While the socket is open, no other file gets the number of its inode.
            if self._identity == _identity(self.path):
                os.unlink(self.path)
        self.socket.close()


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def _remove_stale(path: str) -> None:
    """Remove the file of a socket on which no process listens. Raises `OSError` if there is another file."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "there is another file, which is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            # Another process listens, and its backlog is full.
            pass
    raise OSError(errno.EADDRINUSE, "another process listens there")


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Lock a directory, so that two trackers that find one stale file do not both replace it.

    Go on without the lock if it cannot be had: any process that can read the directory may hold it.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield
        return
    try:
        for _ in range(_LOCK_ATTEMPTS):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                time.sleep(_LOCK_PAUSE)
        yield
    finally:
        os.close(descriptor)
