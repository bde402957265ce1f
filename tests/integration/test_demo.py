"""`peerservers demo`: its processes end together, whatever happens."""

import asyncio
import fcntl
import os
import pty
import re
import signal
import socket
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.client import eventually
from tests.conftest import free_port
from tests.demo import PATIENCE, Demo, demo, start


async def get(url: str) -> str:
    """Return the body of a response."""

    def read() -> str:
        with urlopen(url, timeout=PATIENCE) as response:
            body: bytes = response.read()
        return body.decode()

    return await asyncio.to_thread(read)


def state_of(running: Demo) -> Path:
    """Return the directory with the state of all its trackers."""
    return Path(running.trackers[0].environ()["PEERSERVERS_SERVER__STATE_DIR"]).parent


def has_node(tracker: Any) -> bool:
    """Return whether the node of a tracker has joined the DHT."""
    return bool(tracker.net_connections("udp"))


class Terminal:
    """The other end of the terminal that controls a process."""

    def __init__(self) -> None:
        self._ours, self._its = pty.openpty()
        self.options = {**dict.fromkeys(("stdin", "stdout", "stderr"), self._its), "preexec_fn": self._take_control}
        """Options of the process."""

    async def open(self) -> asyncio.StreamReader:
        """Return the output of the process. Call it after the start."""
        os.close(self._its)
        reader = asyncio.StreamReader()
        connect = asyncio.get_running_loop().connect_read_pipe
        self._transport, _ = await connect(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._ours, "rb"))
        return reader

    def press_ctrl_c(self) -> None:
        """The terminal then sends SIGINT to the processes that it controls."""
        os.write(self._ours, b"\x03")

    def close(self) -> None:
        """The terminal then sends SIGHUP to them."""
        self._transport.close()

    def _take_control(self) -> None:
        os.setsid()
        fcntl.ioctl(self._its, termios.TIOCSCTTY, 0)


@asynccontextmanager
async def on_terminal() -> AsyncIterator[tuple[Demo, Terminal]]:
    """Start a demo that a terminal controls."""
    terminal = Terminal()
    running = Demo(await start(**terminal.options))
    try:
        await asyncio.wait_for(running.started(await terminal.open()), PATIENCE)
        yield running, terminal
    finally:
        terminal.close()
        running.kill()


async def test_it_prints_urls_that_can_be_opened() -> None:
    async with demo() as running:
        assert list(running.urls) == ["Page", "Tracker A", "Tracker B", "Tracker C"]
        assert "<title>Three trackers, one swarm</title>" in await get(running.urls["Page"])
        for name in ("A", "B", "C"):
            assert "<title>WebTorrent tracker</title>" in await get(running.urls[f"Tracker {name}"])


async def test_only_loopback_addresses_are_bound() -> None:
    async with demo() as running:
        for tracker in running.trackers:
            # The DHT starts while clients are served already.
            await eventually(partial(has_node, tracker), PATIENCE)
            sockets = tracker.net_connections()
            assert {end.ip for each in sockets for end in (each.laddr, each.raddr) if end} == {"127.0.0.1"}


async def test_the_port_can_be_chosen() -> None:
    port = free_port()
    async with demo("--port", str(port)) as running:
        assert list(running.urls.values()) == [f"http://127.0.0.1:{port + number}/" for number in range(4)]


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as other:
        taken = free_port()
        other.bind(("127.0.0.1", taken))
        other.listen()
        for first in (taken, taken - 1, taken - 6):
            process = await start("--port", str(first))
            assert process.stderr
            said = (await process.stderr.read()).decode()
            assert re.fullmatch(rf"peerservers: port {taken}: Address already in use; .*\n", said)
            assert await process.wait() == 2


async def test_settings_of_another_tracker_do_not_apply(tmp_path: Path) -> None:
    settings = {"PEERSERVERS_CONFIG": str(tmp_path / "missing"), "PEERSERVERS_METRICS__PORT": str(free_port())}
    async with demo(env=settings) as running:
        assert "peerservers_" in await get(running.urls["Tracker A"] + "metrics")


async def test_the_trackers_do_not_depend_on_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "tracker").mkdir()
    (tmp_path / "tracker" / "__init__.py").write_text("raise SystemExit('another package')")
    root = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(Path(__file__).parents[2])]))
    async with demo(cwd=tmp_path, env={"PYTHONPATH": root, "PYTHONSAFEPATH": "1"}) as running:
        assert len(running.trackers) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_all(number: signal.Signals) -> None:
    async with demo() as running:
        state = state_of(running)
        running.process.send_signal(number)
        assert await running.ended() == 0
        assert not state.exists()


async def test_ctrl_c_ends_all() -> None:
    async with on_terminal() as (running, terminal):
        terminal.press_ctrl_c()
        assert await running.ended() == 0


async def test_the_end_of_the_terminal_ends_all() -> None:
    async with on_terminal() as (running, terminal):
        terminal.close()
        assert await running.ended() == 0


async def test_trackers_end_if_the_demo_is_killed() -> None:
    async with demo() as running:
        running.process.kill()
        assert await running.ended() == -signal.SIGKILL


async def test_the_end_of_a_tracker_ends_all_and_is_reported() -> None:
    async with demo() as running:
        running.trackers[1].kill()
        assert (await running.errors()).startswith("peerservers: tracker B has ended with code -9: ")
        assert await running.ended() == 2


async def test_a_second_signal_does_not_wait() -> None:
    """Stopped processes handle no signal but SIGKILL."""
    async with demo() as running:
        for tracker in running.trackers:
            tracker.suspend()
        running.process.send_signal(signal.SIGINT)
        with suppress(TimeoutError):
            await asyncio.wait_for(running.process.wait(), 0.5)
        assert running.process.returncode is None
        running.process.send_signal(signal.SIGINT)
        assert await running.ended() == 0
