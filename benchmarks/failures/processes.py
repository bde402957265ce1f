"""The processes of a cluster, which fail as they are told."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final
from urllib.request import urlopen

import psutil  # type: ignore[import-untyped]

ROOT: Final = Path(__file__).parent.parent.parent
START_TIMEOUT: Final = 60.0
OTHER_VERSION: Final = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    "import extensions.cluster.envelope as envelope\n"
    "envelope.VERSION = 99\n"
    "from tracker.cli import main\n"
    "sys.argv[0] = 'peerservers'\n"
    "main()\n"
)
"""A program of nodes with another version of the protocol. It needs the plain modules."""


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Process:
    """A process with a log, which can be started again."""

    def __init__(self, command: Sequence[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self.command = list(command)
        self.log = log
        self.environment = environment or {}
        self.process: subprocess.Popen[bytes] | None = None
        self._mark = 0

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, cwd=self.log.parent, env={**os.environ, **self.environment}
            )

    def tell(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process
        self.process.send_signal(number)

    def end(self) -> None:
        """Kill it and its children."""
        if self.process is None:
            return
        children = []
        if self.process.poll() is None:
            children = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
        for child in children:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()

    def resident(self) -> float:
        """Return the MiB of resident memory of it and its children."""
        if self.process is None or self.process.poll() is not None:
            return 0.0
        own = psutil.Process(self.process.pid)
        return sum(float(one.memory_info().rss) for one in (own, *own.children(recursive=True))) / 2**20

    def mark(self) -> None:
        """Read the log from here on."""
        self._mark = self.log.stat().st_size

    def lines(self) -> list[str]:
        """Return the lines of the log since the mark."""
        with self.log.open("rb") as log:
            log.seek(self._mark)
            return log.read().decode(errors="replace").splitlines()


class Tracker(Process):
    """A tracker: one node, or the workers of one machine."""

    def __init__(
        self, directory: Path, name: str, settings: Mapping[str, object], code: str = "", port: int = 0
    ) -> None:
        self.name = name
        self.port = port or free_port()
        self.is_up = True
        """Whether the balancer sends clients to it."""
        place = directory / name
        place.mkdir(exist_ok=True)
        values = {"server.state_dir": place, "extensions.dht.enabled": False, "extensions.federation.enabled": False}
        values |= {"server.restart_spread": 5, "server.shutdown_timeout": 5, "extensions.cluster.label": name}
        environment = {
            "PEERSERVERS_" + key.replace(".", "__").upper(): _text(value)
            for key, value in {**values, **settings}.items()
        }
        command = [sys.executable, *(("-c", code) if code else ("-m", "tracker")), "serve"]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--log-format", "json"]
        super().__init__(command, place / "log", environment)

    def start(self) -> None:
        self.log.touch()
        self.mark()
        super().start()

    async def is_ready(self) -> bool:
        """Return whether it answers."""
        try:
            return bool(await asyncio.to_thread(self.get, "/ready"))
        except OSError:
            return False

    def get(self, path: str) -> str:
        """Return a page. Raises `OSError`."""
        with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
            text: str = response.read().decode()
        return text

    async def metrics(self) -> Counter[str]:
        """Return its metrics with their labels."""
        found: Counter[str] = Counter()
        try:
            text = await asyncio.to_thread(self.get, "/metrics")
        except OSError:
            return found
        for line in text.splitlines():
            if line and line[0] != "#":
                key, _, value = line.rpartition(" ")
                found[key] = float(value)  # type: ignore[assignment]
        return found

    async def nodes(self) -> int:
        """Return the number of nodes that it knows."""
        return int((await self.metrics())["peerservers_cluster_nodes"])

    def workers(self) -> list[int]:
        """Return the process ids of its workers."""
        assert self.process
        return [child.pid for child in psutil.Process(self.process.pid).children()]


class Nats(Process):
    """A nats-server, of a cluster if `others` are given."""

    def __init__(self, directory: Path, number: int = 0, routes: Sequence[int] = (), route: int = 0) -> None:
        self.port = free_port()
        program = shutil.which("nats-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise FileNotFoundError("nats-server")
        command = [program, "-a", "127.0.0.1", "-p", str(self.port)]
        if route:
            others = ",".join(f"nats://127.0.0.1:{port}" for port in routes)
            command += ["--cluster_name", "failures", "--cluster", f"nats://127.0.0.1:{route}", "--routes", others]
        super().__init__(command, directory / f"nats-{number}.log")

    @property
    def url(self) -> str:
        """The URL for nodes."""
        return f"nats://127.0.0.1:{self.port}"


class BadLink:
    """A link to a server that delays all bytes, and stalls like TCP when packets are lost.

    Attributes:
        delay: Seconds for each way.
        loss: The probability with which a piece of data comes 0.2 s later, with all after it: a retransmission.
        rate: Bytes per second of each direction; 0 for any.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.port = free_port()
        self.delay = 0.0
        self.loss = 0.0
        self.rate = 0.0
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[Any]] = set()
        self._random = Random(3)

    async def start(self) -> None:
        """Listen."""

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            pipe = asyncio.create_task(self._accept(reader, writer))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

        self._server = await asyncio.start_server(accept, "127.0.0.1", self.port)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self.target)
        pipes = [(reader, other_writer), (other_reader, writer)]
        await asyncio.gather(*(self._pipe(*pipe) for pipe in pipes), return_exceptions=True)

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        loop = asyncio.get_running_loop()

        async def read() -> None:
            while data := await reader.read(16384):
                await queue.put((loop.time() + self.delay, data))
            await queue.put((loop.time() + self.delay, b""))

        reading = asyncio.create_task(read())
        try:
            while True:
                due, data = await queue.get()
                if not data:
                    return
                if self._random.random() < self.loss:
                    due = max(due, loop.time()) + 0.2
                if self.rate:
                    await asyncio.sleep(len(data) / self.rate)
                await asyncio.sleep(max(0.0, due - loop.time()))
                writer.write(data)
                await writer.drain()
        finally:
            reading.cancel()
            writer.close()


def _text(value: object) -> str:
    """Return the value of a setting as the environment has it."""
    return str(value) if isinstance(value, str | Path) else json.dumps(value)


def summary(lines: Sequence[str]) -> tuple[Counter[str], int]:
    """Return how often each event was logged, with its reason, and the number of tracebacks."""
    events: Counter[str] = Counter()
    tracebacks = 0
    for line in lines:
        try:
            event: dict[str, Any] = json.loads(line)
        except ValueError:
            events["(no JSON)"] += 1
            tracebacks += line.startswith("Traceback")
            continue
        reason = event.get("reason")
        events[f"{event.get('event')}" + (f":{reason}" if reason else "")] += 1
        tracebacks += "exception" in event or "Traceback" in line
    return events, tracebacks
