"""Links of trackers that are connected in memory: accepting, opening, and one link for each pair."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from extensions.federation import mesh as module
from extensions.federation.handshake import LinkError
from extensions.federation.link import Link
from extensions.federation.mesh import MAX_HANDSHAKES, MAX_HANDSHAKES_PER_HOST, Mesh
from extensions.federation.reasons import EndReason
from extensions.federation.transports import Dialed
from tests.client import HASH, PATIENCE, eventually
from tests.unit.federation.links import dialing, tracker_id
from tests.unit.federation.network import Network


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


async def test_a_link_that_opens_while_the_tracker_stops_ends_at_once(network: Network) -> None:
    mesh = network.add(1)
    wire = network.connect(network.url(1))
    session = dialing(2, network.url(1))
    await wire.send(session.start())
    _, (proof,) = session.receive(await wire.receive())
    stopping = asyncio.ensure_future(mesh.stop())
    await asyncio.sleep(0)
    await wire.send(proof)
    received: list[str] = []
    while "bye" not in received:
        received += [json.loads(message)["type"] for message in (await wire.receive()).split(b"\n")]
    await asyncio.wait_for(stopping, PATIENCE)
    assert (mesh.links, mesh.ended[EndReason.SHUTDOWN]) == ({}, 1)


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
