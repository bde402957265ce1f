"""A worker, as the supervisor sees it: a process, and a socket to it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Final

from tracker.worker import ControlLink, Worker, make_link
from tracker.workers.shared import Shared

_BLOCKED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
"""Signals that a terminal or a service manager sends to all processes. A worker gets them when it can handle them."""


class Child:
    """A worker, started by running the command of this process again, with a variable that names its place.

    Attributes:
        worker: The worker.
        started: The time of its start, in seconds of the monotonic clock.
        last_beat: The time of its last heartbeat.
        is_ready: Whether it serves.
        connections: The number of its WebSockets.
        facts: The facts that it told when it was ready.

    Raises:
        OSError: if the process cannot be started.
    """

    def __init__(self, worker: Worker, shared: Shared, received: Callable[["Child", Mapping[str, Any]], None]) -> None:
        self.worker = worker
        self.started = self.last_beat = monotonic()
        self.is_ready = False
        self.connections = 0
        self.facts: dict[str, Any] = {}
        ours, theirs = make_link()
        with theirs:
            inherited = shared.inherited(worker, theirs.fileno())
            environment = dict(os.environ)
            # Only the supervisor talks to systemd.
            environment.pop("NOTIFY_SOCKET", None)
            inherited.put(environment)
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
            try:
                self._process = subprocess.Popen(
                    # Run anew, it finds the modules of a new release, too.
                    [sys.executable, *sys.orig_argv[1:]],
                    stdin=subprocess.DEVNULL,
                    env=environment,
                    pass_fds=inherited.descriptors,
                )
            except BaseException:
                ours.close()
                raise
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._link = ControlLink(ours, lambda message: received(self, message), lambda: None)

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def tell(self, kind: str, **values: Any) -> None:
        """Send a message. A worker that has ended, or does not read, gets none."""
        self._link.send(kind, **values)

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def poll(self) -> int | None:
        """Return the exit code of a process that has ended, or minus the number of the signal that ended it."""
        code = self._process.poll()
        if code is not None:
            self._link.close()
        return code
