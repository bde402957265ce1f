"""Nodes of one tracker in this process: real trackers with sockets, connected by a bus in memory."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from extensions.cluster.extension import ClusterNode
from extensions.cluster.transport import Bus, InProcess
from extensions.federation.extension import Federation
from extensions.identity import KEY_FILE, load_or_create, tracker_id
from tests.client import eventually
from tests.integration.conftest import Running


class Connected(ClusterNode):
    """A node on a bus."""

    bus: Bus

    def connect(self) -> InProcess:
        return self.bus.transport()


class Nodes:
    """The nodes of one tracker."""

    def __init__(self, serve: Callable[..., Awaitable[Running]], directory: Path) -> None:
        self.bus = Bus()
        self.trackers: list[Running] = []
        self._living: list[int] = []
        self._ending: list[asyncio.Task[None]] = []
        self._serve = serve
        self._directory = directory
        self._delivering: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        """The id of the tracker."""
        return tracker_id(load_or_create(self._directory / "0"))

    @property
    def gateway(self) -> int:
        """The number of the gateway."""
        (here,) = self._gateways()
        return here

    async def start(self, count: int, ports: Sequence[int] = (), **settings: Any) -> None:
        """Start nodes, and wait until one is the gateway. `settings` are those of the extension `federation`."""
        self._delivering = asyncio.ensure_future(self._deliver())
        connected: Any = type("Connected", (Connected,), {"bus": self.bus})
        for number in range(count):
            directory = self._directory / str(number)
            if number:
                directory.mkdir()
                shutil.copy(self._directory / "0" / KEY_FILE, directory / KEY_FILE)
            tracker = await self._serve(
                {"cluster": connected, "federation": Federation},
                {
                    "server": {
                        "state_dir": str(directory),
                        "port": ports[number] if ports else 0,
                        # On a busy machine, a link needs some time to take leave.
                        "shutdown_timeout": 10,
                    }
                },
                cluster={"enabled": True, "label": f"node{number}"},
                federation=settings,
            )
            self.trackers.append(tracker)
            self._living.append(number)
        await self.elected()

    async def elected(self) -> None:
        """Wait until there is one gateway, and its federation runs."""

        def is_there() -> bool:
            here = self._gateways()
            return len(here) == 1 and self.trackers[here[0]].extension("federation").mesh is not None

        await eventually(is_there)

    def kill(self, number: int) -> None:
        """End a node without a word: its clients and the other nodes notice at once."""
        self._living.remove(number)
        ended = self._transport(number)
        ended.end()
        server = self.trackers[number].server
        server.abort()
        # Otherwise its port would still accept connections.
        self._ending.append(asyncio.ensure_future(server.stop()))
        node_id = self.trackers[number].extension("cluster").node.node_id
        for other in self._living:
            self._transport(other).lose(node_id)

    async def stop(self) -> None:
        """Stop the nodes."""
        await asyncio.gather(*self._ending)
        for tracker in self.trackers:
            await tracker.server.stop()
        if self._delivering:
            self._delivering.cancel()

    def _gateways(self) -> list[int]:
        nodes = {number: self.trackers[number].extension("cluster").node for number in self._living}
        return [number for number, node in nodes.items() if node.parts.gateway.is_here]

    def _transport(self, number: int) -> InProcess:
        transport = self.trackers[number].extension("cluster").transport
        assert isinstance(transport, InProcess)
        return transport

    async def _deliver(self) -> None:
        while True:
            await asyncio.sleep(0.001)
            self.bus.run()
