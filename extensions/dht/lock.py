"""A lock on the files of the DHT: of the processes of a cluster that share them, the gateway uses them."""

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

LOCK_FILE: Final = "dht.lock"

TIMEOUT: Final = 8.0
"""Seconds that a new gateway waits for the last one to save and close its files. If that has died, there is no lock."""

RETRY: Final = 0.1


class FileLock:
    """The lock. `in_executor` calls a function that may block."""

    def __init__(self, directory: Path, in_executor: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
        self._file = directory / LOCK_FILE
        self._in_executor = in_executor
        self._descriptor = -1

    async def acquire(self) -> bool:
        """Lock the files. Return False if another process still uses them after `TIMEOUT` seconds.

        A directory in which there can be no lock counts as locked: it is on a file system that has none, or read-only.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + TIMEOUT
        while not await self._in_executor(self._try_acquire):
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(RETRY)
        return True

    def release(self) -> None:
        """Let another process lock the files."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _try_acquire(self) -> bool:
        try:
            descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:
            os.close(descriptor)
            return True
        self._descriptor = descriptor
        return True
