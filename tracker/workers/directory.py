"""The directory for the sockets by which the workers reach each other."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_LONGEST: Final = 80
"""Characters of its path. The path of a Unix-domain socket has at most 107 bytes (unix(7))."""


def make_directory() -> Path:
    """Make a directory that only this user may enter, below the runtime directory if there is one.

    Raises:
        OSError: if there is no directory in which it can be made.
    """
    for parent in _parents():
        try:
            made = tempfile.mkdtemp(prefix="peerservers-", dir=parent)
        except OSError:
            continue
        if len(os.fsencode(made)) <= _LONGEST:
            return Path(made)
        os.rmdir(made)
    return Path(tempfile.mkdtemp(prefix="peerservers-", dir="/tmp"))


def _parents() -> Iterator[str]:
    # Of systemd, for a service (RuntimeDirectory=) and for a user.
    yield from filter(None, os.environ.get("RUNTIME_DIRECTORY", "").split(":"))
    yield from filter(None, [os.environ.get("XDG_RUNTIME_DIR")])
    yield tempfile.gettempdir()
