"""The trackers that are measured: started one at a time on a core of their own, and observed from outside."""

import os
import re
import resource
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Protocol

from benchmarks.rivals import RIVALS, installed

OURS: Final = "peerservers"
THEIRS: Final = "bittorrent-tracker"

OWN_COMMAND: Final = (
    f"{shlex.quote(sys.executable)} -m benchmarks.observed serve --host 127.0.0.1 --port {{port}} --log-level error"
)
"""The command line of this tracker."""

_ROOT: Final = Path(__file__).parent.parent
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_START_TIMEOUT: Final = 60.0
_STOP_TIMEOUT: Final = 15.0

_SOCKET_MEMORY: Final = re.compile(r"skmem:\(r(\d+),.*?,f(\d+),w(\d+),")


class ServerFailed(Exception):
    """A tracker did not start, or ended before the end of its measurement. The text is one line."""


def known() -> dict[str, str]:
    """Return the command lines of this tracker, of npm's if its package is installed, and of the installed `RIVALS`."""
    commands = {OURS: OWN_COMMAND}
    if not shutil.which("node"):
        print(f"{THEIRS} is left out: there is no node")
    elif not (_ROOT / "tests/web/node_modules/bittorrent-tracker").is_dir():
        print(f"{THEIRS} is left out: tests/web/node_modules is missing (tests/prepare installs it)")
    else:
        commands[THEIRS] = "node benchmarks/bittorrent_tracker.mjs {port}"
    commands |= installed()
    print(*(f"{name} is left out: it is not in PATH\n" for name in RIVALS if name not in commands), sep="", end="")
    return commands


def raise_file_limit() -> None:
    """Let this process and its children have as many sockets as the system allows."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Measured(Protocol):
    """One tracker, as measurements see it; it may be of several processes."""

    @property
    def name(self) -> str: ...
    @property
    def port(self) -> int: ...
    def cpu(self) -> tuple[float, float]: ...
    def busiest_thread(self) -> tuple[float, float]: ...
    def resident(self) -> float: ...
    def socket_memory(self) -> float | None: ...
    def collections(self, since: float) -> list[float] | None: ...


@dataclass(frozen=True)
class Running:
    """A tracker that is running."""

    name: str
    port: int
    process: "subprocess.Popen[bytes]"
    pauses: Path
    """The file for the pauses of its garbage collector; only this tracker writes it."""

    def cpu(self) -> tuple[float, float]:
        """Return the seconds of (user, system) time of all its processes and their threads."""
        # The name in parentheses may contain any character, also parentheses.
        fields = [text.rpartition(")")[2].split() for text in self._proc("stat")]
        return sum(int(one[11]) for one in fields) / _TICKS, sum(int(one[12]) for one in fields) / _TICKS

    def busiest_thread(self) -> tuple[float, float]:
        """Return the seconds that its busiest thread has run, and has been ready while another thread had its core."""
        threads = []
        for number in self._processes():
            for file in Path(f"/proc/{number}/task").glob("*/schedstat"):
                with suppress(OSError):  # A thread may have ended meanwhile.
                    ran, waited, _ = map(int, file.read_text().split())
                    threads.append((ran / 1e9, waited / 1e9))
        return max(threads, default=(0.0, 0.0))

    def resident(self) -> float:
        """Return the resident memory of its processes in KiB. Pages that they share count several times."""
        return sum(int(text.split()[1]) for text in self._proc("statm")) * _PAGE / 1024

    def socket_memory(self) -> float | None:
        """Return the KiB of its sockets' buffers in the kernel; None without the program `ss`."""
        if not shutil.which("ss"):
            return None
        command = ["ss", "-tmnH", "state", "established", f"( sport = :{self.port} )"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return sum(sum(map(int, found.groups())) for found in _SOCKET_MEMORY.finditer(text)) / 1024

    def collections(self, since: float) -> list[float] | None:
        """Return the seconds of each garbage collection since a Unix time; None if it does not record them."""
        if not self.pauses.exists():
            return None
        lines = (line.split() for line in self.pauses.read_text().splitlines())
        return [float(seconds) for began, seconds in lines if float(began) >= since]

    def _proc(self, file: str) -> list[str]:
        """Return the content of a file in /proc for each of its processes."""
        if self.process.poll() is not None:
            raise ServerFailed(f"{self.name} has ended with code {self.process.returncode}")
        return [Path(f"/proc/{number}/{file}").read_text() for number in self._processes()]

    def _processes(self) -> Iterator[int]:
        """Yield the numbers of its process and of the workers that this has started."""
        yield self.process.pid
        yield from map(int, Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split())


@contextmanager
def running(
    name: str, command: str, core: int | None, environment: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Run a tracker during the block, on one core if `core` is given. Raise `ServerFailed`.

    The settings are the defaults, but the DHT is off: a benchmark must not send packets to the Internet.
    """
    port = free_port()

    def pin() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})

    with TemporaryDirectory() as directory:
        pauses = Path(directory, "pauses")
        variables = {
            **os.environ,
            "GC_PAUSES": str(pauses),
            "PEERSERVERS_SERVER__STATE_DIR": directory,
            "PEERSERVERS_EXTENSIONS__DHT__ENABLED": "false",
            **(environment or {}),
        }
        words = [word.replace("{port}", str(port)).replace("{directory}", directory) for word in shlex.split(command)]
        try:
            process = subprocess.Popen(words, cwd=_ROOT, env=variables, stdout=subprocess.DEVNULL, preexec_fn=pin)
        except OSError as error:
            raise ServerFailed(f"{name} cannot be started: {error}") from None
        try:
            server = Running(name, port, process, pauses)
            _wait_until_up(server)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """Return a TCP port that is free now."""
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
