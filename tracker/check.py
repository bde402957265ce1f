"""Test any WebTorrent tracker with two peers, and report the steps that work."""

import asyncio
import base64
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import websockets

from tracker.client import BinaryFrameError, Peer, connect
from tracker.protocol.client import WEBTORRENT_DEFAULTS, MessageError, encode
from tracker.protocol.codec import from_json, make_offer
from tracker.protocol.messages import Announce, AnnounceReply, Failure, Offer, RelayedAnswer, RelayedOffer, ScrapeReply

MAX_DETAIL: Final = 200
"""The most characters of a result's detail, which may quote the tracker."""

_SDP: Final = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=peerservers check\r\n"
_FAULTS: Final = (MessageError, OSError, TimeoutError, websockets.WebSocketException)
"""The exceptions of a step that the tracker fails, besides `Unmet`."""


class Unmet(Exception):
    """The tracker has failed a step; the text says how."""


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the report. `works` is None if the step was not tried."""

    name: str
    needed: bool
    works: bool | None
    detail: str


@dataclass(slots=True)
class Report:
    """The results of all steps, in order."""

    url: str
    results: list[Result] = field(default_factory=list)

    @property
    def peers_can_meet(self) -> bool:
        """Whether every step works that two peers need to connect."""
        return all(result.works for result in self.results if result.needed)

    def as_json(self) -> str:
        """Return the report as a JSON object."""
        rows = [{"name": r.name, "needed": r.needed, "works": r.works, "detail": r.detail} for r in self.results]
        return json.dumps({"url": self.url, "peers_can_meet": self.peers_can_meet, "results": rows}, indent=2)

    def as_table(self) -> str:
        """Return the report as text: one line for each step, and the verdict."""
        width = max(len(result.name) for result in self.results)
        words = {True: "yes", False: "NO", None: "-"}
        lines = [self.url, ""]
        lines += [
            f"{r.name:{width}}  {words[r.works]:3}  {'*' if r.needed else ' '}  {r.detail}".rstrip()
            for r in self.results
        ]
        verdict = "Peers can meet here." if self.peers_can_meet else "Peers cannot meet here."
        return "\n".join([*lines, "", f"{verdict} (* is needed for that)"])


class _Check:
    """The steps, in order; each builds on those before it."""

    def __init__(self, url: str, time_limit: float) -> None:
        self.url = url
        self.time_limit = time_limit
        self.report = Report(url)
        # Ids with every kind of character: controls, quotes, ASCII and the upper half of latin-1.
        self.info_hash = _any_id()
        self.offer_id = _any_id()
        self.alice_id = "-PC0001-" + _any_id()[:12]
        self.bob_id = "-PC0001-" + _any_id()[:12]

    async def run(self) -> Report:
        async with AsyncExitStack() as stack:
            try:
                alice = await stack.enter_async_context(self._peer(self.alice_id))
                bob = await stack.enter_async_context(self._peer(self.bob_id))
            except (OSError, TimeoutError, websockets.WebSocketException, ValueError) as error:
                self._add("connects", True, False, _one_line(error))
                return self.report
            self._add("connects", True, True, "")
            await self._try("answers an announce", True, lambda: self._announces(alice))
            await self._try("relays an offer", True, lambda: self._relays_offer(alice, bob))
            await self._try("relays an answer", True, lambda: self._relays_answer(alice, bob))
            await self._try("counts a peer without `left` as leecher", False, lambda: self._counts_leecher(bob))
            await self._try("takes libtorrent's and anacrolix's events", False, lambda: self._odd_events(bob))
            await self._try("takes opaque and large offers", False, lambda: self._opaque_offers(bob, alice))
            await self._try("serves ids of other lengths", False, self._other_ids)
            await self._try("scrape", False, lambda: self._scrapes(alice))
            await self._try("answers pings", False, lambda: self._pongs(alice))
            await self._try("survives an answer to an unknown peer", False, lambda: self._stray_answer(alice))
            await self._try("survives bad input", False, self._bad_input)
            await self._try("a reconnected peer is reached", False, lambda: self._reconnects(alice))
            await self._try("answers `stopped`", False, lambda: self._stops(alice))
            await self._try("a closed socket leaves the swarm", False, lambda: self._closes(alice, bob))
        return self.report

    async def _announces(self, alice: Peer) -> str:
        started = time.monotonic()
        reply = await _announce(alice, event="started", left=0)
        elapsed = time.monotonic() - started
        if isinstance(reply, Failure):
            raise Unmet(f"failure: {reply.text}")
        if reply.info_hash != self.info_hash:
            raise Unmet("the reply's info_hash is not the one that was sent")
        if type(reply.interval) is not int or reply.complete is None:
            raise Unmet("the reply lacks an integer interval or complete")
        return f"in {elapsed * 1000:.1f} ms, interval {reply.interval} s"

    async def _relays_offer(self, alice: Peer, bob: Peer) -> str:
        await _announce(bob, event="started", offers=[])
        sent = make_offer(self.offer_id, _SDP)
        await alice.send({"numwant": 1, "uploaded": 0, "downloaded": 0, "left": 0}, [sent])
        got = await _expect_offer(bob)
        if (got.info_hash, got.peer_id, _plain(got.offer)) != (self.info_hash, self.alice_id, _plain(sent)):
            raise Unmet("the offer arrives changed")
        await alice.reply()
        return ""

    async def _relays_answer(self, alice: Peer, bob: Peer) -> str:
        await bob.answer(self.alice_id, self.offer_id, _SDP)
        try:
            got = await alice.client.expect(RelayedAnswer)
        except MessageError as error:
            raise Unmet(_changed("answer", error)) from None
        if (got.peer_id, from_json(got.offer_id), from_json(got.sdp)) != (self.bob_id, self.offer_id, _SDP):
            raise Unmet("the answer arrives changed")
        return ""

    async def _counts_leecher(self, bob: Peer) -> str:
        counts = _counts(await _announce(bob, left=None))
        if counts != (1, 1):
            raise Unmet(f"complete {counts[0]}, incomplete {counts[1]} instead of 1 and 1")
        return ""

    async def _odd_events(self, bob: Peer) -> str:
        for event in ("paused", "<regular>", ""):
            reply = await _announce(bob, event=event)
            if isinstance(reply, Failure):
                raise Unmet(f"event {event!r}: {reply.text}")
        return ""

    async def _opaque_offers(self, bob: Peer, alice: Peer) -> str:
        offers = [make_offer(_any_id(), f"{n},136,$" + "QUJD" * 700) for n in range(10)]
        await bob.send({}, offers)  # no numwant: as many as there are offers
        got = await _expect_offer(alice)
        if from_json(got.offer.description.sdp) not in [from_json(offer.description.sdp) for offer in offers]:
            raise Unmet("the offer arrives changed")
        return "10 offers of 3 KB, not SDP"

    async def _other_ids(self) -> str:
        """Let two peers meet with ids of the same lengths as go2rtc's."""
        info_hash, offer_id = base64.b64encode(random.randbytes(32)).decode(), _ascii_id()[:12]
        async with connect(self.url, self.time_limit) as offering, connect(self.url, self.time_limit) as answering:
            viewer, camera = Peer(offering, info_hash, _ascii_id()[:16]), Peer(answering, info_hash, _ascii_id()[:16])
            reply = await camera.announce({"offers": [], "numwant": 10})
            if isinstance(reply, Failure):
                raise Unmet(f"failure: {reply.text}")
            await viewer.send({"numwant": 1}, [make_offer(offer_id, _SDP, info_hash)])
            offer = await _expect_offer(camera)
            await camera.answer(offer.peer_id, from_json(offer.offer.offer_id), _SDP)
            answer = await offering.expect(RelayedAnswer)
        got = offer.info_hash, offer.peer_id, answer.peer_id, from_json(answer.offer_id)
        if got != (info_hash, viewer.peer_id, camera.peer_id, offer_id):
            raise Unmet("an id arrives changed")
        return "as go2rtc has them: 44, 16 and 12 characters"

    async def _scrapes(self, alice: Peer) -> str:
        unknown = _any_id()
        try:
            reply = await alice.client.scrape([self.info_hash, unknown])
        except BinaryFrameError:
            raise
        except MessageError:
            reply = Failure("", action="scrape")
        if not isinstance(reply, ScrapeReply) or self.info_hash not in reply.files:
            raise Unmet("the swarm is not in the reply")
        if unknown not in reply.files:
            raise Unmet("leaves out a swarm it does not know, for which clients wait")
        return ""

    async def _pongs(self, alice: Peer) -> str:
        return f"in {await alice.client.ping() * 1000:.1f} ms"

    async def _stray_answer(self, alice: Peer) -> str:
        await alice.answer(_any_id(), _any_id(), _SDP)
        await _announce(alice, left=0)
        return ""

    async def _bad_input(self) -> str:
        announce = Announce(_ascii_id(), _ascii_id(), stopped=False, complete=False, offers=[])
        bad: list[tuple[str, str | bytes]] = [
            ("no JSON", "{"),
            ("null", "null"),
            ("an unknown action", '{"action":"dance"}'),
            ("an empty info_hash", encode(announce, {"info_hash": "", "peer_id": self.bob_id})),
            ("a null offer", encode(announce, {"numwant": 1, "offers": [None]})),
        ]
        for name, payload in bad:
            async with self._peer(_any_id()) as mallory:
                await mallory.client.send_text(payload)
                try:
                    await _announce(mallory, left=1)
                except _FAULTS as error:
                    raise Unmet(f"{name}: {_fault(error)}") from None
        return "each is answered or ignored, and the socket stays open"

    async def _reconnects(self, alice: Peer) -> str:
        """Let Bob come back on a second socket, while the tracker still holds the first."""
        async with self._peer(self.bob_id) as bob_again:
            await _announce(bob_again, event="started")
            await alice.send({}, [make_offer(_any_id(), _SDP)] * 2)
            await _expect_offer(bob_again, "offer on the new socket")
        return ""

    async def _stops(self, alice: Peer) -> str:
        await _announce(alice, event="stopped", left=0)
        await _announce(alice, event="started", left=0)
        return ""

    async def _closes(self, alice: Peer, bob: Peer) -> str:
        await _announce(bob, left=1)
        await bob.client.socket.close()
        deadline = time.monotonic() + self.time_limit
        while time.monotonic() < deadline:
            if _counts(await _announce(alice, left=0)) == (1, 0):
                return ""
            await asyncio.sleep(0.1)
        raise Unmet(f"still counted after {self.time_limit:g} s")

    @asynccontextmanager
    async def _peer(self, peer_id: str) -> AsyncIterator[Peer]:
        async with connect(self.url, self.time_limit) as client:
            yield Peer(client, self.info_hash, peer_id)

    async def _try(self, name: str, needed: bool, step: Callable[[], Awaitable[str]]) -> None:
        if any(result.needed and not result.works for result in self.report.results):
            self._add(name, needed, None, "")
            return
        try:
            detail, works = await step(), True
        except Unmet as error:
            detail, works = str(error), False
        except _FAULTS as error:
            detail, works = _fault(error), False
        self._add(name, needed, works, detail)

    def _add(self, name: str, needed: bool, works: bool | None, detail: str) -> None:
        # A tracker's text must not reach the terminal with control characters in it.
        clean = "".join(letter if letter.isprintable() else "?" for letter in detail)[:MAX_DETAIL]
        self.report.results.append(Result(name, needed, works, clean))


async def check(url: str, time_limit: float) -> Report:
    """Try every step on the tracker at `url`; wait up to `time_limit` seconds for each message."""
    return await _Check(url, time_limit).run()


async def _announce(peer: Peer, **fields: object) -> AnnounceReply | Failure:
    """Announce with webtorrent's fields, where `fields` does not replace them."""
    return await peer.announce({**WEBTORRENT_DEFAULTS, **fields})


async def _expect_offer(peer: Peer, name: str = "offer") -> RelayedOffer:
    try:
        return await peer.client.expect(RelayedOffer, name=name)
    except MessageError as error:
        raise Unmet(_changed("offer", error)) from None


def _changed(name: str, error: MessageError) -> str:
    return _fault(error) if isinstance(error, BinaryFrameError) else f"the {name} arrives changed"


def _counts(reply: AnnounceReply | Failure) -> tuple[int | None, int | None]:
    return (None, None) if isinstance(reply, Failure) else (reply.complete, reply.incomplete)


def _plain(offer: Offer) -> tuple[str, str]:
    return from_json(offer.offer_id), from_json(offer.description.sdp)


def _any_id() -> str:
    return "".join(chr(random.randrange(256)) for _ in range(16)) + '\0"\\\xff'


def _ascii_id() -> str:
    return "".join(random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=20))


def _fault(error: BaseException) -> str:
    if isinstance(error, BinaryFrameError):
        return "answers in binary frames, which browsers' clients cannot read"
    if isinstance(error, websockets.ConnectionClosed):
        close = f"{error.rcvd.code} {error.rcvd.reason}".strip() if error.rcvd else "no close frame"
        return f"the tracker closed the socket ({close})"
    return _one_line(error)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
