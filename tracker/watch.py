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
        self._seen: dict[str, object] = {}

    def set_files(self, seen: dict[str, object]) -> None:
        """Watch these from now on, for changes since `look` saw them.

        That must have been before they were read: what is written meanwhile would never be noticed.
        """
        self._seen = seen

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(self._period)
            seen = look(list(self._seen))
            if seen != self._seen:
                self._seen = seen
                self._on_change()


def look(names: list[str]) -> dict[str, object]:
    """What there is to see of some files; empty names are left out."""
    return {name: _state(os.path.expanduser(name)) for name in names if name}


def _state(name: str) -> object:
    try:
        status = os.stat(name)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
