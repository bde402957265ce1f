"""The gateway of a cluster: the one of several processes in which extensions with `at_gateway` run.

In a *cluster*, several processes are one tracker to the outside; each of them is a *node*. An extension makes this
process a node with `TrackerHandle.join_cluster`, and says at which times it is the gateway.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

STOP_TIMEOUT: Final = 5.0
"""Seconds that an extension has to stop, or `server.shutdown_timeout` if that is less."""

GRACE: Final = 0.5
"""Seconds beyond which an extension that has ignored its timeout is abandoned."""


class Gateway:
    """Whether extensions with `at_gateway` run in this process. Without a cluster they always do."""

    def __init__(self) -> None:
        self.is_clustered = False
        """Whether this process is a node of a cluster."""
        self.is_here = True
        """Whether this node is the gateway. A node of a cluster is none until the first verdict."""
        self.on_change: list[Callable[[], None]] = []
        """Called after each change of `is_here`."""

    def join(self) -> None:
        """Make this process a node. Raise `ValueError` if it is one already."""
        if self.is_clustered:
            raise ValueError("this process is a node of another cluster")
        self.is_clustered = True
        self.is_here = False

    def move(self, is_here: bool) -> None:
        """Make this node the gateway, or another one."""
        if is_here != self.is_here:
            self.is_here = is_here
            for call in self.on_change:
                call()


class Runner(Protocol):
    """The part of `ExtensionRunner` that is used here."""

    name: str

    def start(self) -> None: ...
    async def stop(self, timeout: float) -> None: ...  # noqa: ASYNC109


class Terms:
    """Runs one extension whenever this node is the gateway: a *term* is the time from its start to its stop."""

    def __init__(self, runner: Runner, gateway: Gateway) -> None:
        self._runner = runner
        self._gateway = gateway
        self._changed = asyncio.Event()
        self._changed.set()
        self._timeout = STOP_TIMEOUT
        self._is_closing = False
        gateway.on_change.append(self._changed.set)
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"terms of {runner.name}")

    async def stop(self, timeout: float) -> None:  # noqa: ASYNC109 (the runner's `stop` must not be cancelled)
        """End the term, within `timeout` seconds. No other one begins."""
        self._timeout = timeout
        self._is_closing = True
        self._changed.set()
        # A term that was about to end anyway has a timeout of its own.
        await asyncio.wait([self._task], timeout=timeout + GRACE)

    async def _run(self) -> None:
        is_running = False
        while not self._is_closing:
            await self._changed.wait()
            self._changed.clear()
            wanted = self._gateway.is_here and not self._is_closing
            if wanted and not is_running:
                self._runner.start()
            elif is_running and not wanted:
                await self._runner.stop(self._timeout)
            is_running = wanted
