"""Trackers find each other through neighbours, with the DHT and without it."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from extensions.entries import sign_entry
from extensions.federation.discovery import Discovery
from extensions.federation.exchange import Exchange
from extensions.federation.filters import OwnSwarms
from extensions.federation.link import Link, LinkEvent
from extensions.federation.reasons import Gossip
from extensions.federation.referrals import PERIOD
from extensions.trackers import RENDEZVOUS_TEXT, Sighting, TrackerEntry
from tests.client import HASH, eventually
from tests.unit.fakes import HubHarness, peer_id
from tests.unit.federation.links import key, tracker_id
from tests.unit.federation.network import Network
from tracker.extension.api import TrackerHandle
from tracker.settings import Settings


class FakeFinder:
    """The extension `dht` of a tracker that publishes itself, and finds nothing."""

    def __init__(self, number: int, url: str) -> None:
        self.started = asyncio.Event()
        self.started.set()
        self.service = object()
        self.learned: dict[str, list[TrackerEntry]] = {}
        self.distrusted: list[tuple[str, str]] = []
        self._own = sign_entry(key(number), b"", url, time.time())
        self._listeners: list[Any] = []

    def on_sighting(self, tell: Any) -> None:
        self._listeners.append(tell)

    def learn(self, info_hash: str, entry: TrackerEntry) -> bool:
        self.learned.setdefault(info_hash, []).append(entry)
        for tell in self._listeners:
            tell(info_hash or RENDEZVOUS_TEXT, Sighting(entry, "link"))
        return True

    def known(self, info_hash: str) -> list[Sighting]:
        return [Sighting(entry, "link") for entry in self.entries(info_hash)]

    def entries(self, info_hash: str) -> list[TrackerEntry]:
        return self.learned.get("" if info_hash == RENDEZVOUS_TEXT else info_hash, [])

    def own_descriptor(self) -> TrackerEntry | None:
        return self._own

    def distrust(self, tracker_id: str, url: str) -> None:
        self.distrusted.append((tracker_id, url))


class Node(HubHarness):
    """A tracker without sockets, with its links and its discovery."""

    def __init__(self, network: Network, number: int, finder: Any = None, **settings: Any) -> None:
        super().__init__()
        endpoint: Any = None
        self.handle = TrackerHandle("federation", Settings(), self.hub, self.remote, endpoint, CollectorRegistry())
        swarms = OwnSwarms()
        self.mesh = network.add(number, self._on_event, self._on_end, self._refer, swarms, **settings)
        self.exchange = Exchange(self.handle, self.mesh.id, lambda _: False, swarms)
        self.finder = finder
        self.discovery = Discovery(self.handle, self.mesh, self.exchange, finder, False)
        self.discovery.start()

    def open(self, number: int, info_hash: str = HASH) -> None:
        """Let a peer join."""
        self.join(peer_id(number), info_hash)
        swarm = self.hub.swarms[info_hash]
        self.exchange.swarm_opened(swarm)
        self.discovery.swarm_opened(swarm)

    def _on_event(self, link: Link, event: LinkEvent) -> None:
        self.discovery.on_event(link, event)

    def _on_end(self, link: Link) -> None:
        self.discovery.on_end(link)

    def _refer(self, link: Link) -> None:
        self.discovery.refer(link)


@pytest.fixture
async def nodes() -> AsyncIterator[dict[int, Node]]:
    """Yield a dict for the trackers of a test. They stop at the end."""
    nodes: dict[int, Node] = {}
    yield nodes
    for node in nodes.values():
        await node.handle.stop_tasks()
        assert not node.handle.task_failures.total()


@pytest.mark.parametrize("has_dht", [True, False])
async def test_a_neighbour_names_others_which_are_linked_then(
    network: Network, nodes: dict[int, Node], has_dht: bool
) -> None:
    for number in (1, 2, 3):
        finder = FakeFinder(number, network.url(number)) if number > 1 or has_dht else None
        nodes[number] = Node(network, number, finder)
    await network.link(3, 2)
    await network.link(1, 2)
    await eventually(lambda: nodes[2].discovery.url_of(tracker_id(3)) == network.url(3))
    assert (nodes[2].discovery.url_of(tracker_id(1)) == network.url(1)) == has_dht, "a tracker that publishes nothing"
    nodes[1].discovery.referrals.ask(time.monotonic() + PERIOD)
    await eventually(lambda: tracker_id(3) in nodes[1].mesh.links)
    assert nodes[1].discovery.referrals.counters[Gossip.LEARNED] >= 1
    assert nodes[1].discovery.unlinked == 0


async def test_a_refused_tracker_is_told_of_others_and_links_with_these(
    network: Network, nodes: dict[int, Node]
) -> None:
    nodes[1] = Node(network, 1, max_links=1)
    for number in (2, 3):
        nodes[number] = Node(network, number, FakeFinder(number, network.url(number)))
    await network.link(2, 1)
    await eventually(lambda: nodes[1].discovery.url_of(tracker_id(2)) == network.url(2))
    member: Any = object()
    nodes[1].mesh.links[tracker_id(2)].account.members[HASH] = member
    assert (await network.dial(3, 1)).given == "too_many_links"
    await eventually(lambda: tracker_id(2) in nodes[3].mesh.links)


async def test_trackers_of_an_open_swarm_are_dialed_for_it(network: Network, nodes: dict[int, Node]) -> None:
    node = nodes[1] = Node(network, 1)
    nodes[2] = Node(network, 2)
    entry = TrackerEntry(tracker_id(2), 2**40, network.url(2), bytes(64))
    node.discovery.on_sighting(HASH, Sighting(entry, "r0"))
    assert node.discovery.pursuits.pursued == 0, "it is not open here"
    assert node.discovery.unlinked == 1
    node.open(1)
    nodes[2].open(2)
    node.discovery.on_sighting(HASH, Sighting(entry, "r0"))
    await eventually(lambda: bool(node.mesh.links and nodes[2].mesh.links))
    (link,) = nodes[2].mesh.links.values()
    assert list(link.wanted) == [HASH], "it is told why"
    assert (node.discovery.degree(HASH), node.discovery.degree(RENDEZVOUS_TEXT)) == (0, 1)
    assert (node.discovery.is_lonely(HASH), node.discovery.is_lonely(RENDEZVOUS_TEXT)) == (True, False)


async def test_a_url_that_leads_to_another_tracker_is_distrusted(network: Network, nodes: dict[int, Node]) -> None:
    finder = FakeFinder(1, network.url(1))
    node = nodes[1] = Node(network, 1, finder)
    nodes[2] = Node(network, 2)
    old = TrackerEntry(tracker_id(3), 2**40, network.url(2), bytes(64))
    node.discovery.on_sighting(RENDEZVOUS_TEXT, Sighting(old, "r0"))
    await eventually(lambda: finder.distrusted == [(tracker_id(3), network.url(2))])
    assert not node.discovery.pursuits.want(old)
    newer = TrackerEntry(tracker_id(3), 2**41, network.url(2), bytes(64))
    assert node.discovery.pursuits.want(newer)
