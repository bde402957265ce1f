"""Trackers that break the rules: they are cut and shunned, and the tracker's own peers notice nothing."""

import asyncio
import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.exceptions import ConnectionClosed

from extensions.federation import link as link_module
from extensions.federation import mesh as mesh_module
from extensions.federation import wire
from extensions.federation.session import Session, State
from extensions.identity import tracker_id
from tests.client import HASH, PATIENCE, RawClient, eventually
from tests.conftest import StartTracker, TrackerProcess
from tests.integration.conftest import Federate
from tests.integration.hostile import (
    LINKS,
    A,
    B,
    HostileLink,
    as_json,
    at_least,
    dropped,
    ended,
    equals,
    federated,
    hostile_tracker,
    link_to,
    refusal,
    want,
)
from tests.integration.wire import HANDSHAKE, Recorder, WireClient
from tests.integration.wire import wire as wire_client
from tests.unit.federation.links import transcript
from tracker.access import gate as door_module

SUBPROTOCOL_HEADER = b"Sec-WebSocket-Protocol: peerservers.federation.1\r\n"


def hello(link: HostileLink, **fields: Any) -> bytes:
    """The first message of a link, with other fields than it should have."""
    proper = json.loads(link.session.start())
    return as_json(**{**proper, **fields})


async def reflected(link: HostileLink) -> tuple[bytes, ...]:
    theirs = await link.until(wire.Hello)
    return (hello(link, id=theirs.id, nonce=theirs.nonce),)


async def same_nonce(link: HostileLink) -> tuple[bytes, ...]:
    theirs = await link.until(wire.Hello)
    return (hello(link, nonce=theirs.nonce),)


async def wrong_key(link: HostileLink) -> tuple[bytes, ...]:
    await link.send(link.session.start())
    theirs = wire.encode(await link.until(wire.Hello))
    signed = b"dialer " + transcript(link.session.start(), theirs)
    return (wire.encode(wire.Proof(Ed25519PrivateKey.generate().sign(signed).hex())),)


async def wrong_role(link: HostileLink) -> tuple[bytes, ...]:
    # The other side's own proof, sent back.
    await link.send(link.session.start())
    return (wire.encode(await link.until(wire.Proof)),)


async def test_a_tracker_that_does_not_prove_its_id_is_refused(target: TrackerProcess, local: RawClient) -> None:
    proof = as_json(type="proof", signature="00" * 64)
    cases: dict[str, tuple[str, Any]] = {
        "wrong key": ("invalid_proof", wrong_key),
        "reflected proof": ("invalid_proof", wrong_role),
        "reflected nonce": ("invalid_proof", same_nonce),
        "reflected hello": ("itself", reflected),
        "no signature": ("invalid_message", lambda link: (hello(link), as_json(type="proof", signature=""))),
        "upper case": ("invalid_message", lambda link: (hello(link, id=json.loads(hello(link))["id"].upper()),)),
        "not on the curve": ("invalid_proof", lambda link: (hello(link, id="ff" * 32), proof)),
        "short nonce": ("invalid_message", lambda link: (hello(link, nonce="00" * 16),)),
        "other version": ("wrong_version", lambda link: (hello(link, version=2),)),
        "other URL": ("wrong_url", lambda link: (hello(link, url="ws://127.0.0.1:1/"),)),
        "no URL": ("wrong_url", lambda link: (hello(link, url=""),)),
        "two hellos": ("out_of_turn", lambda link: (hello(link), hello(link))),
        "proof first": ("out_of_turn", lambda _: (proof,)),
        "swarms first": ("out_of_turn", lambda link: (link.have((HASH, 0, 1)),)),
        "swarms before the proof": ("out_of_turn", lambda link: (hello(link), link.have((HASH, 0, 1)))),
        "offers first": ("out_of_turn", lambda link: (link.offers(HASH, B, ["o" * 20]),)),
        "no JSON": ("invalid_message", lambda _: (b"hello",)),
        "bye": ("", lambda _: (as_json(type="bye", reason="idle"),)),
    }
    for case, (reason, messages) in cases.items():
        before = await ended(target, reason or "closed_there")
        async with link_to(target.url, shake=False) as link:
            made = messages(link)
            await link.send(*(await made if asyncio.iscoroutine(made) else made))
            assert await link.ended() == reason, case
        assert await ended(target, reason or "closed_there") == before + 1, case
    assert await target.metric(LINKS) == 0
    assert await local.nothing_came()


async def test_a_recorded_handshake_is_of_no_use_again(target: TrackerProcess) -> None:
    key = Ed25519PrivateKey.generate()
    async with link_to(target.url, key, shake=False) as link:
        first = link.session.start()
        await link.send(first)
        second = link.session.receive(wire.encode(await link.until(wire.Hello)))[1][0]
        await link.send(second)
        await eventually(lambda: equals(target.metric(LINKS), 1))
    async with link_to(target.url, key, shake=False) as link:
        await link.send(first, second)
        assert await link.ended() == "invalid_proof"
    async with link_to(target.url, key):
        pass  # The true owner of the id is accepted.


async def test_a_tracker_in_between_cannot_pass_for_the_one_behind_it(
    start_tracker: StartTracker, target: TrackerProcess, tmp_path: Path
) -> None:
    async def relay(link: HostileLink) -> None:
        async with link_to(target.url, shake=False) as onward:

            async def back() -> None:
                async for frame in onward.socket:
                    await link.socket.send(frame)

            task = asyncio.ensure_future(back())
            with suppress(ConnectionClosed):
                async for frame in link.socket:
                    await onward.socket.send(frame)
            task.cancel()

    async with hostile_tracker(relay) as url:
        victim = await start_tracker(env=federated(tmp_path / "victim", peers=[url]))
        await eventually(lambda: at_least(ended(target, "wrong_url"), 1))
        assert await victim.metric(LINKS) == await target.metric(LINKS) == 0


def broken(link: HostileLink) -> dict[str, tuple[str, bytes]]:
    """Return messages that are invalid, or not allowed on an open link, with the reason for each."""
    name = link.name(HASH)
    offer = {"offer": {"type": "offer", "sdp": "x"}, "offer_id": "o" * 20}

    def offered(*made: Any, peer: str = B) -> bytes:
        return as_json(type="offers", swarm=name, peer_id=peer, offers=made)

    return {
        "no JSON": ("invalid_message", b"{"),
        "an empty line": ("invalid_message", b"\n"),
        "no UTF-8": ("invalid_message", b'{"type":"bye","reason":"\xff"}'),
        "no UTF-8 in an SDP": ("invalid_message", offered(offer).replace(b"x", b"\xc3")),
        "a lone surrogate": ("invalid_message", as_json(type="bye", reason="x").replace(b"x", b"\\ud800")),
        "unknown type": ("invalid_message", as_json(type="greet")),
        "a list": ("invalid_message", b"[]"),
        "deep": ("invalid_message", b'{"type":' + b"[" * 100_000),
        "second hello": ("out_of_turn", hello(link)),
        "second proof": ("out_of_turn", as_json(type="proof", signature="00" * 64)),
        "less than none": ("invalid_message", as_json(type="have", swarms=[[name, -1, 0]])),
        "too many peers": ("invalid_message", as_json(type="have", swarms=[[name, 0, 10**7]])),
        "half a peer": ("invalid_message", as_json(type="have", swarms=[[name, 0, 0.5]])),
        "no name": ("invalid_message", as_json(type="have", swarms=[["", 0, 1]])),
        "no part": ("invalid_message", as_json(type="filter", part=1, parts=1, bits="AAAA")),
        "three parts": ("invalid_message", as_json(type="filter", part=0, parts=3, bits="AAAA")),
        "too many parts": ("invalid_message", as_json(type="filter", part=0, parts=128, bits="AAAA")),
        "a full filter": ("invalid_message", as_json(type="filter", part=0, parts=1, bits="////")),
        "no bits": ("invalid_message", as_json(type="filter", part=0, parts=1, bits="")),
        "a long filter": ("invalid_message", as_json(type="filter", part=0, parts=1, bits="AAAA" * 11_000)),
        "no Base64": ("invalid_message", as_json(type="filter", part=0, parts=1, bits="*")),
        "half a tag": ("invalid_message", as_json(type="opened", tags="0" * 8)),
        "no tag": ("invalid_message", as_json(type="opened", tags="x" * 16)),
        "too many tags": ("invalid_message", as_json(type="opened", tags="0" * 16_016)),
        "a question about half a name": ("invalid_message", as_json(type="seek", swarm=name[:16])),
        "too many trackers": ("invalid_message", as_json(type="trackers", swarm="", trackers=[["", 0, "", ""]] * 21)),
        "a tracker without an id": ("invalid_message", as_json(type="trackers", swarm="", trackers=[["", 0, "", ""]])),
        "no offers": ("invalid_message", offered()),
        "too many offers": ("invalid_message", offered(*[offer] * 101)),
        "no peer_id": ("invalid_message", offered(offer, peer="short")),
        "no latin-1": ("invalid_message", offered(offer, peer="Ω" * 20)),
        "no SDP": ("invalid_message", offered({**offer, "offer": {"type": "offer", "sdp": 1}})),
        "an answer as an offer": ("invalid_message", offered({**offer, "offer": {"type": "answer", "sdp": "x"}})),
        "a long SDP": ("invalid_message", offered({**offer, "offer": {"type": "offer", "sdp": "x" * 65537}})),
        "a good and a bad": ("invalid_message", offered(offer) + b"\n" + offered()),
    }


async def test_a_tracker_that_breaks_a_rule_is_cut_and_shunned(target: TrackerProcess, local: RawClient) -> None:
    async with link_to(target.url) as link:
        cases = list(broken(link))
    for case in cases:
        key = Ed25519PrivateKey.generate()
        async with link_to(target.url, key) as link:
            reason, message = broken(link)[case]
            before = await ended(target, reason)
            await link.send(message)
            assert await link.ended() == reason, case
        assert await ended(target, reason) == before + 1, case
        assert await refusal(target.url, key) == "not_allowed", case
    assert await ended(target, "not_allowed") == len(cases)
    assert await target.metric(LINKS) == 0
    assert await local.nothing_came()


async def test_who_knows_only_the_tag_of_a_swarm_cannot_take_part_in_it(
    target: TrackerProcess, local: RawClient
) -> None:
    async with link_to(target.url) as link, link_to(target.url) as other:
        # As it may have learned them from the filters of others. Here the infohash helps to find them.
        await link.send(link.opened(HASH))
        ((theirs, *counts),) = (await link.until(wire.Have)).swarms
        assert counts == [0, 1]
        tag = link.name(HASH)[: wire.TAG_LENGTH]
        assert theirs.startswith(tag)
        made = (theirs, tag + "0" * 16, link.name(HASH).upper(), other.name(HASH))
        for name in made:
            await link.send(as_json(type="have", swarms=[[name, 0, 7]]))
            await link.send(link.offers(HASH, B, ["o" * 20]).replace(link.name(HASH).encode(), name.encode()))
            await link.send(as_json(type="seek", swarm=name))
        await eventually(lambda: equals(dropped(target, "unknown_swarm"), 3 * len(made)))
        assert (await local.announce(A))["incomplete"] == 1
        assert await local.nothing_came()
        await link.send(link.have((HASH, 0, 7)))
        await link.until(wire.Have)
        assert (await local.announce(A))["incomplete"] == 8


async def test_binary_and_oversized_frames_end_a_link(target: TrackerProcess, local: RawClient) -> None:
    key = Ed25519PrivateKey.generate()
    async with link_to(target.url, key) as link:
        await link.socket.send(b"{}")
        assert await link.ended() == "invalid_message"
    assert await refusal(target.url, key) == "not_allowed"
    key = Ed25519PrivateKey.generate()
    before = await ended(target, "invalid_message")
    async with link_to(target.url, key) as link:
        with suppress(ConnectionClosed):
            await link.send(b" " * (wire.MAX_FRAME + 1))
        # The server has failed the WebSocket before the link could say `bye`.
        assert await link.ended() == ""
        assert link.socket.close_code == 1009
    assert await refusal(target.url, key) == "not_allowed"
    assert await ended(target, "invalid_message") == before + 1
    await eventually(lambda: equals(target.metric(LINKS), 0))
    assert await local.nothing_came()


async def test_oversized_frames_end_an_accepted_link_with_a_bye_if_websocket_lets_them_through(
    start_tracker: StartTracker, tmp_path: Path
) -> None:
    env = {"PEERSERVERS_CONNECTIONS__MAX_MESSAGE_SIZE": str(2 * wire.MAX_FRAME)}
    target = await start_tracker(env={**federated(tmp_path), **env})
    for frame in (b" " * (wire.MAX_FRAME + 1), b"\n".join([as_json(type="have", swarms=[])] * 10_000)):
        async with link_to(target.url) as link:
            await link.send(frame)
            assert await link.ended() == "invalid_message"


@pytest.mark.parametrize("frame", [" " * (wire.MAX_FRAME + 1), b"{}", b"\xff"], ids=["oversized", "binary", "no UTF-8"])
async def test_such_frames_end_a_dialed_link_with_a_bye(federate: Federate, frame: str | bytes) -> None:
    reasons: asyncio.Queue[str] = asyncio.Queue()

    async def send(link: HostileLink) -> None:
        await link.shake()
        await link.socket.send(frame, text=None if frame == b"{}" else True)
        reasons.put_nowait(await link.ended())

    key = Ed25519PrivateKey.generate()
    async with hostile_tracker(send, key) as url:
        tracker = await federate(allow_private_addresses=True)
        mesh = tracker.extension("federation").mesh
        want(tracker, tracker_id(key), url)
        assert await asyncio.wait_for(reasons.get(), PATIENCE) == "invalid_message"
        await eventually(lambda: mesh.ended["invalid_message"] == 1)
        assert not want(tracker, tracker_id(key), url), "it is shunned"


@pytest.mark.parametrize("says", ["nothing", "hello"])
async def test_silence_in_the_handshake_ends_it(federate: Federate, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    monkeypatch.setattr(link_module, "HANDSHAKE_TIMEOUT", 0.2)
    tracker = await federate()
    async with link_to(tracker.url, shake=False) as link:
        if says == "hello":
            await link.send(link.session.start())
        assert await link.ended() == "handshake_timeout"
    assert tracker.extension("federation").mesh.ended == {"handshake_timeout": 1}


async def test_a_handshake_may_come_a_byte_at_a_time(target: TrackerProcess, local: RawClient) -> None:
    async with wire_client(target, HANDSHAKE + SUBPROTOCOL_HEADER) as client:
        session = Session(Ed25519PrivateKey.generate(), os.urandom(32), url=target.url)
        out = [session.start()]
        while session.state is not State.OPEN:
            for message in out:
                recorder = Recorder()
                WireClient(client.reader, recorder).frame(1, message)  # type: ignore[arg-type]
                for byte in recorder.data:
                    client.writer.write(bytes([byte]))
                    await local.announce(A)
            out = session.receive((await client.receive())[1])[1]
        await eventually(lambda: equals(target.metric(LINKS), 1))


async def test_half_open_links_are_bounded_and_harm_no_peers(target: TrackerProcess, local: RawClient) -> None:
    async with link_to(target.url) as honest:
        clients = [wire_client(target, HANDSHAKE + SUBPROTOCOL_HEADER) for _ in range(mesh_module.MAX_HANDSHAKES + 10)]
        opened = [await client.__aenter__() for client in clients]
        await eventually(lambda: equals(ended(target, "too_many_links"), 10))
        await honest.is_there()
        await local.announce(A)
        assert await refusal(target.url, Ed25519PrivateKey.generate()) == "too_many_links"
        for number, client in enumerate(clients):
            if number % 2:  # Some with a reset, some without a word.
                opened[number].writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
                )
            await client.__aexit__(None, None, None)
    await eventually(lambda: equals(ended(target, "lost"), mesh_module.MAX_HANDSHAKES + 1))
    async with link_to(target.url):
        pass


@pytest.mark.parametrize(
    "host",
    [
        "192.0.32.8",
        "2606:4700::1",
    ],
)
async def test_one_host_cannot_take_all_places_for_handshakes(
    federate: Federate, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(door_module, "numeric", lambda _: host)
    tracker = await federate()
    links = [link_to(tracker.url, shake=False) for _ in range(mesh_module.MAX_HANDSHAKES_PER_HOST + 1)]
    for link in links:
        await link.__aenter__()
    mesh = tracker.extension("federation").mesh
    await eventually(lambda: mesh.handshakes + mesh.ended["too_many_links"] == len(links))
    assert mesh.ended["too_many_links"] == 1
    monkeypatch.setattr(door_module, "numeric", lambda _: "192.0.32.9")
    async with link_to(tracker.url):
        pass
    for link in links:
        await link.__aexit__(None, None, None)
