"""Trackers to test against: real ones in processes of their own, on free loopback ports."""

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
from typing import Any, NoReturn, Self

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from tests.client import eventually
from tracker.logs import configure

WEB = Path(__file__).parent / "web"

ALONE = {
    "PEERSERVERS_EXTENSIONS__DHT__ENABLED": "false",
    "PEERSERVERS_EXTENSIONS__FEDERATION__ENABLED": "false",
}
"""Environment of trackers without extensions: tests must not send anything to the public DHT."""

HASTY = (str(Path(__file__).parent / "integration" / "hasty.py"),)
"""The program of a tracker that soon notices changes of its files."""

PATIENCE = 60.0
"""Seconds to wait for another process. It takes well under a second, but much longer on a busy machine."""

# Neither running an example nor generating one has a deadline: both depend on the machine.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return the event loop that the tracker runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run fast tests first, and the tests of each module together. Workers run them last, to end at the same time.

    Pytest puts all tests that use the event loop together. That would set up a module's fixtures twice: for its tests
    with the loop, and for those without.
    """
    order = ("unit", "integration", "simulation", "e2e")
    if "PYTEST_XDIST_WORKER" in os.environ:
        order = ("e2e", "integration", "simulation", "unit")
    tests = Path(__file__).parent
    items.sort(key=lambda item: (order.index(item.path.relative_to(tests).parts[0]), item.path))


@pytest.fixture(autouse=True, scope="session")
def _logs() -> None:
    """Let trackers in this process log as those in processes of their own do."""
    configure("info", "json")


def environment(section: str, **settings: object) -> dict[str, str]:
    """Return the environment of a tracker with these settings in a section: "server", or "extensions.dht"."""
    prefix = f"PEERSERVERS_{section.replace('.', '__').upper()}__"
    return {
        prefix + key.upper(): value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()
    }


def replace(file: Path, content: bytes) -> None:
    """Replace a file at once: a tracker that looks at it does not find it half written."""
    fresh = file.with_name(f"{file.name}.fresh")
    fresh.write_bytes(content)
    fresh.replace(file)


def unavailable(name: str) -> NoReturn:
    """Skip the test because a program is not on this machine. Fail it if `REQUIRE_ALL_TESTS` is set."""
    if os.environ.get("REQUIRE_ALL_TESTS"):
        pytest.fail(f"{name} is not here, and REQUIRE_ALL_TESTS is set (see `make prepare`)", pytrace=False)
    pytest.skip(f"{name} is not here (see `make prepare`)")


WORKERS = 8
"""The highest number of pytest-xdist's workers for which ports do not collide."""


def _ports() -> Iterator[int]:
    """Return ports below the ephemeral range, so that no other program gets one before it is used.

    Each of pytest-xdist's workers has ports of its own.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = [port for port in range(10_000, 30_000) if port % WORKERS == worker % WORKERS]
    first = random.randrange(len(ports))
    return itertools.cycle(ports[first:] + ports[:first])


_next_ports = _ports()


def free_port() -> int:
    """Return a TCP port on which no program listens, a different one each time."""
    for port in itertools.islice(_next_ports, 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("none of 1000 ports is free")


class TrackerProcess:
    """A `peerservers serve` in a process of its own."""

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
        """The WebSocket URL of the tracker, or `unix:` and the path of its Unix-domain socket."""
        if self.host.startswith("unix:"):
            return self.host
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ws://{host}:{self.port}/"

    @classmethod
    async def start(
        cls,
        *arguments: str,
        host: str = "127.0.0.1",
        port: int | None = None,
        env: dict[str, str] | None = None,
        program: tuple[str, ...] = ("-m", "tracker"),
    ) -> Self:
        """Start a tracker and wait until it listens. Raise `AssertionError` with its log if it ends instead."""
        port = free_port() if port is None else port
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *(*program, "serve", "--host", host, "--port", str(port), "--log-format", "json", *arguments),
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **ALONE, **(env or {})},
        )
        tracker = cls(process, host)
        tracker.port = (await tracker.logged("listening")).get("port", port)
        return tracker

    async def logged(self, *events: str) -> dict[str, Any]:
        """Wait until the log has a line with one of these events. Return the newest such line."""

        def found() -> dict[str, Any] | None:
            return next((line for line in reversed(self.log) if line["event"] in events), None)

        async with asyncio.timeout(PATIENCE), self._logged:
            await self._logged.wait_for(lambda: found() or self._reader.done())
        line = found()
        assert line, f"the tracker ended: {self.log}"
        return line

    async def get(self, path: str) -> tuple[int, str]:
        """Send an HTTP GET. Return status and body."""
        if self.host.startswith("unix:"):
            reader, writer = await asyncio.open_unix_connection(self.host.removeprefix("unix:"))
        else:
            reader, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return int(head.split()[1]), body.decode()

    async def stats(self) -> dict[str, Any]:
        """Return the content of `/stats.json`."""
        result: dict[str, Any] = json.loads((await self.get("/stats.json"))[1])
        return result

    async def metric(self, name: str, **labels: str) -> float:
        """Return the value of a metric, or 0 if it is absent."""
        prefix = f"{_sample(name, labels)} "
        lines = (await self.get("/metrics"))[1].splitlines()
        return next((float(line.removeprefix(prefix)) for line in lines if line.startswith(prefix)), 0.0)

    def tell(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._told_to_stop |= number not in (signal.SIGHUP, signal.SIGUSR2)
        self.process.send_signal(number)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop the tracker and return its exit code.

        No signal is sent if `tell` has sent one that stops it: a second signal would cut the shutdown short.
        """
        if not self._told_to_stop and self.process.returncode is None:
            self.tell(number)
        code = await asyncio.wait_for(self.process.wait(), PATIENCE)
        await self._reader
        return code

    def complaints(self) -> list[dict[str, Any]]:
        """Return the log's errors, including tracebacks that are not JSON."""
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


class SharedTracker(TrackerProcess):
    """A tracker that several tests use, one after the other."""

    _before: dict[str, float]

    async def begin(self) -> None:
        """Wait until the clients of the last test have left. From now on, `metric` counts from 0."""

        async def is_idle() -> bool:
            self._before = await self._samples()
            return self._before["peerservers_connections"] == 0

        await eventually(is_idle, PATIENCE)

    async def metric(self, name: str, **labels: str) -> float:
        """Return the value of a metric, or 0 if it is absent: since `begin`, if it is a counter."""
        value = await super().metric(name, **labels)
        return value - self._before.get(_sample(name, labels), 0.0) if name.endswith("_total") else value

    async def _samples(self) -> dict[str, float]:
        lines = (await self.get("/metrics"))[1].splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {sample: float(value) for sample, value in samples}


def _sample(name: str, labels: dict[str, str]) -> str:
    """Return the name of a metric with its labels, as `/metrics` has it."""
    wanted = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{name}{{{wanted}}}" if wanted else name


StartTracker = Callable[..., Awaitable[TrackerProcess]]


@pytest.fixture
async def start_tracker() -> AsyncIterator[StartTracker]:
    """Start trackers. At the end, each must stop with code 0 and have logged no error."""
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
    """Return a tracker with default settings."""
    return await start_tracker()


Share = Callable[..., Awaitable[SharedTracker]]


@pytest.fixture(scope="module")
async def _shared() -> AsyncIterator[dict[str, SharedTracker]]:
    """Return the trackers that the tests of a module share, by their settings. At the end, each must stop with 0."""
    shared: dict[str, SharedTracker] = {}
    yield shared
    assert [await tracker.stop() for tracker in shared.values()] == [0] * len(shared)


@pytest.fixture
async def share_tracker(_shared: dict[str, SharedTracker]) -> AsyncIterator[Share]:
    """Start a tracker with these settings if no earlier test of the module has; else take that one.

    For tests that neither change nor stop it. At the end, it must still run and have logged no error.
    """
    used: list[SharedTracker] = []

    async def share(env: dict[str, str] | None = None) -> SharedTracker:
        key = json.dumps(env, sort_keys=True)
        if key not in _shared:
            _shared[key] = await SharedTracker.start(env=env)
        await _shared[key].begin()
        used.append(_shared[key])
        return _shared[key]

    yield share
    assert [line for tracker in used for line in tracker.complaints()] == []
    assert [tracker.process.returncode for tracker in used] == [None] * len(used)


@pytest.fixture
async def shared_tracker(share_tracker: Share) -> SharedTracker:
    """Return a tracker with default settings that the tests of a module share."""
    return await share_tracker()
