"""Every host that knows an infohash can write to its record. Links do not depend on it, and trackers are found."""

import itertools
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from extensions.dht.krpc.client import Client
from extensions.dht.krpc.traversal import CLOSEST
from extensions.dht.records.keys import days_to_read
from extensions.trackers import RENDEZVOUS
from tests.client import RawClient, answer, eventually, offers, raw_client
from tests.conftest import TrackerProcess, free_port
from tests.federated import PATIENCE, Federation, counted, federation, links
from tests.integration.dht import (
    LOCK,
    RUBBISH,
    Vandal,
    announced,
    client_that_knows,
    forged,
    publishes,
    written_in,
)
from tests.unit.fakes import peer_id


class Peer(NamedTuple):
    """A peer, and where it is."""

    tracker: TrackerProcess
    client: RawClient
    peer_id: str


@dataclass
class Scene:
    """Linked trackers, each with one peer of a swarm, and a client of the vandal's."""

    trackers: Federation
    client: Client
    stack: AsyncExitStack
    announce_port: int
    swarm: bytes = field(default_factory=lambda: os.urandom(20))
    peers: list[Peer] = field(default_factory=list)
    offer_numbers: Iterator[int] = field(default_factory=lambda: itertools.count(step=100))

    @property
    def info_hash(self) -> str:
        return self.swarm.decode("latin-1")

    async def start(self) -> TrackerProcess:
        return await self.trackers.start(announce_port=self.announce_port)

    async def join(self, tracker: TrackerProcess) -> None:
        """Have one more peer, at a tracker that had none."""
        client = await self.stack.enter_async_context(raw_client(tracker.url))
        self.peers.append(Peer(tracker, client, peer_id(len(self.peers))))
        await client.announce(self.peers[-1].peer_id, self.info_hash)

    async def all_counted(self) -> None:
        """Wait until each tracker counts the peers of all."""
        for peer in self.peers:
            await counted(peer.tracker, self.info_hash, complete=0, incomplete=len(self.peers))

    async def come_back(self) -> None:
        """Each peer leaves and comes back, one after the other, so that its tracker sees to its entry in the record."""
        for peer in self.peers:
            await peer.client.announce(peer.peer_id, self.info_hash, event="stopped")
            for other in self.peers:
                if other is not peer:
                    await counted(other.tracker, self.info_hash, complete=0, incomplete=len(self.peers) - 1)
            await peer.client.announce(peer.peer_id, self.info_hash)
            await self.all_counted()

    async def offers_cross(self) -> None:
        """Each peer makes an offer to each other, all of which are at other trackers, and is answered."""
        for maker in self.peers:
            await self._is_answered(maker, [peer for peer in self.peers if peer is not maker])

    async def _is_answered(self, maker: Peer, others: list[Peer]) -> None:
        made = offers(len(others), start=next(self.offer_numbers))
        ids = {offer["offer_id"] for offer in made}
        await maker.client.announce(maker.peer_id, self.info_hash, offers=made)
        for other in others:
            offer = await other.client.receive_until(lambda message: message.get("offer_id") in ids)
            assert offer["peer_id"] == maker.peer_id
            await other.client.send(answer(other.peer_id, maker.peer_id, offer["offer_id"], self.info_hash))
        answers = [await maker.client.receive_until(lambda message: "answer" in message) for _ in others]
        assert {message["peer_id"] for message in answers} == {other.peer_id for other in others}
        assert {message["offer_id"] for message in answers} == ids

    async def vandalise(self, kind: str, slots: int) -> None:
        """Spoil slots of the rendezvous' record and the swarm's at all nodes, until no tracker is found in them."""
        ids = [bytes.fromhex(self.trackers.id_of(peer.tracker)) for peer in self.peers]
        nodes = len(self.trackers.dht.nodes) + len(self.peers)
        now = time.time()
        # Also those that are read from midnight on.
        days = {*days_to_read(now), *days_to_read(now + 120)}

        async def is_spoilt(info_hash: bytes) -> bool:
            value = forged(info_hash, now, ids) if kind == "forged" else RUBBISH
            for vandal in (Vandal(self.client, info_hash, day) for day in days):
                for slot in range(slots):
                    if (await vandal.write(slot, value, LOCK if kind == "locked" else None)).taken < nodes:
                        return False
            # One of them may have looked at it in this moment, and put it right.
            return not await written_in(self.client, info_hash)

        for info_hash in (RENDEZVOUS, self.swarm):
            await eventually(partial(is_spoilt, info_hash), PATIENCE)


@asynccontextmanager
async def linked(directory: Path, announce_port: int = 0) -> AsyncIterator[Scene]:
    """Two trackers that have found each other in the DHT and serve a common swarm, all of which is published."""
    # With the trackers' own it has eight nodes at most, so that all store every record, and the vandal misses none.
    async with (
        federation(directory, nodes=CLOSEST - 3) as trackers,
        client_that_knows(trackers.dht.contacts) as client,
        AsyncExitStack() as stack,
    ):
        scene = Scene(trackers, client, stack, announce_port)
        # One after the other: then only the second one dials, and there is no other link that this one could replace.
        here = await scene.start()
        await publishes(here, 1)
        there = await scene.start()
        await trackers.linked(here, there)
        for tracker in (here, there):
            await scene.join(tracker)
        await scene.all_counted()
        for tracker in (here, there):
            await publishes(tracker, 2)
        yield scene


async def link_between(scene: Scene) -> list[Any]:
    """Return facts that identify the link of the first two trackers, from both ends."""
    here, there = (peer.tracker for peer in scene.peers[:2])
    ends: list[Any] = []
    for tracker, other in ((here, there), (there, here)):
        other_id = scene.trackers.id_of(other)
        link = (await links(tracker))[other_id]
        made = sum(line["event"] == "linked" and line["tracker"] == other_id[:16] for line in tracker.log)
        assert made
        # The URL of a tracker that has dialed becomes known when the DHT has told it.
        url = link["url"] if link["direction"] == "dialed" else ""
        ends.append((link["direction"], url, link["since"], made))
    return ends


async def a_third_joins(scene: Scene) -> None:
    """A tracker that is started now must find the others, and peers of all three must meet."""
    third = await scene.start()
    await scene.join(third)
    await scene.trackers.linked(*(peer.tracker for peer in scene.peers))
    await scene.all_counted()
    await scene.offers_cross()
    # There are no links to other trackers.
    others = {scene.trackers.id_of(peer.tracker) for peer in scene.peers[:-1]}
    assert (await links(third)).keys() == others


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("kind", ["erased", "forged", "locked"])
async def test_a_link_stays_and_a_third_finds_them(kind: str, slots: int, tmp_path: Path) -> None:
    """By announcements at once; if a slot is left, also by the record after a tracker has repaired it."""
    async with linked(tmp_path) as scene:
        before = await link_between(scene)
        await scene.vandalise(kind, slots)
        await scene.offers_cross()
        await a_third_joins(scene)
        assert await link_between(scene) == before


@pytest.mark.parametrize(
    ("kind", "slots", "found_in"),
    [("locked", 1, "r1"), ("locked", 3, "bep5")],
)
async def test_a_third_finds_them_by_the_record_once_they_have_looked_at_it(
    kind: str, slots: int, found_in: str, tmp_path: Path
) -> None:
    # Announcements lead nowhere, unless there is nothing else.
    async with linked(tmp_path, announce_port=0 if found_in == "bep5" else free_port()) as scene:
        before = await link_between(scene)
        await scene.vandalise(kind, slots)
        await scene.come_back()
        ports = {peer.tracker.port for peer in scene.peers}
        urls = {scene.trackers.url_at(port) for port in ports}

        async def are_found() -> bool:
            if found_in == "bep5":
                return {port for _, port in await announced(scene.client, scene.swarm)} == ports
            return await written_in(scene.client, scene.swarm) == dict.fromkeys(urls, found_in)

        await eventually(are_found, PATIENCE)
        await scene.offers_cross()
        await a_third_joins(scene)
        assert await link_between(scene) == before
