"""`peerservers demo`: three linked trackers on this machine, with a page on which a file travels between them."""

import asyncio
import importlib.util
import json
import os
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import click

from extensions.demo.site import serving

HOST: Final = "127.0.0.1"
NAMES: Final = ("A", "B", "C")

SHUTDOWN_TIMEOUT: Final = 2
"""Seconds that a tracker gives its clients to close their connections."""

_MORE_PORTS: Final = 2 * len(NAMES)
_POLL_PERIOD: Final = 0.05
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Tracker:
    """A tracker in a process of its own, with a node in the private DHT."""

    def __init__(self, name: str, port: int, dht_port: int, directory: Path) -> None:
        self.name = name
        self.port = port
        self.node = f"{HOST}:{dht_port}"
        self.url = f"ws://{HOST}:{port}"
        self.process: asyncio.subprocess.Process | None = None
        self._state = directory / name
        self._log = directory / f"{name}.log"

    async def start(self, others: list["Tracker"]) -> None:
        """Start the process. `others` are those that it looks for in the DHT."""
        settings: dict[str, dict[str, object]] = {
            "server": {
                "host": HOST,
                "port": self.port,
                "public_url": self.url,
                "state_dir": os.fspath(self._state),
                "shutdown_timeout": SHUTDOWN_TIMEOUT,
            },
            "extensions.dht": {
                "listen": self.node,
                "bootstrap": [other.node for other in others],
                "private": True,
            },
            "extensions.federation": {"allow_private_addresses": True},
        }
        if not _has_dht():
            settings["extensions.dht"] = {"enabled": False}
            settings["extensions.federation"]["peers"] = [other.url for other in others]
        # Settings of another tracker in this environment must not apply, and the modules must be those of this process.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PEERSERVERS_")}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        for section, values in settings.items():
            prefix = f"PEERSERVERS_{section.replace('.', '__').upper()}__"
            for key, value in values.items():
                environment[prefix + key.upper()] = value if isinstance(value, str) else json.dumps(value)
        with self._log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "extensions.demo.child", "serve"),
                env=environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the demo, which then stops its trackers.
                start_new_session=True,
            )

    async def listening(self) -> None:
        """Wait until it accepts connections."""
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection(HOST, self.port)
                writer.close()
                return
            await asyncio.sleep(_POLL_PERIOD)

    async def ended(self) -> str:
        """Wait for the end of the process. Return a line that describes it."""
        assert self.process
        code = await self.process.wait()
        lines = self._log.read_text(errors="replace").splitlines() or ["its log is empty"]
        return f"tracker {self.name} has ended with code {code}: {lines[-1]}"

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it runs."""
        if self.process:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535 - _MORE_PORTS),
    default=0,
    show_default="free ports",
    help=f"Port of the page; the trackers use the next {_MORE_PORTS} ports.",
)
def demo(port: int) -> None:
    """Run three linked trackers and a page on which a file travels.

    They are processes on this machine, in a private DHT, and talk to no other host. Ctrl-C ends them all.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="peerservers-demo-")))
        ports = _ports_after(port)
        count = len(NAMES)
        trackers = [Tracker(*each, directory) for each in zip(NAMES, ports[:count], ports[count:], strict=True)]
        addresses = [{"name": tracker.name, "url": tracker.url, "public_url": tracker.url} for tracker in trackers]
        try:
            page = stack.enter_context(serving(port, addresses))
        except OSError as error:
            raise _taken(port, error) from None
        failure = asyncio.run(_run(trackers, page))
    if failure:
        raise click.ClickException(failure)


async def _run(trackers: list[Tracker], page: str) -> str | None:
    """Run the trackers until a signal, or until one of them ends: then return a line that says so."""
    stopping = asyncio.Event()
    numbers = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    loop = asyncio.get_running_loop()
    for number in numbers:
        loop.add_signal_handler(number, stopping.set)
    try:
        for tracker in trackers:
            await tracker.start([other for other in trackers if other is not tracker])
        stop = asyncio.ensure_future(stopping.wait())
        ends = [asyncio.ensure_future(tracker.ended()) for tracker in trackers]
        over: list[asyncio.Future[Any]] = [stop, *ends]
        ready = asyncio.gather(*(tracker.listening() for tracker in trackers))
        await asyncio.wait([*over, ready], return_when=asyncio.FIRST_COMPLETED)
        if not ready.cancel():
            click.echo(_welcome(trackers, page))
            await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
        return None if stop.done() else next(end.result() for end in ends if end.done())
    finally:
        for number in numbers:
            # A second Ctrl-C does not wait for clients.
            loop.add_signal_handler(number, _send_all, trackers, signal.SIGKILL)
        _send_all(trackers, signal.SIGTERM)
        for tracker in trackers:
            if tracker.process:
                await tracker.process.wait()


def _send_all(trackers: list[Tracker], number: signal.Signals) -> None:
    for tracker in trackers:
        tracker.send(number)


def _welcome(trackers: list[Tracker], page: str) -> str:
    lines = [f"Page       {page}"]
    lines += [f"Tracker {tracker.name}  {tracker.url.replace('ws', 'http')}/" for tracker in trackers]
    if not _has_dht():
        lines.append("libtorrent is not installed: the trackers know each other from their settings, not from a DHT.")
    return "\n".join([*lines, "Open the page in a browser. Ctrl-C ends all."])


def _has_dht() -> bool:
    return importlib.util.find_spec("libtorrent") is not None


def _ports_after(first: int) -> list[int]:
    """Return the ports of the trackers and their DHT nodes: those after `first`, or free ones if that is 0.

    Each is free for both TCP and UDP, because a DHT node needs both.
    """
    wanted = range(first + 1, first + 1 + _MORE_PORTS) if first else [0] * _MORE_PORTS
    with ExitStack() as held:
        return [_hold(port, held) for port in wanted]


def _hold(port: int, held: ExitStack) -> int:
    while True:
        tcp, udp = (held.enter_context(socket.socket(type=kind)) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM))
        # A port on which another demo has just ended is free.
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tcp.bind((HOST, port))
            udp.bind(tcp.getsockname())
        except OSError as error:
            if port:
                raise _taken(port, error) from None
            continue
        number: int = tcp.getsockname()[1]
        return number


def _taken(port: int, error: OSError) -> click.ClickException:
    return click.ClickException(f"port {port}: {error.strerror}; --port chooses others")
