"""Links of trackers that are connected in memory: accepting, opening, and one link for each pair."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from extensions.federation import mesh as module
from extensions.federation.handshake import LinkError
from extensions.federation.link import Link
from extensions.federation.mesh import MAX_HANDSHAKES, MAX_HANDSHAKES_PER_HOST, Mesh
from extensions.federation.reasons import Ended, EndReason
from extensions.federation.settings import FederationSettings
from extensions.federation.transports import Dialed, Transport
from tests.client import HASH, PATIENCE, eventually
from tests.unit.federation.links import key, tracker_id
from tracker.extension import ChannelClosed, CloseReason


class Wire(Transport):
    """One end of a connection. `send` is also that of a channel, which returns at once."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.other = self
        self.is_closed = False

    async def receive(self) -> bytes:
        frame = await self.inbox.get()
        if frame is None:
            raise LinkError(EndReason.LOST)
        return frame

    async def send(self, frame: bytes) -> None:
        if self.is_closed or self.other.is_closed:
            raise LinkError(EndReason.LOST)
        self.other.inbox.put_nowait(frame)

    async def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            for end in (self, self.other):
                end.inbox.put_nowait(None)


class FakeChannel:
    """The accepted end of a connection, in place of `tracker.extension.Channel`."""

    blocked_since = 0.0

    def __init__(self, wire: Wire, remote_address: str) -> None:
        self.remote_address = remote_address
        self.reason: CloseReason | None = None
        self._wire = wire

    async def receive(self) -> tuple[bytes, bool]:
        frame = await self._wire.inbox.get()
        if frame is None:
            raise ChannelClosed("closed")
        return frame, True

    def send(self, frame: bytes) -> bool:
        if not self._wire.is_closed:
            self._wire.other.inbox.put_nowait(frame)
        return not self._wire.is_closed

    def close(self, _code: int, reason: CloseReason) -> None:
        self.reason = reason
        self._wire.is_closed = True
        self._wire.other.inbox.put_nowait(None)


class Network:
    """Trackers by number."""

    def __init__(self) -> None:
        self.meshes: dict[int, Mesh] = {}
        self.refused: list[str] = []
        """The tracker ids of those for which there was no room."""
        self.failures: Counter[str] = Counter()
        self.tasks: set[asyncio.Task[Any]] = set()

    def url(self, number: int) -> str:
        return f"wss://t{number}.example"

    def add(self, number: int, **settings: Any) -> Mesh:
        """Start a tracker."""

        async def connect(url: str, _trusted: bool) -> Transport:
            return self.connect(url)

        mesh = self.meshes[number] = Mesh(
            FederationSettings(**settings),
            key(number),
            self.url(number),
            lambda *_: None,
            lambda _: None,
            lambda link: self.refused.append(link.tracker_id),
            self.failures,
            connect,
        )
        return mesh

    def connect(self, url: str, address: str = "10.0.0.1") -> Wire:
        """Connect to a tracker. Return this side's end."""
        mesh = next(mesh for number, mesh in self.meshes.items() if self.url(number) == url)
        here, there = Wire(), Wire()
        here.other, there.other = there, here
        channel: Any = FakeChannel(there, address)

        async def serve() -> None:
            await mesh.accept(channel)
            channel.close(1000, CloseReason.CLOSED_BY_EXTENSION)

        self.start(serve())
        return here

    def start(self, running: Awaitable[Any]) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.ensure_future(running)
        self.tasks.add(task)
        return task

    def dial(self, here: int, there: int, expected: str | None = "", **options: Any) -> asyncio.Task[Any]:
        """Have one tracker dial another one. Return the task that ends with the link."""
        mesh = self.meshes[here]

        async def dial() -> Ended:
            transport = await mesh.connect(self.url(there), False)
            assert not isinstance(transport, Ended)
            return await mesh.serve(transport, self.url(there), expected or tracker_id(there), **options)

        return self.start(dial())

    async def link(self, here: int, there: int, **options: Any) -> Link:
        """Make a link, and return the end of the dialer."""
        self.dial(here, there, **options)
        ours, theirs = self.meshes[here], self.meshes[there]
        await eventually(lambda: theirs.id in ours.links and ours.id in theirs.links)
        return ours.links[theirs.id]


@pytest.fixture
async def network() -> AsyncIterator[Network]:
    network = Network()
    yield network
    await asyncio.gather(*(mesh.stop() for mesh in network.meshes.values()))
    for task in network.tasks:
        task.cancel()
    for result in await asyncio.gather(*network.tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result
    assert not network.failures.total()


@asynccontextmanager
async def full(network: Network) -> AsyncIterator[tuple[Mesh, Link]]:
    """Yield a tracker with its only link, which is unused, but has a common swarm."""
    mesh = network.add(1, max_links=1)
    network.add(2)
    await network.link(2, 1)
    link = mesh.links[tracker_id(2)]
    member: Any = object()
    link.account.members[HASH] = member
    link.account.last_used -= 1000
    yield mesh, link


async def test_a_link_in_use_stays_and_the_other_tracker_is_told_so(network: Network) -> None:
    async with full(network) as (mesh, link):
        link.account.last_used += 1000
        network.add(3)
        with capture_logs() as logs:
            ended = await network.dial(3, 1)
        assert (ended.reason, ended.given) == (EndReason.CLOSED_THERE, "too_many_links")
        assert mesh.links == {tracker_id(2): link}
        assert network.refused == [tracker_id(3)]
        assert network.meshes[3].closed_there == {"too_many_links": 1}
        (line,) = [line for line in logs if line["event"] == "links_full"]
        assert (line["max_links"], line["log_level"]) == (1, "warning")
        with capture_logs() as logs:
            await network.dial(3, 1)
        assert not any(line["event"] == "links_full" for line in logs), "once is enough for a while"
        assert mesh.refused == 2
        assert mesh.shortage == "max_links is reached"


async def test_an_unused_link_gives_way_only_to_one_with_a_common_swarm(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with full(network) as (mesh, _):
        network.add(3)
        assert (await network.dial(3, 1)).given == "too_many_links"
        monkeypatch.setattr(Link, "wanted", [HASH])
        await network.link(3, 1)
        assert list(mesh.links) == [tracker_id(3)]
        assert network.refused == [tracker_id(3), tracker_id(2)]
        await eventually(lambda: not network.meshes[2].links)
        assert network.meshes[2].closed_there == {"idle": 1}


async def test_ids_that_cost_nothing_do_not_push_out_links_in_use(network: Network) -> None:
    mesh = network.add(1, max_links=10)
    for number in range(2, 12):
        network.add(number)
        await network.link(number, 1)
    member: Any = object()
    used = [tracker_id(number) for number in range(2, 7)]
    for one in used:
        mesh.links[one].account.members[HASH] = member
    for number in range(50, 100):
        network.add(number)
        network.dial(number, 1)
    await eventually(lambda: mesh.opened["accepted"] + mesh.ended[EndReason.TOO_MANY_LINKS] >= 60)
    assert set(used) <= mesh.links.keys()
    assert len(mesh.links) == 10


async def test_a_listed_tracker_stays_and_is_linked_beyond_the_maximum(network: Network) -> None:
    network.add(2)
    mesh = network.add(1, max_links=1, peers=[network.url(2)])
    mesh.listed[network.url(2)].tracker_id = tracker_id(2)
    network.add(3)
    await network.link(3, 1)
    await network.link(2, 1)
    assert len(mesh.links) == 2
    network.add(4)
    await network.link(4, 1)
    assert set(mesh.links) == {tracker_id(2), tracker_id(4)}


async def test_a_flood_of_handshakes_gets_a_reason(network: Network) -> None:
    mesh = network.add(1)
    silent = [network.connect(network.url(1)) for _ in range(MAX_HANDSHAKES)]
    await eventually(lambda: mesh.handshakes == MAX_HANDSHAKES)
    for _ in range(20):
        wire = network.connect(network.url(1))
        frame = await asyncio.wait_for(wire.receive(), PATIENCE)
        assert json.loads(frame) == {"type": "bye", "reason": "too_many_links"}
        with pytest.raises(LinkError):
            await wire.receive()
    assert mesh.handshakes == MAX_HANDSHAKES
    assert mesh.ended == {"too_many_links": 20}
    # To the dialer, that is the same as any refusal.
    network.add(2)
    assert (await network.dial(2, 1)).given == "too_many_links"
    for wire in silent:
        await wire.close()
    await eventually(lambda: mesh.handshakes == 0)
    await network.link(2, 1)


async def test_one_public_address_has_some_of_the_places_for_handshakes(network: Network) -> None:
    mesh = network.add(1)
    for _ in range(MAX_HANDSHAKES_PER_HOST):
        network.connect(network.url(1), "192.0.32.8")
    await eventually(lambda: mesh.handshakes == MAX_HANDSHAKES_PER_HOST)
    wire = network.connect(network.url(1), "192.0.32.8")
    assert json.loads(await wire.receive())["reason"] == "too_many_links"
    wire = network.connect(network.url(1), "192.0.32.9")
    assert json.loads(await wire.receive())["type"] == "hello"


async def test_a_restarted_tracker_with_a_new_key_shuns_nobody_and_is_not_shunned(network: Network) -> None:
    network.add(1)
    network.add(2)
    old = tracker_id(3)
    ended = await network.dial(2, 1, expected=old)
    assert ended.reason is EndReason.WRONG_ID
    assert network.meshes[2].admission.admits(old, 0)
    await eventually(lambda: network.meshes[1].closed_there == {"wrong_id": 1})
    await network.link(2, 1)
    network.add(3)
    await network.link(2, 3)


async def test_a_tracker_that_breaks_a_rule_is_shunned(network: Network) -> None:
    mesh = network.add(1)
    network.add(2)
    link = await network.link(2, 1)
    link.post([b'{"type":"dance"}'])
    await eventually(lambda: mesh.ended[EndReason.INVALID_MESSAGE] == 1)
    assert (await network.dial(2, 1)).given == "not_allowed"


async def test_the_tracker_that_stops_says_so(network: Network) -> None:
    mesh = network.add(1)
    network.add(2)
    await network.link(2, 1)
    await mesh.stop()
    await eventually(lambda: network.meshes[2].closed_there == {"shutdown": 1})
    wire = network.connect(network.url(1))
    assert json.loads(await wire.receive()) == {"type": "bye", "reason": "shutdown"}


async def test_both_dial_at_once_and_keep_the_same_link(network: Network) -> None:
    meshes = [network.add(1), network.add(2)]
    for _ in range(10):
        ends = [network.dial(1, 2), network.dial(2, 1)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        await eventually(lambda: all(len(mesh.links) == 1 and not mesh.handshakes for mesh in meshes))
        directions = {link.direction for mesh in meshes for link in mesh.links.values()}
        assert directions == {"dialed", "accepted"}
        meshes[0].links[meshes[1].id].end(EndReason.IDLE)
        await asyncio.wait(ends)
        await eventually(lambda: not any(mesh.links for mesh in meshes))


async def test_links_without_common_swarms_end_when_many_are_open(network: Network) -> None:
    mesh = network.add(1, max_links=3, idle_timeout=60)
    for number in (2, 3):
        network.add(number)
        await network.link(number, 1)
    mesh.links[tracker_id(2)].account.last_shared -= 100
    mesh.end_idle()
    await eventually(lambda: list(mesh.links) == [tracker_id(3)])
    mesh.links[tracker_id(3)].account.last_shared -= 100
    mesh.end_idle()
    await network.link(2, 1)
    assert len(mesh.links) == 2, "there was room enough for the last one"


async def test_whether_there_is_room_is_not_computed_again_at_once(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def weakest(_links: object, _now: float, common: bool) -> None:
        asked.append(common)

    async with full(network) as (mesh, _):
        monkeypatch.setattr(module, "weakest", weakest)
        assert not any(mesh.has_room(common) for common in [True, False] * 100)
        assert asked == [True, False]


# Transports


class Socket:
    """Has received something."""

    def __init__(self, frame: object) -> None:
        self._frame = frame

    async def recv(self) -> object:
        return self._frame


async def test_frames_are_text() -> None:
    text: Any = Socket("ü")
    assert await Dialed(text).receive() == "ü".encode()
    binary: Any = Socket(b"{}")
    with pytest.raises(LinkError) as caught:
        await Dialed(binary).receive()
    assert caught.value.reason is EndReason.INVALID_MESSAGE
