"""Starts and stops the extensions that run at the gateway of a cluster."""

import asyncio
from typing import Final, Protocol

from tracker.extension.gateway import Gateway

STOP_TIMEOUT: Final = 5.0
"""Seconds that an extension has to stop, or `server.shutdown_timeout` if that is less."""

GRACE: Final = 0.5
"""Seconds beyond which an extension that has ignored its timeout is abandoned."""


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
