"""Extensions that run at the gateway of a cluster: they start and stop as this process becomes it and ceases to be."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.client import HASH, eventually, offers
from tests.unit.extension.nodes import Bus, Process, node_on
from tests.unit.fakes import peer_id
from tracker.core.swarm import RemoteMember, Swarm
from tracker.extension import ConfigError, Extension, Offer, TrackerHandle

A, B = peer_id(1), peer_id(2)


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


class OnceProcess(Process):
    """A process with `Once`."""

    @property
    def once(self) -> Once:
        once = self.host.extensions["once"]
        assert isinstance(once, Once)
        return once

    async def heard(self, *events: tuple[Any, ...]) -> None:
        """Wait until the extension has heard exactly these events, and forget them."""
        await eventually(lambda: len(self.once.heard) >= len(events))
        assert self.once.heard == list(events)
        self.once.heard.clear()


@pytest.fixture
async def node() -> AsyncIterator[OnceProcess]:
    process = OnceProcess(node_on(Bus()), Once)
    await process.start()
    yield process
    await process.stop()


async def test_without_a_cluster_it_starts_at_once() -> None:
    process = OnceProcess(Once)
    await process.start()
    await process.heard(("prepare",), ("start",))
    await process.stop()
    await process.heard(("stop",))


async def test_a_node_that_is_not_the_gateway_prepares_only(node: OnceProcess) -> None:
    node.harness.join(A, offers=offers(1))
    await asyncio.sleep(0.01)
    await node.heard(("prepare",))
    await node.stop()
    await node.heard()


async def test_each_term_begins_with_the_open_swarms_and_ends_without_remote_members(node: OnceProcess) -> None:
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


async def test_events_that_wait_at_the_end_of_a_term_are_dropped(node: OnceProcess) -> None:
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


async def test_a_verdict_that_is_taken_back_at_once_starts_nothing(node: OnceProcess) -> None:
    await node.heard(("prepare",))
    node.gateway.move(True)
    node.gateway.move(False)
    await asyncio.sleep(0.01)
    await node.heard()


async def test_a_start_that_fails_is_tried_again_in_the_next_term(node: OnceProcess) -> None:
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


async def test_a_process_is_a_node_of_one_cluster() -> None:
    node = node_on(Bus())
    with pytest.raises(ConfigError, match="another cluster"):
        Process(node, type("Second", (node,), {}))
