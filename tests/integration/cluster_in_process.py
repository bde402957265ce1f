"""Nodes of one tracker in this process: real trackers with sockets, connected by a bus in memory."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic, time
from typing import Any

from extensions.cluster.members import Member
from extensions.cluster.node import TICK, Node
from extensions.cluster.reasons import Left, Refused
from extensions.cluster.streams import NodeStream, Receiver
from extensions.cluster.transport import Bus
from extensions.cluster.wire import Sealer
from extensions.federation.extension import Federation
from extensions.identity import KEY_FILE, load_or_create, tracker_id
from tests.client import eventually
from tests.integration.conftest import Running
from tracker.extension import Extension, TrackerHandle


class Description:
    """A node, as its heartbeats describe it."""

    version = "1.0"

    def __init__(self, number: int) -> None:
        self.label = f"node {number}"
        self.tracker_id = "t" * 64
        self.started = int(time())
        self.is_capable = True

    def numbers(self) -> tuple[int, int, int, int]:
        return 0, 0, 0, 0


class Connected(Extension):
    """Makes the process a node on a bus, as the extension `cluster` does on sockets."""

    network: "Nodes"

    def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
        super().__init__(tracker, settings)
        self.max_piece = 60_000
        network = self.network
        number = len(network.extensions)
        network.extensions.append(self)
        self.id = f"{number:016x}"
        self.transport = network.bus.transport()
        self.gateway = tracker.join_cluster(self)
        loop = asyncio.get_running_loop()
        self.node = Node(
            self.id,
            Description(number),
            Sealer(self.id, "test", None),
            self.transport,
            tracker.nodes,
            tracker.swarms,
            monotonic,
            loop.call_soon,
            self,
        )
        self.node.parts.questions.on_ask("gateway", self._answer)
        tracker.nodes.attach(self.node)

    async def start(self) -> None:
        await self.transport.start(self.id, self.node.receive, self.node.lost, lambda _: None)
        self.tracker.repeat_task("tick", TICK, self._tick)

    async def stop(self) -> None:
        await self.tracker.stop_tasks()
        self.node.stop()
        self.network.deliver()
        await self.transport.stop()

    async def _tick(self) -> None:
        self.node.tick()

    # The cluster

    async def ask_gateway(self, question: bytes) -> bytes | None:
        gateway = self.node.parts.links.gateway
        if gateway is None:
            return None
        done: asyncio.Future[dict[str, bytes]] = asyncio.get_running_loop().create_future()
        self.node.parts.questions.ask("gateway", question, [gateway.node_id], 2.0, done.set_result)
        return (await done).get(gateway.node_id)

    def open_stream(self, opening: bytes, receiver: Receiver) -> NodeStream | None:
        gateway = self.node.parts.links.gateway
        return None if gateway is None else self.node.parts.streams.open(gateway, opening, receiver)

    def _answer(self, question: bytes, reply: Callable[[bytes], None]) -> None:
        async def answer() -> None:
            reply(await self.gateway.answer(question))

        self.tracker.start_task("answer", answer())

    # The listener of the node

    def node_joined(self, member: Member) -> None: ...
    def node_left(self, member: Member, why: Left) -> None: ...
    def refused(self, reason: Refused, sender: str) -> None: ...
    def round_trip(self, seconds: float) -> None: ...

    def gateway_changed(self, is_here: bool, node_id: str) -> None:
        self.gateway.move(is_here)

    def accept(self, opening: bytes, stream: NodeStream) -> Receiver | None:
        return self.gateway.accept(opening, stream)


class Nodes:
    """The nodes of one tracker."""

    def __init__(self, serve: Callable[..., Awaitable[Running]], directory: Path) -> None:
        self.bus = Bus()
        self.extensions: list[Connected] = []
        self.trackers: list[Running] = []
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
        (here,) = [number for number, one in enumerate(self.extensions) if one.gateway.is_here]
        return here

    async def start(self, count: int, **settings: Any) -> None:
        """Start nodes, and wait until one is the gateway. `settings` are those of the extension `federation`."""
        self._delivering = asyncio.ensure_future(self._deliver())
        connected: Any = type("Connected", (Connected,), {"network": self})
        for number in range(count):
            directory = self._directory / str(number)
            if number:
                directory.mkdir()
                shutil.copy(self._directory / "0" / KEY_FILE, directory / KEY_FILE)
            self.trackers.append(
                await self._serve(
                    {"cluster": connected, "federation": Federation},
                    {"server": {"state_dir": str(directory)}},
                    cluster={},
                    federation=settings,
                )
            )
        await self.elected()

    async def elected(self) -> None:
        """Wait until there is one gateway, and its federation runs."""

        def is_there() -> bool:
            here = [number for number, one in enumerate(self.extensions) if one.gateway.is_here]
            return len(here) == 1 and self.trackers[here[0]].extension("federation").mesh is not None

        await eventually(is_there)

    def kill(self, number: int) -> None:
        """End a node without a word: its clients and the other nodes notice."""
        ended = self.extensions[number]
        ended.transport.end()
        self.trackers[number].server.abort()
        ended.gateway.move(False)
        for other in self.extensions:
            if other is not ended:
                other.transport.lose(ended.id)

    def deliver(self) -> None:
        """Deliver all messages between nodes."""
        self.bus.run()

    async def stop(self) -> None:
        """End the bus."""
        if self._delivering:
            self._delivering.cancel()

    async def _deliver(self) -> None:
        while True:
            await asyncio.sleep(0.001)
            self.bus.run()
