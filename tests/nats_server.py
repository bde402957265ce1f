"""Real NATS servers on free loopback ports."""

import asyncio
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.client import PATIENCE, eventually
from tests.conftest import free_port, unavailable

PROGRAM = shutil.which("nats-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class NatsServer:
    """A `nats-server` in a process of its own, which may be started again on the same port.

    Attributes:
        port: The port for clients.
        route: The port for other servers of its cluster.
        config: The content of its configuration file; `reload` and `start` write it.
    """

    def __init__(self, directory: Path, config: dict[str, Any], cluster: Sequence["NatsServer"] = ()) -> None:
        self.port, self.route = free_port(), free_port()
        self.config = {"host": "127.0.0.1", "port": self.port, "lame_duck_duration": "30s", **config}
        self.directory = directory
        if cluster:
            self.config["cluster"] = {
                "name": "test",
                "host": "127.0.0.1",
                "port": self.route,
                "routes": [f"nats://127.0.0.1:{other.route}" for other in cluster],
            }
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """The URL for clients without TLS."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process
        return self._process.pid

    def enable_jetstream(self) -> None:
        """Keep streams in a directory of the server's own, from the next start on."""
        self.config["jetstream"] = {"store_dir": str(self.directory)}

    async def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        if PROGRAM is None:
            unavailable("nats-server")
        self._write()
        with (self.directory / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(PROGRAM, "-c", self._file, stdout=log, stderr=log)
        await eventually(self._is_ready)

    async def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the server, if it runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            await asyncio.wait_for(self._process.wait(), PATIENCE)

    def tell(self, number: signal.Signals) -> None:
        """Send a signal: SIGSTOP and SIGCONT, or SIGUSR2 for the lame duck mode."""
        assert self._process
        self._process.send_signal(number)

    def reload(self) -> None:
        """Let the server adopt the changes of `config`."""
        self._write()
        self.tell(signal.SIGHUP)

    @property
    def log(self) -> str:
        """The lines that the server has logged so far."""
        return (self.directory / "log").read_text()

    @property
    def _file(self) -> Path:
        return self.directory / "server.conf"

    def _write(self) -> None:
        # JSON is a subset of the server's own format.
        self._file.write_text(json.dumps(self.config))

    async def _is_ready(self) -> bool:
        assert self._process
        assert self._process.returncode is None, self.log
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        try:
            return (await reader.readline()).startswith(b"INFO")
        except OSError:
            return False
        finally:
            writer.close()


class NatsServers:
    """Starts servers, and ends them with the `async with`."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="nats-"))
        self._servers: list[NatsServer] = []

    async def __aenter__(self) -> "NatsServers":
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            await server.stop()
        shutil.rmtree(self._directory)

    def make(self, cluster: Sequence[NatsServer] = (), **config: Any) -> NatsServer:
        """Return a server with these settings, which does not run yet. It joins the cluster of other servers."""
        directory = self._directory / str(len(self._servers))
        directory.mkdir()
        self._servers.append(NatsServer(directory, config, cluster))
        return self._servers[-1]

    async def start(self, cluster: Sequence[NatsServer] = (), **config: Any) -> NatsServer:
        """Start a server, as `make` returns it."""
        server = self.make(cluster, **config)
        await server.start()
        return server
