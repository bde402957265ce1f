"""Node scripts that run npm's programs and exchange events with tests: JSON, one object per line."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from tests.conftest import WEB, unavailable

Json = dict[str, Any]

PATIENCE = 60.0
"""Seconds to wait for an event. It takes well under a second, but much longer on a busy machine."""


class NodeScript:
    """A running script of `tests/web/npm_client`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.complaints: list[str] = []
        """The warnings and errors among its events."""

    async def send(self, command: str, **fields: Any) -> None:
        """Send a command to the script."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"command": command, **fields}).encode() + b"\n")
        await self.process.stdin.drain()

    async def event(self, wanted: Callable[[Json], bool]) -> Json:
        """Return the script's next event that satisfies `wanted`."""
        async with asyncio.timeout(PATIENCE):
            async for event in self._events():
                if wanted(event):
                    return event
        raise AssertionError(f"the script ended: {await self.process.wait()}")

    async def stop(self) -> None:
        """End the script and read its last events; it must not have failed."""
        assert self.process.stdin
        self.process.stdin.close()
        async with asyncio.timeout(PATIENCE):
            async for _ in self._events():
                pass
            assert await self.process.wait() == 0

    async def _events(self) -> AsyncIterator[Json]:
        assert self.process.stdout
        async for line in self.process.stdout:
            event = json.loads(line)
            if event["event"] in ("warning", "error"):
                self.complaints.append(event["text"])
            yield event


@asynccontextmanager
async def node_script(name: str) -> AsyncIterator[NodeScript]:
    """Run a script during the block."""
    node = shutil.which("node")
    if node is None:
        unavailable("node")
    if not (WEB / "node_modules" / "bittorrent-tracker").exists():
        unavailable("npm's bittorrent-tracker")
    assert node
    process = await asyncio.create_subprocess_exec(
        *(node, str(WEB / "npm_client" / name)), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        script = NodeScript(process)
        yield script
        await script.stop()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
