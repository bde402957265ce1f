"""The trackers that are measured: started one at a time on a core of their own, and looked at from outside."""

import os
import resource
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OURS: Final = "peerservers"
THEIRS: Final = "bittorrent-tracker"

_ROOT: Final = Path(__file__).parent.parent
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_START_TIMEOUT: Final = 15.0
_STOP_TIMEOUT: Final = 15.0


class ServerFailed(Exception):
    """A tracker did not start, or ended before its measurement. The text is one line."""


def known() -> dict[str, str]:
    """The command lines of our tracker and, where its package is installed, npm's."""
    commands = {OURS: f"{shlex.quote(sys.executable)} -m tracker serve --host 127.0.0.1 --port {{port}}"}
    commands[OURS] += " --log-level warning"
    if not shutil.which("node"):
        print(f"{THEIRS} is left out: there is no node")
    elif not (_ROOT / "tests/web/node_modules/bittorrent-tracker").is_dir():
        print(f"{THEIRS} is left out: tests/web/node_modules is missing (tests/prepare installs it)")
    else:
        commands[THEIRS] = "node benchmarks/bittorrent_tracker.mjs {port}"
    return commands


def raise_file_limit() -> None:
    """Let this process and its children have as many sockets as the system allows."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@dataclass(frozen=True)
class Running:
    """A tracker that is up."""

    name: str
    port: int
    process: "subprocess.Popen[bytes]"

    def cpu(self) -> tuple[float, float]:
        """Seconds of (user, system) time that all its threads have used."""
        # The name in parentheses may contain anything; what follows it does not.
        fields = self._proc("stat").rpartition(")")[2].split()
        return int(fields[11]) / _TICKS, int(fields[12]) / _TICKS

    def resident(self) -> float:
        """KiB of memory in RAM."""
        return int(self._proc("statm").split()[1]) * _PAGE / 1024

    def _proc(self, file: str) -> str:
        if self.process.poll() is not None:
            raise ServerFailed(f"{self.name} has ended with code {self.process.returncode}")
        return Path(f"/proc/{self.process.pid}/{file}").read_text()


@contextmanager
def running(name: str, command: str, core: int | None) -> Iterator[Running]:
    """A tracker while it runs, on one core if one is given. Raises `ServerFailed`."""
    port = _free_port()

    def pin() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})

    try:
        process = subprocess.Popen(
            shlex.split(command.replace("{port}", str(port))), cwd=_ROOT, stdout=subprocess.DEVNULL, preexec_fn=pin
        )
    except OSError as error:
        raise ServerFailed(f"{name} cannot be started: {error}") from None
    try:
        server = Running(name, port, process)
        _wait_until_up(server)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_up(server: Running) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline:
        server.cpu()
        try:
            socket.create_connection(("127.0.0.1", server.port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise ServerFailed(f"{server.name} does not listen on port {server.port}")
