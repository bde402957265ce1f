"""Trackers that keep to the letter of the rules, and harm others all the same."""

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.federation import exchange as exchange_module
from extensions.federation import wire
from extensions.identity import tracker_id
from tests.client import HASH, PATIENCE, RawClient, answer, eventually, offers, raw_client
from tests.conftest import StartTracker, TrackerProcess
from tests.integration.conftest import Federate, Running
from tests.integration.hostile import (
    LINKS,
    A,
    HostileLink,
    as_json,
    at_least,
    dropped,
    equals,
    hostile_tracker,
    link_to,
    memory,
    start_target,
    want,
)
from tests.unit.fakes import peer_id
from tracker.protocol import codec

FAR = peer_id(7)
"""A peer behind another tracker."""

OFFER_ID = "o" * 20


@pytest.fixture
async def target(start_tracker: StartTracker, tmp_path: Path) -> TrackerProcess:
    return await start_target(start_tracker, tmp_path, max_links=10)


async def member(stack: AsyncExitStack, target: TrackerProcess | Running, leechers: int, **options: Any) -> HostileLink:
    """A link to a tracker that has leechers for the swarm."""
    link = await stack.enter_async_context(link_to(target.url, **options))
    await link.send(link.have((HASH, 0, leechers)))
    await link.until(wire.Have)
    await link.send(link.offers(HASH, A, ["?" * 20]))
    await link.until(wire.Refused)
    return link


async def test_peers_that_are_only_claimed_do_not_keep_local_peers_apart(
    target: TrackerProcess, local: RawClient
) -> None:
    async with AsyncExitStack() as stack:
        await member(stack, target, 1_000_000)
        others = [await stack.enter_async_context(raw_client(target.url)) for _ in range(10)]
        for number, other in enumerate(others):
            await other.announce(peer_id(100 + number))
        for start in range(0, 100, 5):
            await local.announce(A, offers=offers(5, start=start))
        # About 17 of a hundred; a million peers would leave none.
        assert await target.metric("peerservers_responses_total", type="offer") > 3


@pytest.mark.parametrize("asked", [True, False])
async def test_a_peer_is_not_buried_in_answers(target: TrackerProcess, local: RawClient, asked: bool) -> None:
    async with AsyncExitStack() as stack:
        link = await member(stack, target, 5)
        await local.announce(A, offers=offers(1))
        offered = await link.until(wire.Offers)
        offer_id = offers(1)[0]["offer_id"] if asked else OFFER_ID
        for _ in range(20):
            await link.send(*[link.answer(HASH, FAR, offered.peer_id, offer_id)] * 100)
        await link.send(link.offers(HASH, A, ["?" * 20]))
        await link.until(wire.Refused)
        assert await target.metric("peerservers_responses_total", type="answer") <= 100 * asked


@pytest.mark.usefixtures("local")
async def test_one_tracker_does_not_use_up_the_limit_of_offers_for_a_peer(target: TrackerProcess) -> None:
    async with AsyncExitStack() as stack:
        hostile, honest = [await member(stack, target, 5) for _ in range(2)]
        for start in range(500):
            await hostile.send(hostile.offers(HASH, peer_id(1000 + start), [f"{start:020}"]))
        await hostile.send(hostile.offers(HASH, A, ["?" * 20]))
        await hostile.until(wire.Refused, lambda refused: refused.peer_id == A)
        await honest.send(honest.offers(HASH, FAR, [OFFER_ID]), honest.offers(HASH, A, ["?" * 20]))
        refused = await honest.until(wire.Refused)
        assert refused.peer_id == A, "the honest tracker's offer was refused"


async def test_answers_go_to_the_tracker_that_the_offer_came_from(target: TrackerProcess, local: RawClient) -> None:
    async with AsyncExitStack() as stack:
        hostile, honest = [await member(stack, target, 5) for _ in range(2)]
        await honest.send(honest.offers(HASH, FAR, [OFFER_ID]))
        offered = await local.receive_until(lambda message: "offer" in message)
        # Peer ids are no secret: any peer of the swarm learns them.
        await hostile.send(hostile.offers(HASH, FAR, ["x" * 20]))
        await local.receive_until(lambda message: "offer" in message)
        await local.send(answer(A, FAR, offered["offer_id"], sdp="for the honest one"))
        first = {asyncio.ensure_future(link.until(wire.Answered)): link for link in (hostile, honest)}
        done, pending = await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        assert first[done.pop()] is honest  # type: ignore[index]


async def test_refused_offers_do_not_evict_the_routes_of_others(
    federate: Federate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_module, "MAX_ROUTES", 1000)
    tracker = await federate()
    async with AsyncExitStack() as stack:
        local = await stack.enter_async_context(raw_client(tracker.url))
        await local.announce(A)
        hostile, honest = [await member(stack, tracker, 5) for _ in range(2)]
        await honest.send(honest.offers(HASH, FAR, [OFFER_ID]))
        await local.receive_until(lambda message: "offer" in message)
        for start in range(2000):
            await hostile.send(hostile.offers(HASH, f"{start:020}", [f"{start:020}"]))
        await hostile.send(hostile.offers(HASH, A, ["?" * 20]))
        await hostile.until(wire.Refused, lambda refused: refused.peer_id == A)
        await local.send(answer(A, FAR, OFFER_ID))
        await asyncio.wait_for(honest.until(wire.Answered), PATIENCE / 3)


async def test_ids_without_end_do_not_keep_us_from_dialing(federate: Federate) -> None:
    tracker = await federate(max_links=5, allow_private_addresses=True)
    dialed = asyncio.Event()
    key = Ed25519PrivateKey.generate()

    async def honest(link: HostileLink) -> None:
        dialed.set()
        await link.shake()
        await link.ended()

    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(hostile_tracker(honest, key))
        for _ in range(5):
            await stack.enter_async_context(link_to(tracker.url))
        mesh = tracker.extension("federation").mesh
        await eventually(lambda: len(mesh.links) == 5)
        want(tracker, tracker_id(key), url)
        await asyncio.wait_for(dialed.wait(), PATIENCE)


async def test_a_tracker_that_claims_a_swarm_and_never_answers_makes_room(federate: Federate) -> None:
    tracker = await federate(max_links=3)
    async with AsyncExitStack() as stack:
        local = await stack.enter_async_context(raw_client(tracker.url))
        await local.announce(A)
        key = Ed25519PrivateKey.generate()
        useful, useful_id = await member(stack, tracker, 1, key=key), tracker_id(key)
        mesh = tracker.extension("federation").mesh
        await local.announce(A, numwant=1, offers=offers(1))
        offered = await useful.until(wire.Offers)
        await useful.send(useful.answer(HASH, FAR, A, codec.from_json(offered.offers[0].offer_id)))
        await local.receive_until(lambda message: "answer" in message)
        sybils = [await member(stack, tracker, 1) for _ in range(2)]
        await eventually(lambda: len(mesh.links) == 3)
        early = await stack.enter_async_context(link_to(tracker.url, wanted=[HASH]))
        assert await early.ended() == "too_many_links", "they have not had their time"
        # The peers meet now, and the others have been there for as long as ever.
        in_use = mesh.links[useful_id].account
        for link in mesh.links.values():
            if link.account is not in_use:
                link.account.last_used -= 1000.0
        without = await stack.enter_async_context(link_to(tracker.url))
        assert await without.ended() == "too_many_links", "it has no common swarm"
        for sybil in sybils:
            await member(stack, tracker, 1, wanted=[HASH])
            assert await sybil.ended() == "idle"
        for _ in range(5):
            refused = await stack.enter_async_context(link_to(tracker.url, wanted=[HASH]))
            assert await refused.ended() == "too_many_links"
        await useful.is_there()


async def test_drops_stay_counted_after_the_end_of_a_link(target: TrackerProcess) -> None:
    async with link_to(target.url) as link:
        await link.send(link.offers("u" * 20, FAR, [OFFER_ID]))
        await eventually(lambda: equals(dropped(target, "unknown_swarm"), 1))
    await eventually(lambda: equals(target.metric(LINKS), 0))
    assert await dropped(target, "unknown_swarm") == 1


async def test_others_do_not_write_our_log(target: TrackerProcess) -> None:
    async with link_to(target.url) as link:
        await link.send(as_json(type="x" * 20_000))
        assert await link.ended() == "invalid_message"
    assert len(str(await target.logged("link_ended"))) < 1000


async def test_an_offer_that_is_too_long_for_a_link_is_dropped_once(target: TrackerProcess, local: RawClient) -> None:
    async with AsyncExitStack() as stack:
        await member(stack, target, 1)
        message = {"action": "announce", "info_hash": HASH, "peer_id": A, "offers": offers(1, sdp="SDP")}
        # Within the limits for clients: an SDP of 43 KB that is written as 261 KB of escapes.
        await local.socket.send(json.dumps(message).replace("SDP", r"\u0061" * 43_600))
        await eventually(lambda: at_least(dropped(target, "too_long"), 1))
        await local.announce(A)
        await local.announce(A)
        assert await target.metric("peerservers_handed_over_total", type="offer") < 10


async def test_offers_kept_for_a_refusal_are_bounded_in_size(target: TrackerProcess, local: RawClient) -> None:
    before = memory(target)
    async with AsyncExitStack() as stack:
        link = await member(stack, target, 20)
        reading = asyncio.ensure_future(link.ended())
        for start in range(0, 6000, 20):
            await local.announce(A, numwant=20, offers=offers(20, "x" * 12_000, start))
        after = memory(target)
        reading.cancel()
        assert after - before < 32 << 20


async def test_a_swarm_told_over_a_link_that_is_replaced_leaves_no_peers_behind(
    target: TrackerProcess, local: RawClient
) -> None:
    key = Ed25519PrivateKey.generate()
    for _ in range(30):
        async with link_to(target.url, key) as old, link_to(target.url, key, shake=False) as new:
            await new.send(new.session.start())
            (proof,) = new.session.receive(wire.encode(await new.until(wire.Hello)))[1]
            # The old one may be closed before all of it is sent.
            await asyncio.gather(
                new.send(proof),
                *(old.send(old.have((HASH, 0, 1 + number % 2))) for number in range(20)),
                return_exceptions=True,
            )
            # Which of the two it is, is as good as chance.
            ended = [asyncio.ensure_future(link.ended()) for link in (old, new)]
            await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE)
            for one in ended:
                one.cancel()
            await asyncio.gather(*ended, return_exceptions=True)
    await eventually(lambda: equals(target.metric(LINKS), 0))
    assert (await local.announce(A))["incomplete"] == 1
