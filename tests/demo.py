"""`peerservers demo` in a process of its own, and its trackers."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import psutil  # type: ignore[import-untyped]

from tests.client import eventually

PATIENCE = 60.0
LAST_LINE = "Open the page in a browser. Ctrl-C ends all."


class Demo:
    """A running demo."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.urls: dict[str, str] = {}
        """The URLs that it has printed: of "Page", "Tracker A", "Tracker B" and "Tracker C"."""
        self.trackers: list[Any] = []
        """The processes of its trackers (psutil)."""

    async def started(self, output: asyncio.StreamReader) -> None:
        """Read its output until the trackers serve."""
        while (line := (await output.readline()).decode().strip()) != LAST_LINE:
            assert line, f"it has ended: {self.process}"
            name, url = line.rsplit(maxsplit=1)
            self.urls[name] = url
        self.trackers = psutil.Process(self.process.pid).children()

    async def errors(self) -> str:
        """Wait until it has ended. Return its error output."""
        assert self.process.stderr
        return (await self.process.stderr.read()).decode()

    async def ended(self) -> int:
        """Wait until it and all its trackers have ended. Return its exit code."""
        code = await asyncio.wait_for(self.process.wait(), PATIENCE)
        await eventually(lambda: not any(map(_runs, self.trackers)), PATIENCE)
        return code

    def kill(self) -> None:
        """End everything that still runs."""
        for process in (self.process, *self.trackers):
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                process.kill()


def _runs(process: Any) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@asynccontextmanager
async def demo(*arguments: str, **options: Any) -> AsyncIterator[Demo]:
    """Start a demo, and yield it once its trackers serve. At the end, stop it if it still runs: with code 0."""
    process = await start(*arguments, **options)
    demo = Demo(process)
    try:
        assert process.stdout
        await asyncio.wait_for(demo.started(process.stdout), PATIENCE)
        yield demo
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            assert await demo.ended() == 0
    finally:
        demo.kill()


async def start(*arguments: str, **options: Any) -> asyncio.subprocess.Process:
    """Start the command."""
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    given = {**pipes, **options, "env": {**os.environ, **options.get("env", {})}}
    return await asyncio.create_subprocess_exec(sys.executable, "-m", "tracker", "demo", *arguments, **given)
