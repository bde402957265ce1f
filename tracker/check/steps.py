"""The steps of `peerservers check`.

Each step has sockets and a swarm of its own, so that none suffers from the end of another. A step that may lead to the
end of a socket comes after all others.

A step is a fault of the tracker if a client that keeps to the protocol suffers. It is a mere difference if the tracker
declines something that its clients do not use, or answers nonsense in a way of its own.
"""

import asyncio
import base64
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import websockets

from tracker.check.faults import FAULTS, fault
from tracker.check.site import Difference, Fault, Site, Untried, announce, any_id, ascii_id
from tracker.client import BinaryFrameError, Peer
from tracker.protocol.client import WEBTORRENT_DEFAULTS, MessageError, encode
from tracker.protocol.codec import from_json, make_offer
from tracker.protocol.messages import Announce, AnnounceReply, Failure, Offer, RelayedAnswer, RelayedOffer

_SDP: Final = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=peerservers check\r\n"


@dataclass(frozen=True, slots=True)
class Step:
    """A step. `run` returns the detail for the report; it raises `Verdict` or one of `FAULTS` if something is wrong."""

    name: str
    run: Callable[[Site], Awaitable[str]]
    needed: bool = False


async def _connects(site: Site) -> str:
    async with site.socket(), site.socket():
        return ""


async def _announces(site: Site) -> str:
    async with site.peers(1) as [alice]:
        started = time.monotonic()
        reply = await announce(alice, event="started", left=0)
        elapsed = time.monotonic() - started
    if reply.info_hash != alice.info_hash:
        raise Fault("the reply's info_hash is not the one that was sent")
    missing = [name for name in ("interval", "complete", "incomplete") if getattr(reply, name) is None]
    if missing:
        raise Difference(f"the reply has no number as {' and '.join(missing)}")
    return f"in {elapsed * 1000:.1f} ms, interval {reply.interval:g} s"


async def _relays_offer(site: Site) -> str:
    async with site.peers(2) as [alice, bob]:
        sent = make_offer(any_id(), _SDP)
        got = await _offer(alice, bob, [sent])
    if (got.info_hash, got.peer_id, _plain(got.offer)) != (alice.info_hash, alice.peer_id, _plain(sent)):
        raise Fault("the offer arrives changed")
    return ""


async def _relays_answer(site: Site) -> str:
    async with site.peers(2) as [alice, bob]:
        offer_id = any_id()
        await _offer(alice, bob, [make_offer(offer_id, _SDP)])
        await bob.answer(alice.peer_id, offer_id, _SDP)
        try:
            got = await alice.client.expect(RelayedAnswer)
        except MessageError as error:
            raise Fault(_changed("answer", error)) from None
    if (got.peer_id, from_json(got.offer_id), from_json(got.sdp)) != (bob.peer_id, offer_id, _SDP):
        raise Fault("the answer arrives changed")
    return ""


async def _counts_leecher(site: Site) -> str:
    async with site.peers(1) as [bob]:
        complete, incomplete = _counts(await announce(bob, event="started", left=None))
    if (complete, incomplete) != (0, 1):
        raise Fault(f"complete {complete}, incomplete {incomplete} instead of 0 and 1")
    return ""


async def _odd_events(site: Site) -> str:
    faults = []
    for event in ("paused", "<regular>", ""):
        async with site.peers(1) as [bob]:
            await announce(bob, event="started")
            try:
                await announce(bob, event=event)
            except (Fault, *FAULTS) as error:
                faults.append(f"{event!r}: {fault(error)}")
    if faults:
        raise Fault("; ".join(faults))
    return ""


async def _opaque_offer(site: Site) -> str:
    async with site.peers(2) as [alice, bob]:
        await _relay_all(alice, bob, ["0,136,$" + base64.b64encode(random.randbytes(600)).decode()])
    return "800 characters that are no SDP"


async def _large_offers(site: Site) -> str:
    async with site.peers(2) as [alice, bob]:
        await _relay_all(alice, bob, [_SDP + "a=x:" + ascii_id(3000) + "\r\n" for _ in range(10)])
    return "10 offers of 3 KB in a message"


async def _other_ids(site: Site) -> str:
    """Let two peers meet with ids of the same lengths as go2rtc's."""
    info_hash, offer_id = base64.b64encode(random.randbytes(32)).decode(), ascii_id(12)
    async with site.peer(info_hash, ascii_id(16)) as viewer, site.peer(info_hash, ascii_id(16)) as camera:
        try:
            offer = await _offer(viewer, camera, [make_offer(offer_id, _SDP, info_hash)])
            await camera.answer(offer.peer_id, from_json(offer.offer.offer_id), _SDP)
            answer = await viewer.client.expect(RelayedAnswer)
        except (Fault, *FAULTS) as error:
            raise Difference(f"only ids of 20 bytes ({fault(error)})") from None
    got = offer.info_hash, offer.peer_id, answer.peer_id, from_json(answer.offer_id)
    if got != (info_hash, viewer.peer_id, camera.peer_id, offer_id):
        raise Fault("an id arrives changed")
    return "as go2rtc has them: 44, 16 and 12 characters"


async def _scrapes(site: Site) -> str:
    unknown = any_id()
    async with site.peers(1) as [alice]:
        await announce(alice, event="started", left=0)
        try:
            reply = await alice.client.scrape([alice.info_hash, unknown])
        except TimeoutError as error:
            raise Difference(str(error)) from None
    if isinstance(reply, Failure):
        raise Difference(f"failure: {reply.text}")
    if alice.info_hash not in reply.files:
        raise Fault("the swarm is not in the reply")
    if unknown not in reply.files:
        raise Difference("leaves out swarms that it does not know")
    return ""


async def _pongs(site: Site) -> str:
    async with site.peers(1) as [alice]:
        return f"in {await alice.client.ping() * 1000:.1f} ms"


async def _reconnects(site: Site) -> str:
    """Let Bob come back on a second socket, while the tracker still holds the first."""
    async with site.peers(2) as [alice, bob]:
        await announce(bob, event="started")
        async with site.peer(bob.info_hash, bob.peer_id) as bob_again:
            try:
                await _offer(alice, bob_again, [make_offer(any_id(), _SDP) for _ in range(2)])
            except (Fault, *FAULTS) as error:
                raise Fault(f"on the new socket: {fault(error)}") from None
    return ""


async def _stops(site: Site) -> str:
    async with site.peers(1) as [alice]:
        await announce(alice, event="started", left=0)
        try:
            await announce(alice, event="stopped", left=0)
        except TimeoutError:
            await announce(alice, event="started", left=0)
            raise Difference("without a reply, for which clients wait a second at most") from None
        await announce(alice, event="started", left=0)
    return ""


async def _closes(site: Site) -> str:
    async with site.peers(2) as [alice, bob]:
        await announce(bob, event="started")
        before = _counts(await announce(alice, event="started", left=0))
        if sum(before) != 2:
            raise Untried(f"counts {sum(before)} peers where there are 2")
        await bob.client.socket.close()
        pause, deadline = 0.05, time.monotonic() + site.time_limit
        while sum(_counts(await announce(alice, left=0))) > 1:
            if time.monotonic() > deadline:
                raise Fault(f"still counted after {site.time_limit:g} s")
            await asyncio.sleep(pause)
            pause *= 2
    return ""


async def _stray_answer(site: Site) -> str:
    async with site.peers(1) as [alice]:
        await announce(alice, event="started", left=0)
        await alice.answer(any_id(), any_id(), _SDP)
        await _still_served(alice)
    return ""


async def _bad_input(site: Site) -> str:
    """Send nonsense on one socket after the other, always in a swarm without other peers.

    Some trackers relay a malformed offer, and others crash of one that has a receiver: neither is done to the peers of
    a tracker that is in use.
    """
    bad: list[tuple[str, Callable[[Announce], str | bytes]]] = [
        ("no JSON", lambda _: "{"),
        ("null", lambda _: "null"),
        ("an unknown action", lambda _: '{"action":"dance"}'),
        ("an empty info_hash", lambda own: encode(own, {**WEBTORRENT_DEFAULTS, "info_hash": ""})),
        ("a null offer", lambda own: encode(own, {**WEBTORRENT_DEFAULTS, "numwant": 1, "offers": [None]})),
    ]
    closing = []
    async with site.peers(1) as [witness]:
        await announce(witness, event="started")
        for name, payload in bad:
            async with site.peers(1) as [mallory]:
                own = Announce(mallory.info_hash, mallory.peer_id, stopped=False, complete=False, offers=[])
                try:
                    await mallory.client.send_text(payload(own))
                    await _still_served(mallory)
                except websockets.ConnectionClosed:
                    closing.append(name)
                except FAULTS as error:
                    raise Fault(f"{name}: {fault(error)}") from None
            try:
                await announce(witness)
            except FAULTS as error:
                raise Fault(f"{name}, for a peer on another socket: {fault(error)}") from None
    if closing:
        raise Difference(f"closes the socket of {', '.join(closing)}")
    return "each is answered or ignored, and the socket stays open"


STEPS: Final = (
    Step("connects", _connects, needed=True),
    Step("answers an announce", _announces, needed=True),
    Step("relays an offer", _relays_offer, needed=True),
    Step("relays an answer", _relays_answer, needed=True),
    Step("counts a peer without `left` as leecher", _counts_leecher),
    Step("takes libtorrent's and anacrolix's events", _odd_events),
    Step("takes opaque offers", _opaque_offer),
    Step("takes large messages", _large_offers),
    Step("serves ids of other lengths", _other_ids),
    Step("scrape", _scrapes),
    Step("answers pings", _pongs),
    Step("a reconnected peer is reached", _reconnects),
    Step("answers `stopped`", _stops),
    Step("a closed socket leaves the swarm", _closes),
    Step("survives an answer to an unknown peer", _stray_answer),
    Step("survives bad input", _bad_input),
)


async def _offer(sender: Peer, receiver: Peer, offers: list[Offer]) -> RelayedOffer:
    """Let both peers join; return the first of the sender's offers that reaches the receiver."""
    await announce(receiver, event="started")
    await announce(sender, offers, event="started", left=0)
    try:
        return await receiver.client.expect(RelayedOffer)
    except MessageError as error:
        raise Fault(_changed("offer", error)) from None


async def _relay_all(sender: Peer, receiver: Peer, descriptions: list[str]) -> None:
    got = await _offer(sender, receiver, [make_offer(any_id(), sdp) for sdp in descriptions])
    if from_json(got.offer.description.sdp) not in descriptions:
        raise Fault("the offer arrives changed")


async def _still_served(peer: Peer) -> None:
    """Announce, and skip failures for earlier messages. Raise one of `FAULTS` if there is no reply."""
    await peer.send({**WEBTORRENT_DEFAULTS, "offers": []})
    await peer.client.expect(AnnounceReply, lambda reply: reply.info_hash == peer.info_hash)
    await peer.client.ping()


def _changed(name: str, error: MessageError) -> str:
    return fault(error) if isinstance(error, BinaryFrameError) else f"the {name} arrives changed"


def _counts(reply: AnnounceReply) -> tuple[int, int]:
    if reply.complete is None or reply.incomplete is None:
        raise Untried("the tracker sends no counts")
    return reply.complete, reply.incomplete


def _plain(offer: Offer) -> tuple[str, str]:
    return from_json(offer.offer_id), from_json(offer.description.sdp)
