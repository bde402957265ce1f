"""Processes without sockets that are one tracker, for tests of the gateway."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

from prometheus_client import CollectorRegistry

from tests.unit.fakes import HubHarness
from tracker.access.gate import ConnectionGate, SocketBudget
from tracker.access.lists import AccessLists
from tracker.config import load
from tracker.extension import Extension, Gateway, Receiver, TrackerHandle
from tracker.extension.host import ExtensionHost
from tracker.net.endpoint import Endpoint
from tracker.settings import Access, Settings


class FakeStream:
    """One end of a stream. Its data arrives in a later turn of the event loop."""

    def __init__(self) -> None:
        self.other: FakeStream
        self.receiver: Receiver | None = None
        self.is_open = True
        self.sent = 0
        """Bytes."""

    def send(self, data: bytes) -> bool:
        if self.is_open:
            self.sent += len(data)
            asyncio.get_running_loop().call_soon(self.other.arrives, data)
        return self.is_open

    def end(self) -> None:
        if self.is_open:
            self.is_open = False
            asyncio.get_running_loop().call_soon(self.other.ends)

    def arrives(self, data: bytes) -> None:
        if self.is_open and self.receiver:
            self.receiver.on_data(data)

    def ends(self) -> None:
        """The stream ends because of the other end, or because its data was lost."""
        if self.is_open:
            self.is_open = False
            if self.receiver:
                self.receiver.on_end()


class Bus:
    """Connects nodes in one process."""

    def __init__(self) -> None:
        self.gateway: Gateway | None = None
        self.max_piece = 1000
        self.streams: list[FakeStream] = []
        """The ends of streams at the nodes that have opened them."""
        self.asked = 0

    async def ask(self, question: bytes) -> bytes | None:
        self.asked += 1
        return await self.gateway.answer(question) if self.gateway else None

    def open_stream(self, opening: bytes, receiver: Receiver) -> FakeStream | None:
        if self.gateway is None:
            return None
        here, there = FakeStream(), FakeStream()
        here.other, there.other, here.receiver = there, here, receiver
        there.receiver = self.gateway.accept(opening, there)
        if there.receiver is None:
            there.end()
        self.streams.append(here)
        return here

    def move(self, gateway: Gateway | None) -> None:
        """Make a node the gateway."""
        if self.gateway:
            self.gateway.move(False)
        self.gateway = gateway
        if gateway:
            gateway.move(True)

    def lose(self) -> None:
        """The gateway dies: its streams end."""
        self.gateway = None
        for stream in self.streams:
            stream.ends()


class Node(Extension):
    """Makes the process a node of a cluster, on the bus of its class."""

    bus: Bus

    def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
        super().__init__(tracker, settings)
        self.max_piece = self.bus.max_piece
        self.gateway = tracker.join_cluster(self)

    def ask_gateway(self, question: bytes) -> Awaitable[bytes | None]:
        return self.bus.ask(question)

    def open_stream(self, opening: bytes, receiver: Receiver) -> FakeStream | None:
        return self.bus.open_stream(opening, receiver)


def node_on(bus: Bus) -> type[Node]:
    """Return the extension of a node on a bus."""
    return type("Node", (Node,), {"bus": bus})


class Process:
    """The extensions of one process, without sockets."""

    def __init__(self, *classes: type[Extension], **settings: Any) -> None:
        named = {kind.__name__.lower(): kind for kind in classes}
        sections = {name: {"enabled": True} for name in named}
        self.settings = load(None, {"extensions": sections, **settings})
        self.host = ExtensionHost(named, self.settings)
        self.harness = HubHarness(self.host)
        gate = ConnectionGate(Settings(), AccessLists(Access()), SocketBudget(1, 1))
        self.endpoint = Endpoint(Settings().connections, gate)
        self.registry = CollectorRegistry()
        self.host.load(self.harness.hub, self.harness.outbox, self.endpoint, self.registry)

    @property
    def gateway(self) -> Gateway:
        node = self.host.extensions["node"]
        assert isinstance(node, Node)
        return node.gateway

    async def start(self) -> None:
        await self.host.prepare()
        self.host.start()

    async def stop(self) -> None:
        await self.host.stop(time.monotonic() + 5)
