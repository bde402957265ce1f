"""Notices that files have changed."""

import asyncio
import os
from collections.abc import Callable
from typing import Final

PERIOD: Final = 5.0
"""Seconds between two looks. Not inotify: certificates and lists also lie on network file systems and in containers."""


class Watch:
    """Looks at files, and calls `on_change` when any was written, replaced, made or removed."""

    def __init__(self, on_change: Callable[[], None], period: float = PERIOD) -> None:
        self._on_change = on_change
        self._period = period
        self._files: list[str] = []
        self._seen: list[object] = []

    def set_files(self, names: list[str]) -> None:
        """Watch these from now on, as they are now; empty names are left out."""
        self._files = [os.path.expanduser(name) for name in names if name]
        self._seen = [_state(name) for name in self._files]

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(self._period)
            states = [_state(name) for name in self._files]
            if states != self._seen:
                self._seen = states
                self._on_change()


def _state(name: str) -> object:
    try:
        status = os.stat(name)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
