"""A log whose reader hangs, is paused or is gone: the tracker serves as ever, and ends in time."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.client import eventually, offers, raw_client
from tests.conftest import ALONE, PATIENCE, TrackerProcess, environment, free_port
from tests.integration.friend import install
from tests.unit.fakes import peer_id
from tracker.extension import Extension, Swarm
from tracker.streams import MAX_QUEUED

LINES = 4 * MAX_QUEUED // 1000


class Talkative(Extension):
    """Writes far more than fits the queue to both standard streams whenever a swarm opens."""

    async def swarm_opened(self, swarm: Swarm) -> None:
        for stream in (sys.stdout, sys.stderr):
            for number in range(LINES):
                print(json.dumps({"event": "said", "number": number, "text": "x" * 1000}), file=stream)
        self.tracker.log.info("has_talked")


class Silent(TrackerProcess):
    """A tracker whose log nothing reads."""

    async def logged(self, *events: str) -> dict[str, Any]:
        raise AssertionError("nothing reads the log")

    async def _read_log(self) -> None: ...


@asynccontextmanager
async def serve(stderr: int, stdout: int | None = None, **env: str) -> AsyncIterator[Silent]:
    """Start a tracker with these descriptors. In the end, SIGTERM must end it in time, with code 0."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tracker", "serve", "--host", "127.0.0.1", "--port", str(port)),
        *("--log-format", "json", "--log-level", "debug"),
        stdout=stdout,
        stderr=stderr,
        env={**os.environ, **ALONE, **env},
    )
    tracker = Silent(process, "127.0.0.1")
    tracker.port = port
    try:
        await eventually(lambda: _is_listening(tracker), PATIENCE)
        yield tracker
        assert await tracker.stop() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _is_listening(tracker: Silent) -> bool:
    assert tracker.process.returncode is None
    try:
        return (await tracker.get("/health"))[0] == 200
    except OSError:
        return False


async def assert_serves(tracker: TrackerProcess) -> None:
    """Check that peers meet and pages answer, after requests that are logged."""
    for _ in range(30):
        reader, writer = await asyncio.open_connection(tracker.host, tracker.port)
        writer.write(b"\x16\x03\x01\x02\x00\r\n\r\n")
        await reader.read()
        writer.close()
    async with raw_client(tracker.url) as a, raw_client(tracker.url) as b:
        await a.announce(peer_id(1))
        await b.announce(peer_id(2), offers=offers(1))
        assert (await a.receive())["peer_id"] == peer_id(2)
    assert (await tracker.get("/health"))[0] == 200


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe: the descriptors for reading and for writing."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


def fill(writer: int) -> None:
    """Write to a pipe until it has no room, and leave it in blocking mode."""
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"\n")
    os.set_blocking(writer, True)


async def test_a_reader_that_hangs_from_the_start(pipe: tuple[int, int]) -> None:
    fill(pipe[1])
    async with serve(pipe[1]) as tracker:
        await assert_serves(tracker)


async def test_a_reader_that_hangs_for_a_while(tmp_path: Path, pipe: tuple[int, int]) -> None:
    install(tmp_path, "talkative", "tests.integration.test_log_reader:Talkative")
    env = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    out = os.pipe()
    async with serve(pipe[1], out[1], **env, **environment("extensions.talkative", enabled=True)) as tracker:
        os.close(pipe[1])
        os.close(out[1])
        async with raw_client(tracker.url) as client:
            await client.announce(peer_id(1))
            await assert_serves(tracker)
        dropped = await tracker.metric("peerservers_log_lines_dropped_total")
        assert dropped > LINES
        reading = [asyncio.create_task(asyncio.to_thread(_read, end)) for end in (pipe[0], out[0])]
        await asyncio.sleep(0)
        # The reader is back: all lines from now on are there.
        tracker.tell(signal.SIGHUP)
        await eventually(lambda: _is_reloaded(tracker))
        assert await tracker.metric("peerservers_log_lines_dropped_total") == dropped
        tracker.tell(signal.SIGTERM)
        # The pipe has empty lines only where the test has filled it.
        log, said = [[json.loads(line) for line in (await lines).splitlines()] for lines in reading]
    os.close(out[0])
    for lines in (log, said):
        numbers = [line["number"] for line in lines if line["event"] == "said"]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= MAX_QUEUED // 2000
    missing = [line["lines"] for lines in (log, said) for line in lines if line["event"] == "lines_dropped"]
    assert sum(missing) == dropped
    events = [line["event"] for line in log]
    assert events[0] == "listening"
    assert events.index("said") < events.index("lines_dropped") < events.index("reloaded")
    assert events[-2:] == ["stopping", "stopped"]


async def _is_reloaded(tracker: TrackerProcess) -> bool:
    return await tracker.metric("peerservers_reloads_total", result="done") > 0


def _read(descriptor: int) -> bytes:
    with open(descriptor, "rb", closefd=False) as stream:
        return stream.read()


async def test_a_paused_terminal() -> None:
    terminal, slave = os.openpty()
    # Without echo: nothing but the tracker writes.
    tty.setcbreak(slave)
    try:
        os.write(terminal, b"\x13")
        async with serve(slave) as tracker:
            await assert_serves(tracker)
    finally:
        os.close(slave)
        os.close(terminal)


async def test_a_reader_that_is_gone(pipe: tuple[int, int]) -> None:
    async with serve(pipe[1]) as tracker:
        os.close(pipe[0])
        await assert_serves(tracker)
        os.close(pipe[1])


def test_a_mistake_ends_a_tracker_also_if_nothing_reads_the_error(pipe: tuple[int, int]) -> None:
    fill(pipe[1])
    command = [sys.executable, "-m", "tracker", "serve", "--host", "192.0.2.1", "--port", "0"]
    done = subprocess.run(command, stderr=pipe[1], env={**os.environ, **ALONE}, timeout=PATIENCE, check=False)
    assert done.returncode == 2


def test_everything_arrives_before_a_crash() -> None:
    """Python writes the traceback of the exception that ends it."""
    code = (
        "import sys; from tracker.logs import queue_standard_streams; queue_standard_streams();"
        "[print(number, file=stream) for number in range(10000) for stream in (sys.stdout, sys.stderr)]; 1/0"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False)
    numbers = "".join(f"{number}\n" for number in range(10_000))
    assert done.stdout == numbers
    assert done.stderr.startswith(numbers + "Traceback")
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert done.returncode == 1
