"""The state directory, which one process at a time uses."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import TypeVar

from tracker.config import ConfigError
from tracker.settings import Settings

T = TypeVar("T")

_KEY = "server.state_dir"


class ExtensionOff(Exception):
    """An extension cannot run here, and the tracker serves without it.

    `reason` is for everyone, and names no file. `detail` is for the log.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class StateDirectory:
    """The state directory of this process, created and locked when an extension first uses it.

    `is_locked`: the supervisor has locked it for this worker, too.
    """

    def __init__(self, settings: Settings, is_locked: bool = False) -> None:
        self._path = settings.server.state_dir
        self._is_given = "state_dir" in settings.server.model_fields_set
        self._lock = Lock()
        self._is_locked = is_locked
        self._descriptor = -1

    @property
    def descriptor(self) -> int:
        """The descriptor that keeps it locked, also in a process that inherits it, or -1."""
        return self._descriptor

    def use(self, read: Callable[[Path], T]) -> T:
        """Return the result of a function of the directory. This may take long.

        Raises:
            ConfigError: if another process uses the directory, or if an operator has set it and it cannot be used.
            ExtensionOff: if it is the default directory and cannot be used, or if `read` raises `ConfigError`.
        """
        try:
            with self._lock:
                path = self._path.expanduser()
                if self._descriptor < 0 and not self._is_locked:
                    path.mkdir(mode=0o700, parents=True, exist_ok=True)
                    self._descriptor = _locked(path)
            return read(path)
        except BlockingIOError:
            text = f"{_KEY}: {self._path}: another running tracker uses it; each tracker needs its own"
            raise ConfigError(text) from None
        except ConfigError as error:
            text = str(error)
        except OSError as error:
            text = f"{error.filename or self._path}: {error.strerror}"
        except RuntimeError:
            text = f"{self._path}: no such home directory"
        except ValueError as error:
            text = f"{str(self._path)!r}: not a path: {error}"
        if self._is_given:
            raise ConfigError(f"{_KEY}: {text}")
        raise ExtensionOff("the state directory cannot be used", text)

    def close(self) -> None:
        """Let other processes use the directory."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _locked(path: Path) -> int:
    """Return a descriptor of a directory, which the process has locked until it is closed. Raise `BlockingIOError`."""
    # The directory itself: it may be read-only, so that no file can be made in it.
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        # Some network file systems have no locks.
        pass
    return descriptor
