"""Notices that files have changed, and reads files without holding up anybody."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

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
            before = self._seen
            # Most trackers have no such files, and need no thread.
            seen = await aside(look, list(before)) if before else before
            # Meanwhile there may be other files to watch.
            if self._seen is before and seen != before:
                self._seen = seen
                self._on_change()


async def aside(read: Callable[[*Ts], T], *arguments: *Ts) -> T:
    """What a function returns that reads files, called in a thread: a network file system may hang.

    Not one of the loop's own threads, which would stay, and be missed at the end.
    """
    reader = ThreadPoolExecutor(1)
    try:
        return await asyncio.get_running_loop().run_in_executor(reader, read, *arguments)
    finally:
        reader.shutdown(wait=False)


def look(names: list[str]) -> dict[str, object]:
    """What there is to see of some files; empty names are left out."""
    return {name: _state(os.path.expanduser(name)) for name in names if name}


def _state(name: str) -> object:
    try:
        status = os.stat(name)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
