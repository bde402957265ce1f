"""Extensions that run at the gateway of a cluster: they start and stop as this process becomes it and ceases to be."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from tests.client import HASH, eventually, offers
from tests.unit.fakes import HubHarness, peer_id
from tracker.access.gate import ConnectionGate, SocketBudget
from tracker.access.lists import AccessLists
from tracker.config import load
from tracker.core.swarm import RemoteMember, Swarm
from tracker.extension import Extension, Gateway, Offer, TrackerHandle
from tracker.extension.host import ExtensionHost
from tracker.net.endpoint import Endpoint
from tracker.settings import Access, Settings

A, B = peer_id(1), peer_id(2)


class Node(Extension):
    """Makes the process a node of a cluster."""

    def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
        super().__init__(tracker, settings)
        self.gateway = tracker.join_cluster()


class Once(Extension):
    """Exists once in a cluster."""

    at_gateway = True

    def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
        super().__init__(tracker, settings)
        self.heard: list[tuple[Any, ...]] = []
        self.fails = False
        self.member: RemoteMember | None = None

    async def prepare(self) -> None:
        self.heard.append(("prepare",))
        self.tracker.park_offers(lambda _: None)

    async def start(self) -> None:
        self.heard.append(("start",))
        if self.fails:
            raise RuntimeError("as told")

    async def stop(self) -> None:
        self.heard.append(("stop",))

    async def swarm_opened(self, swarm: Swarm) -> None:
        self.heard.append(("opened", swarm.info_hash))
        self.member = self.tracker.add_remote(swarm.info_hash, self)
        if self.member:
            self.tracker.set_remote(self.member, 1, 0)

    async def swarm_closed(self, swarm: Swarm) -> None:
        self.heard.append(("closed", swarm.info_hash))

    async def offers_placed(self, member: RemoteMember, peer_id: str, offers: list[Offer]) -> None:
        self.heard.append(("offers", peer_id, len(offers)))


class Process:
    """The extensions of one process, without sockets."""

    def __init__(self, *classes: type[Extension]) -> None:
        named = {kind.__name__.lower(): kind for kind in classes}
        settings = load(None, {"extensions": {name: {"enabled": True} for name in named}})
        self.host = ExtensionHost(named, settings)
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

    @property
    def once(self) -> Once:
        once = self.host.extensions["once"]
        assert isinstance(once, Once)
        return once

    async def start(self) -> None:
        await self.host.prepare()
        self.host.start()

    async def stop(self) -> None:
        await self.host.stop(time.monotonic() + 5)

    async def heard(self, *events: tuple[Any, ...]) -> None:
        """Wait until the extension has heard exactly these events, and forget them."""
        await eventually(lambda: len(self.once.heard) >= len(events))
        assert self.once.heard == list(events)
        self.once.heard.clear()


@pytest.fixture
async def node() -> AsyncIterator[Process]:
    process = Process(Node, Once)
    await process.start()
    yield process
    await process.stop()


async def test_without_a_cluster_it_starts_at_once() -> None:
    process = Process(Once)
    await process.start()
    await process.heard(("prepare",), ("start",))
    await process.stop()
    await process.heard(("stop",))


async def test_a_node_that_is_not_the_gateway_prepares_only(node: Process) -> None:
    node.harness.join(A, offers=offers(1))
    await asyncio.sleep(0.01)
    await node.heard(("prepare",))
    await node.stop()
    await node.heard()


async def test_each_term_begins_with_the_open_swarms_and_ends_without_remote_members(node: Process) -> None:
    node.harness.join(A)
    connection = node.harness.join(A, "p" * 20)
    for _ in range(3):
        node.once.heard.clear()
        node.gateway.move(True)
        await node.heard(("start",), ("opened", HASH), ("opened", "p" * 20))
        assert node.harness.counts() == (1, 1)
        node.gateway.move(False)
        await node.heard(("stop",))
        assert node.harness.counts() == (0, 1)
    node.harness.hub.close(connection)
    node.once.heard.clear()
    node.gateway.move(True)
    await node.heard(("start",), ("opened", HASH))


async def test_events_that_wait_at_the_end_of_a_term_are_dropped(node: Process) -> None:
    node.gateway.move(True)
    node.harness.join(A)
    await eventually(lambda: ("opened", HASH) in node.once.heard)
    node.once.heard.clear()
    node.harness.join(B, offers=offers(2))
    # They are queued, and not delivered before the next turn of the event loop.
    node.gateway.move(False)
    await eventually(lambda: ("stop",) in node.once.heard)
    node.gateway.move(True)
    await eventually(lambda: ("opened", HASH) in node.once.heard)
    await eventually(lambda: node.harness.counts() == (1, 2))
    assert [event for event in node.once.heard if event[0] == "offers"] in ([], [("offers", B, 1)])
    assert node.once.heard.count(("start",)) == 1


async def test_a_verdict_that_is_taken_back_at_once_starts_nothing(node: Process) -> None:
    await node.heard(("prepare",))
    node.gateway.move(True)
    node.gateway.move(False)
    await asyncio.sleep(0.01)
    await node.heard()


async def test_a_start_that_fails_is_tried_again_in_the_next_term(node: Process) -> None:
    node.once.fails = True
    await node.heard(("prepare",))
    with capture_logs() as log:
        node.gateway.move(True)
        await eventually(lambda: "once" in node.host.tables.off)
    assert [event["event"] for event in log] == ["extension_failed"]
    await node.heard(("start",))
    node.gateway.move(False)
    await asyncio.sleep(0.01)
    await node.heard()
    node.once.fails = False
    node.gateway.move(True)
    await node.heard(("start",))
    assert node.host.tables.off == {}


def test_an_extension_at_the_gateway_cannot_admit_peers() -> None:
    with pytest.raises(TypeError, match="cannot admit"):

        class Admits(Extension):
            at_gateway = True

            async def admit(self, request: object) -> None:
                """Admit all."""


def test_a_process_is_a_node_of_one_cluster() -> None:
    gateway = Gateway()
    gateway.join()
    with pytest.raises(ValueError, match="another cluster"):
        gateway.join()
