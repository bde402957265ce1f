"""The process of a worker: it does as the supervisor says."""

import asyncio
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import structlog

from tracker.config import Configuration
from tracker.extension.api import Extension
from tracker.process import TrackerProcess, facts
from tracker.server import Server
from tracker.settings import Settings
from tracker.worker import BEAT_PERIOD, ControlLink, Inherited


class WorkerProcess(TrackerProcess):
    """A worker, from its start to its end.

    It stops when the supervisor says so, when the supervisor has ended, and at a signal. Only the supervisor can make
    it stop at once, because service managers and terminals send their signals to all processes.
    """

    def __init__(
        self,
        configuration: Configuration,
        extensions: Mapping[str, type[Extension]],
        reload: Callable[[], Configuration],
        inherited: Inherited,
    ) -> None:
        super().__init__(configuration, extensions, reload)
        self._inherited = inherited
        self._is_orphan = False

    def make_server(self, settings: Settings, extensions: Mapping[str, type[Extension]]) -> Server:
        return Server(settings, extensions, self._inherited)

    def handle_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.on_stop, number.name)
        for number in (signal.SIGHUP, signal.SIGUSR2):
            # The supervisor gets them, too.
            loop.add_signal_handler(number, lambda: None)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._link = ControlLink(socket.socket(fileno=self._inherited.control), self._told, self._orphaned)

    def on_stop(self, name: str) -> None:
        if not self.is_stopping.is_set():
            structlog.get_logger().debug("stopping", signal=name)
            self.is_stopping.set()

    def started(self) -> None:
        self._link.send("ready", pid=os.getpid(), facts=facts(self.server, self.configuration.file))
        self.tasks.repeat("heartbeat", BEAT_PERIOD, self._beat)

    def ended(self, at_once: bool) -> None:
        structlog.get_logger().debug("stopped_at_once" if at_once else "stopped")
        if self._is_orphan:
            shutil.rmtree(self._inherited.worker.directory, ignore_errors=True)

    def warn(self, doubts: Iterable[str], waiting: Sequence[str] = ()) -> None:
        """Leave the warnings to the supervisor, which has read the same settings."""

    async def reload(self) -> None:
        async with self.reloading:
            await self.adopt()
        self._link.send("reloaded")

    async def _beat(self) -> None:
        self._link.send("beat", connections=len(self.server.endpoint.websockets))

    def _told(self, message: Mapping[str, Any]) -> None:
        match message["kind"]:
            case "stop":
                self.on_stop("")
            case "abort":
                self.is_stopping.set()
                self.is_aborting.set()
            case "retire":
                self.tasks.start("retire", self._retire())
            case "reload":
                self.start_reload()
            case "reload_failed":
                self.server.reloads["failed"] += 1
            case "adopt":
                self.server.adopt(int(message["place"]))
            case "loads":
                self.server.set_loads(message["connections"])
            case "release":
                self.server.release(int(message["place"]))

    async def _retire(self) -> None:
        await self.server.retire()
        self.is_stopping.set()

    def _orphaned(self) -> None:
        structlog.get_logger().error("supervisor_ended")
        self._is_orphan = True
        self.on_stop("")
