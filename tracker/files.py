"""Notices changes of files, and reads files without blocking the event loop."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar, TypeVarTuple

import structlog

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

PERIOD: Final = 5.0
"""Seconds between two looks. inotify does not work on network file systems, nor on all mounts of a container."""


class Watch:
    """Looks at files periodically, and calls `on_change` if any of them was written, replaced, created or removed."""

    def __init__(self, on_change: Callable[[], None], period: float = PERIOD) -> None:
        self._on_change = on_change
        self._period = period
        self._seen: dict[str, object] = {}

    def set_files(self, seen: dict[str, object]) -> None:
        """Watch these files from now on, for changes since `look` returned `seen`.

        Call `look` before reading the files. A write between reading and looking would never be noticed.
        """
        self._seen = seen

    async def run(self) -> None:
        """Look at the files until cancelled.

        A look that fails, for example because no thread can be started, is logged, and the next one is made as usual.
        """
        is_failing = False
        while True:
            await asyncio.sleep(self._period)
            try:
                await self._look_again()
            except Exception:
                # One line for a row of failures is enough.
                if not is_failing:
                    structlog.get_logger().exception("files_not_watched")
                is_failing = True
            else:
                is_failing = False

    async def _look_again(self) -> None:
        before = self._seen
        if not before:
            # Most trackers have no such files, and need no thread.
            return
        seen = await aside(look, list(before))
        # `set_files` may have been called during the look.
        if self._seen is before and seen != before:
            # Called first, so that the next look finds the same change if the call fails.
            self._on_change()
            if self._seen is before:
                self._seen = seen


async def aside(read: Callable[[*Ts], T], *arguments: *Ts) -> T:
    """Call a function that reads files in a thread, because a network file system may hang. Return its result.

    The thread is not one of the event loop's own: a hanging one would be missing there, and would delay the exit.
    """
    reader = ThreadPoolExecutor(1)
    try:
        return await asyncio.get_running_loop().run_in_executor(reader, read, *arguments)
    finally:
        reader.shutdown(wait=False)


def look(names: list[str]) -> dict[str, object]:
    """Return the state of each file by its name, to compare with a later one. Empty names are left out."""
    return {name: _state(name) for name in names if name}


def _state(name: str) -> object:
    """Return what changes with a file: modification time, size and inode; None if it cannot be seen."""
    try:
        status = os.stat(os.path.expanduser(name))
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
