"""Trackers to test against: real ones in their own processes, on free loopback ports."""

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from tracker.logs import configure

WEB = Path(__file__).parent / "web"

ALONE = {
    "PEERSERVERS_EXTENSIONS__DHT__ENABLED": "false",
    "PEERSERVERS_EXTENSIONS__FEDERATION__ENABLED": "false",
}
"""Environment of trackers that need no other: tests must not reach out to the public DHT."""


# How long an example takes, and to make one up, is the machine's business.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loop that the tracker runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The fast ones first, and a module's together, also where pytest has put together all that use an event loop.

    What a module's tests share would else be set up twice: for those, and for the others.
    """
    order = ("unit", "integration", "e2e")
    tests = Path(__file__).parent
    items.sort(key=lambda item: (order.index(item.path.relative_to(tests).parts[0]), item.path))


@pytest.fixture(autouse=True, scope="session")
def _logs() -> None:
    """Trackers in this process log as those in their own do."""
    configure("info", "json")


def environment(section: str, **settings: object) -> dict[str, str]:
    """The environment of a tracker with these settings in a section: "server", or "extensions.dht"."""
    prefix = f"PEERSERVERS_{section.replace('.', '__').upper()}__"
    return {
        prefix + key.upper(): value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()
    }


def unavailable(what: str) -> None:
    """Skip the test because `what` is not on this machine; where all tests are required, fail it."""
    if os.environ.get("REQUIRE_ALL_TESTS"):
        pytest.fail(f"{what} is needed and not installed", pytrace=False)
    pytest.skip(f"{what} is not installed")


WORKERS = 8
"""Most that run tests at the same time."""


def _ports() -> Iterator[int]:
    """Ports below those that systems give to whoever asks for any, so that none is gone before it is used.

    Each pytest that runs at the same time has its own.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = [port for port in range(10_000, 30_000) if port % WORKERS == worker % WORKERS]
    first = random.randrange(len(ports))
    return itertools.cycle(ports[first:] + ports[:first])


_next_ports = _ports()


def free_port() -> int:
    """A TCP port that nobody listens on, another each time."""
    for port in itertools.islice(_next_ports, 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


class TrackerProcess:
    """A `peerservers serve` in its own process."""

    def __init__(self, process: asyncio.subprocess.Process, host: str) -> None:
        self.process = process
        self.host = host
        self.port = 0
        self.log: list[dict[str, Any]] = []
        self._logged = asyncio.Condition()
        self._told_to_stop = False
        self._reader = asyncio.ensure_future(self._read_log())

    @property
    def url(self) -> str:
        """Its WebSocket URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ws://{host}:{self.port}/"

    @classmethod
    async def start(
        cls, *arguments: str, host: str = "127.0.0.1", port: int | None = None, env: dict[str, str] | None = None
    ) -> "TrackerProcess":
        """Start one and wait until it listens; fails with its log if it does not."""
        port = free_port() if port is None else port
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tracker", "serve", "--host", host, "--port", str(port), "--log-format", "json", *arguments),
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **ALONE, **(env or {})},
        )
        tracker = cls(process, host)
        tracker.port = (await tracker.logged("listening"))["port"]
        return tracker

    async def logged(self, *events: str) -> dict[str, Any]:
        """Wait until the log has a line with one of these events; the newest such line."""

        def found() -> dict[str, Any] | None:
            return next((line for line in reversed(self.log) if line["event"] in events), None)

        async with asyncio.timeout(20), self._logged:
            await self._logged.wait_for(lambda: found() or self._reader.done())
        line = found()
        assert line, f"the tracker ended: {self.log}"
        return line

    async def get(self, path: str) -> tuple[int, str]:
        """An HTTP GET: status and body."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return int(head.split()[1]), body.decode()

    async def stats(self) -> dict[str, Any]:
        """What `/stats.json` says."""
        result: dict[str, Any] = json.loads((await self.get("/stats.json"))[1])
        return result

    async def metric(self, name: str, **labels: str) -> float:
        """One metric's value, 0 if it is not there."""
        wanted = ",".join(f'{key}="{value}"' for key, value in labels.items())
        prefix = f"{name}{{{wanted}}} " if wanted else f"{name} "
        lines = (await self.get("/metrics"))[1].splitlines()
        return next((float(line.removeprefix(prefix)) for line in lines if line.startswith(prefix)), 0.0)

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._told_to_stop = number != signal.SIGHUP
        self.process.send_signal(number)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it, unless it has been told to already: a second signal would cut it short. Its exit code."""
        if not self._told_to_stop and self.process.returncode is None:
            self.tell(number)
        code = await asyncio.wait_for(self.process.wait(), 20)
        await self._reader
        return code

    def complaints(self) -> list[dict[str, Any]]:
        """What it logged as an error, tracebacks included."""
        return [line for line in self.log if line.get("level") in ("error", "critical", None)]

    async def _read_log(self) -> None:
        assert self.process.stderr
        async for line in self.process.stderr:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": line.decode(errors="replace").rstrip()}
            async with self._logged:
                self.log.append(event)
                self._logged.notify_all()
        asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(self._wake()))

    async def _wake(self) -> None:
        async with self._logged:
            self._logged.notify_all()


StartTracker = Callable[..., Awaitable[TrackerProcess]]


@pytest.fixture
async def start_tracker() -> AsyncIterator[StartTracker]:
    """Starts trackers; at the end each must stop with code 0 and have complained about nothing."""
    started: list[TrackerProcess] = []

    async def start(*arguments: str, **options: Any) -> TrackerProcess:
        started.append(await TrackerProcess.start(*arguments, **options))
        return started[-1]

    yield start
    codes = [await tracker.stop() for tracker in started]
    assert [line for tracker in started for line in tracker.complaints()] == []
    assert all(code in (0, -signal.SIGKILL) for code in codes), codes


@pytest.fixture
async def tracker(start_tracker: StartTracker) -> TrackerProcess:
    """A tracker with default settings."""
    return await start_tracker()
