"""The trackers of a soak: one whose memory, descriptors and tasks are watched, and a neighbour that is killed."""

import asyncio
import json
import os
import re
import shlex
import signal
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.request import urlopen

from benchmarks.servers import OURS, OWN_COMMAND, Running, ServerFailed, free_port, running

TIMEOUT: Final = 30.0
POLL: Final = 0.25
"""Seconds between two looks at a state that no event announces."""

COUNTS: Final = (
    "peerservers_connections",
    "peerservers_peers",
    "peerservers_swarms",
    "peerservers_federation_links",
    "peerservers_federation_shared_swarms",
    "peerservers_federation_parked_offers",
)
"""The metrics that must be zero after all clients and neighbours have gone."""

_FIELD: Final = re.compile(r"^(Rss|Anonymous): +(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True)
class Memory:
    """The memory of a process in MiB: all that is resident, and the part that is in no file."""

    resident: float
    anonymous: float


class Watched:
    """A running tracker. `metrics` is the port of its metrics, `probes` gives the lines of `benchmarks.observed`."""

    def __init__(self, server: Running, metrics: int, probes: asyncio.StreamReader) -> None:
        self.server = server
        self.port = server.port
        self._metrics = metrics
        self._probes = probes

    def memory(self) -> Memory:
        """Return its memory now. Raise `ServerFailed` if it has ended."""
        self._check()
        text = Path(f"/proc/{self.server.process.pid}/smaps_rollup").read_text()
        found = {name: int(number) / 1024 for name, number in _FIELD.findall(text)}
        return Memory(found["Rss"], found["Anonymous"])

    def descriptors(self) -> int:
        """Return the number of its open file descriptors."""
        self._check()
        return len(os.listdir(f"/proc/{self.server.process.pid}/fd"))

    async def probe(self) -> dict[str, Any]:
        """Return its state, as `benchmarks.observed.state` tells it."""
        self._check()
        self.server.process.send_signal(signal.SIGUSR1)
        async with asyncio.timeout(TIMEOUT):
            found: dict[str, Any] = json.loads(await self._probes.readline())
        return found

    async def counts(self) -> Counter[str]:
        """Return the sums of the metrics in `COUNTS`, without those that are zero."""
        text = await asyncio.to_thread(self._get, "/metrics")
        found: Counter[str] = Counter()
        for line in text.splitlines():
            name = re.split(r"[{ ]", line, maxsplit=1)[0]
            if name in COUNTS:
                found[name] += round(float(line.rpartition(" ")[2]))
        return +found

    async def until_ready(self) -> None:
        """Wait until all its parts have started, and its first metrics have been read."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                with suppress(OSError):
                    await asyncio.to_thread(self._get, "/ready")
                    await self.counts()
                    return
                await asyncio.sleep(POLL)

    def _get(self, path: str) -> str:
        with urlopen(f"http://127.0.0.1:{self._metrics}{path}", timeout=TIMEOUT) as response:
            text: str = response.read().decode()
        return text

    def _check(self) -> None:
        if self.server.process.poll() is not None:
            raise ServerFailed(f"the tracker has ended with code {self.server.process.returncode}")


@asynccontextmanager
async def watched(peers: list[str], environment: Mapping[str, str]) -> AsyncIterator[Watched]:
    """Run a tracker with links to the URLs in `peers`, and without the extension `federation` if there are none."""
    metrics = free_port()
    with TemporaryDirectory() as directory, ExitStack() as stack:
        fifo = Path(directory, "probes")
        os.mkfifo(fifo)
        # Opened for both, it has a writer as long as the tracker starts, and opening does not wait for one.
        pipe = os.fdopen(os.open(fifo, os.O_RDWR | os.O_NONBLOCK), "rb", buffering=0)
        reader = asyncio.StreamReader(limit=1 << 20)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        stack.callback(transport.close)
        variables = {
            **_federation(peers),
            "PROBES": str(fifo),
            "PEERSERVERS_METRICS__PORT": str(metrics),
            **environment,
        }
        context = running(OURS, OWN_COMMAND, None, variables)
        server = await asyncio.to_thread(context.__enter__)
        try:
            yield Watched(server, metrics, reader)
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)


class Neighbour:
    """A tracker that is killed and started again, on one port and with one identity.

    Args:
        directory: Its state directory.
        peers: The URLs that it links with.
        port: Its port.
        environment: Further variables.
    """

    def __init__(self, directory: Path, peers: list[str], port: int) -> None:
        self.port = port
        self.deaths = 0
        self._variables = {
            **os.environ,
            **_federation(peers),
            "PEERSERVERS_SERVER__STATE_DIR": str(directory),
            "PEERSERVERS_EXTENSIONS__DHT__ENABLED": "false",
        }
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, and do not wait until it listens."""
        command = [word.replace("{port}", str(self.port)) for word in shlex.split(OWN_COMMAND)]
        self._process = await asyncio.create_subprocess_exec(
            *command, env=self._variables, stdout=asyncio.subprocess.DEVNULL
        )

    async def kill(self) -> None:
        """Kill it, so that it closes no connection by itself. Raise `ServerFailed` if it has ended before."""
        if self._process is None:
            return
        process, self._process = self._process, None
        with suppress(ProcessLookupError):
            process.kill()
        code = await process.wait()
        if code != -signal.SIGKILL:
            raise ServerFailed(f"the neighbour has ended with code {code}")
        self.deaths += 1


def _federation(peers: list[str]) -> dict[str, str]:
    prefix = "PEERSERVERS_EXTENSIONS__FEDERATION__"
    return {f"{prefix}ENABLED": json.dumps(bool(peers)), f"{prefix}PEERS": json.dumps(peers)}
