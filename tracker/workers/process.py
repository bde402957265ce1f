"""The process of a worker: it does as the supervisor says."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Mapping
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

    def make_server(self, settings: Settings, extensions: Mapping[str, type[Extension]]) -> Server:
        return Server(settings, extensions, self._inherited)

    def handle_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.on_stop, number.name)
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        loop.add_signal_handler(signal.SIGUSR2, lambda: None)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._link = ControlLink(socket.socket(fileno=self._inherited.control), self._told, self._orphaned)

    def on_stop(self, name: str) -> None:
        if not self.is_stopping.is_set():
            structlog.get_logger().debug("stopping", signal=name)
            self.is_stopping.set()

    def started(self) -> None:
        self._link.send("ready", pid=os.getpid(), facts=facts(self.server, self.configuration.file))
        self.tasks.repeat("heartbeat", BEAT_PERIOD, self._beat)

    def warn(self, configuration: Configuration) -> None:
        """Leave the warnings to the supervisor, which has read the same settings."""

    async def _beat(self) -> None:
        self._link.send("beat")

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
            case "adopt":
                self.server.adopt(int(message["place"]))
            case "release":
                self.server.release(int(message["place"]))

    async def _retire(self) -> None:
        await self.server.retire()
        self.is_stopping.set()

    async def reload(self) -> None:
        async with self.reloading:
            await self.adopt()
        self._link.send("reloaded")

    def _orphaned(self) -> None:
        structlog.get_logger().error("supervisor_ended")
        self.on_stop("")
