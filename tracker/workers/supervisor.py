"""The supervisor of the workers of a tracker. It starts, watches, replaces and stops them, and serves no peer."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import structlog

from tracker.config import Configuration
from tracker.settings import Settings
from tracker.systemd import notify
from tracker.worker import Worker
from tracker.workers.child import Child
from tracker.workers.sockets import WorkerSockets


class Supervisor:
    """Runs `count` workers until SIGTERM or SIGINT.

    SIGHUP lets all of them read their settings again, and SIGUSR2 replaces them one after the other.
    """

    def __init__(self, configuration: Configuration, count: int, reload: Callable[[], Configuration]) -> None:
        self._configuration = configuration
        self._count = count
        self._read_settings = reload
        self._numbers = 0
        self._children: list[Child] = []
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()

    async def serve(self) -> int:
        """Serve; return the exit code."""
        log = structlog.get_logger()
        self._directory = Path(tempfile.mkdtemp(prefix="peerservers-"))
        self._sockets = WorkerSockets(self._configuration.settings, self._count)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_stop, number.name)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        try:
            for index in range(self._count):
                self._start(index)
                if index == 0:
                    while self._children and not self._children[0].is_ready:
                        self._changed.clear()
                        await self._changed.wait()
            while not all(child.is_ready for child in self._children):
                self._changed.clear()
                await self._changed.wait()
            for host, port in self._sockets.addresses:
                log.info("listening", host=host, port=port)
            log.info("started", **self._children[0].facts)
            notify("READY=1")
            await self._stopping.wait()
            self._sockets.close()
            while self._children:
                self._changed.clear()
                await self._changed.wait()
            log.info("stopped")
            return 0
        finally:
            self._sockets.close()
            shutil.rmtree(self._directory, ignore_errors=True)

    def _start(self, index: int) -> Child:
        worker = Worker(index, self._count, self._numbers, self._directory)
        self._numbers += 1
        child = Child(worker, self._sockets, self._received)
        self._children.append(child)
        return child

    def _received(self, child: Child, message: Mapping[str, Any]) -> None:
        child.last_beat = monotonic()
        if message["kind"] == "ready":
            child.is_ready = True
            child.facts = message["facts"]
        self._changed.set()

    def _reap(self) -> None:
        for child in list(self._children):
            code = child.poll()
            if code is not None:
                structlog.get_logger().info("worker_ended", code=code)
                self._children.remove(child)
        self._changed.set()

    def _on_stop(self, name: str) -> None:
        if self._stopping.is_set():
            for child in self._children:
                child.tell("abort")
            return
        structlog.get_logger().info("stopping", signal=name)
        notify("STOPPING=1")
        self._stopping.set()
        for child in self._children:
            child.tell("stop")

    def _on_reload(self) -> None:
        for child in self._children:
            child.tell("reload")


def supervise(supervisor: Supervisor) -> int:
    """Run a supervisor; return the exit code."""
    return asyncio.run(supervisor.serve())


def number_of_workers(settings: Settings) -> int:
    """Return the number of workers that the settings ask for."""
    wanted = settings.server.workers
    return len(os.sched_getaffinity(0)) if wanted == "auto" else wanted
