"""The directory for the sockets by which the workers reach each other."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_PREFIX: Final = "peerservers-workers-"

_LONGEST: Final = 80
"""Bytes of its path. The path of a Unix-domain socket has at most 107 bytes (unix(7))."""


class RuntimeDirectory:
    """A directory that only this user may enter, below the runtime directory of the service or the user, or `/tmp`.

    Those that killed processes have left behind there are removed.

    Attributes:
        path: Its path.

    Raises:
        OSError: if it cannot be made.
    """

    def __init__(self) -> None:
        while True:
            self.path = _make()
            descriptor = _locked(self.path)
            if descriptor is not None:
                break
        self._descriptor = descriptor
        _remove_stale(self.path.parent)

    def close(self) -> None:
        """Remove the directory with all files in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _make() -> Path:
    for parent in _parents():
        try:
            made = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
        except OSError:
            continue
        if len(os.fsencode(made)) <= _LONGEST:
            return Path(made)
        os.rmdir(made)
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp"))


def _locked(path: Path) -> int | None:
    """Lock a new directory, and return a descriptor of it, or None if another tracker has just removed it.

    The lock tells other trackers, and systemd-tmpfiles(8), that the directory is in use. Before, it looks stale.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists():
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _parents() -> Iterator[str]:
    # Of systemd, for a service (RuntimeDirectory=) and for a user.
    yield from filter(None, os.environ.get("RUNTIME_DIRECTORY", "").split(":"))
    yield from filter(None, [os.environ.get("XDG_RUNTIME_DIR")])
    yield tempfile.gettempdir()


def _remove_stale(parent: Path) -> None:
    """Remove the directories in `parent` that no process has locked, if they belong to this user."""
    for directory in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if directory.stat(follow_symlinks=False).st_uid != os.getuid():
                continue
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(descriptor)
