"""Plays two peers against any WebTorrent tracker and reports what works there."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import websockets
from websockets.asyncio.client import ClientConnection, connect

Json = dict[str, Any]

MAX_DETAIL: Final = 200
"""Characters of a result's detail, which may quote the tracker."""

_SDP: Final = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=peerservers check\r\n"


class Unmet(Exception):
    """The tracker does not do what was expected; the text says what it does."""


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the report. `works` is None where it could not be tried."""

    name: str
    needed: bool
    works: bool | None
    detail: str


@dataclass(slots=True)
class Report:
    """What a tracker does."""

    url: str
    results: list[Result] = field(default_factory=list)

    @property
    def peers_can_meet(self) -> bool:
        """Whether everything works without which two peers cannot connect."""
        return all(result.works for result in self.results if result.needed)

    def as_json(self) -> str:
        """For programs."""
        rows = [{"name": r.name, "needed": r.needed, "works": r.works, "detail": r.detail} for r in self.results]
        return json.dumps({"url": self.url, "peers_can_meet": self.peers_can_meet, "results": rows}, indent=2)

    def as_table(self) -> str:
        """For people."""
        width = max(len(result.name) for result in self.results)
        words = {True: "yes", False: "NO", None: "-"}
        lines = [self.url, ""]
        lines += [
            f"{r.name:{width}}  {words[r.works]:3}  {'*' if r.needed else ' '}  {r.detail}".rstrip()
            for r in self.results
        ]
        verdict = "Peers can meet here." if self.peers_can_meet else "Peers cannot meet here."
        return "\n".join([*lines, "", f"{verdict} (* is needed for that)"])


class _Peer:
    """A client with one peer_id on one socket."""

    def __init__(self, socket: ClientConnection, info_hash: str, peer_id: str, patience: float) -> None:
        self.socket = socket
        self.info_hash = info_hash
        self.peer_id = peer_id
        self.patience = patience

    async def send(self, **fields: Any) -> None:
        message = {"action": "announce", "info_hash": self.info_hash, "peer_id": self.peer_id, **fields}
        await self.socket.send(json.dumps(message, ensure_ascii=False))

    async def expect(self, what: str, wanted: Callable[[Json], bool]) -> Json:
        """The next message that is wanted; others are passed over."""
        try:
            async with asyncio.timeout(self.patience):
                while True:
                    frame = await self.socket.recv()
                    if isinstance(frame, bytes):
                        raise Unmet("answers in binary frames, which browsers' clients cannot read")
                    try:
                        message = json.loads(frame)
                    except (ValueError, RecursionError):
                        continue
                    if isinstance(message, dict) and wanted(message):
                        return message
        except TimeoutError:
            raise Unmet(f"no {what} within {self.patience:g} s") from None
        except websockets.ConnectionClosed as error:
            raise Unmet(f"the tracker closed the socket ({_why(error)})") from None

    async def reply(self) -> Json:
        """The answer to an announce: counts, or a failure for this swarm."""
        return await self.expect(
            "reply",
            lambda message: (
                "interval" in message
                or ("failure reason" in message and message.get("info_hash", self.info_hash) == self.info_hash)
            ),
        )

    async def announce(self, **fields: Any) -> Json:
        await self.send(**{"numwant": 5, "uploaded": 0, "downloaded": 0, "left": 1, **fields})
        return await self.reply()


class _Check:
    """The steps, in order; each builds on what came before."""

    def __init__(self, url: str, patience: float) -> None:
        self.url = url
        self.patience = patience
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
            await self._try("takes opaque and large offers", False, lambda: self._opaque_offers(alice, bob))
            await self._try("scrape", False, lambda: self._scrapes(alice))
            await self._try("answers pings", False, lambda: self._pongs(alice))
            await self._try("survives an answer to an unknown peer", False, lambda: self._stray_answer(alice))
            await self._try("survives bad input", False, self._bad_input)
            await self._try("a reconnected peer is reached", False, lambda: self._reconnects(alice))
            await self._try("answers `stopped`", False, lambda: self._stops(alice))
            await self._try("a closed socket leaves the swarm", False, lambda: self._closes(alice, bob))
        return self.report

    async def _announces(self, alice: _Peer) -> str:
        started = time.monotonic()
        reply = await alice.announce(event="started", left=0)
        elapsed = time.monotonic() - started
        if "failure reason" in reply:
            raise Unmet(f"failure: {reply['failure reason']}")
        if reply.get("info_hash") != self.info_hash:
            raise Unmet("the reply's info_hash is not the one that was sent")
        if type(reply["interval"]) is not int or type(reply.get("complete")) is not int:
            raise Unmet("the reply lacks an integer interval or complete")
        return f"in {elapsed * 1000:.1f} ms, interval {reply['interval']} s"

    async def _relays_offer(self, alice: _Peer, bob: _Peer) -> str:
        await bob.announce(event="started", offers=[])
        offers = [{"offer": {"type": "offer", "sdp": _SDP}, "offer_id": self.offer_id}]
        await alice.send(numwant=1, uploaded=0, downloaded=0, left=0, offers=offers)
        offer = await bob.expect("offer", lambda message: "offer" in message)
        sent = (self.info_hash, self.alice_id, self.offer_id, {"type": "offer", "sdp": _SDP})
        if (offer.get("info_hash"), offer.get("peer_id"), offer.get("offer_id"), offer["offer"]) != sent:
            raise Unmet("the offer arrives changed")
        await alice.reply()
        return ""

    async def _relays_answer(self, alice: _Peer, bob: _Peer) -> str:
        answer = {"type": "answer", "sdp": _SDP}
        await bob.send(to_peer_id=self.alice_id, offer_id=self.offer_id, answer=answer)
        got = await alice.expect("answer", lambda message: "answer" in message)
        if (got.get("peer_id"), got.get("offer_id"), got["answer"]) != (self.bob_id, self.offer_id, answer):
            raise Unmet("the answer arrives changed")
        return ""

    async def _counts_leecher(self, bob: _Peer) -> str:
        reply = await bob.announce(left=None)
        if (reply.get("complete"), reply.get("incomplete")) != (1, 1):
            raise Unmet(f"complete {reply.get('complete')}, incomplete {reply.get('incomplete')} instead of 1 and 1")
        return ""

    async def _odd_events(self, bob: _Peer) -> str:
        for event in ("paused", "<regular>", ""):
            reply = await bob.announce(event=event)
            if "failure reason" in reply:
                raise Unmet(f"event {event!r}: {reply['failure reason']}")
        return ""

    async def _opaque_offers(self, alice: _Peer, bob: _Peer) -> str:
        offers = [
            {"offer": {"type": "offer", "sdp": f"{n},136,$" + "QUJD" * 700}, "offer_id": _any_id()} for n in range(10)
        ]
        await alice.send(offers=offers)  # no numwant: as many as there are offers
        offer = await bob.expect("offer", lambda message: "offer" in message)
        if offer["offer"] not in [item["offer"] for item in offers]:
            raise Unmet("the offer arrives changed")
        return "10 offers of 3 KB, not SDP"

    async def _scrapes(self, alice: _Peer) -> str:
        unknown = _any_id()
        scrape = {"action": "scrape", "info_hash": [self.info_hash, unknown]}
        await alice.socket.send(json.dumps(scrape, ensure_ascii=False))
        reply = await alice.expect("reply", lambda message: message.get("action") == "scrape")
        files = reply.get("files")
        if not isinstance(files, dict) or self.info_hash not in files:
            raise Unmet("the swarm is not in the reply")
        if unknown not in files:
            raise Unmet("leaves out a swarm it does not know, for which clients wait")
        return ""

    async def _pongs(self, alice: _Peer) -> str:
        try:
            async with asyncio.timeout(self.patience):
                latency = await (await alice.socket.ping())
        except TimeoutError:
            raise Unmet(f"no pong within {self.patience:g} s") from None
        return f"in {latency * 1000:.1f} ms"

    async def _stray_answer(self, alice: _Peer) -> str:
        await alice.send(to_peer_id=_any_id(), offer_id=_any_id(), answer={"type": "answer", "sdp": _SDP})
        await alice.announce(left=0)
        return ""

    async def _bad_input(self) -> str:
        bad: list[tuple[str, str]] = [
            ("no JSON", "{"),
            ("null", "null"),
            ("an unknown action", '{"action":"dance"}'),
            ("a short info_hash", json.dumps({"action": "announce", "info_hash": "x", "peer_id": self.bob_id})),
            ("a null offer", json.dumps({"action": "announce", "info_hash": _ascii_id(), "peer_id": _ascii_id(),
                                         "numwant": 1, "offers": [None]})),
        ]  # fmt: skip
        for what, frame in bad:
            async with self._peer(_any_id()) as mallory:
                await mallory.socket.send(frame)
                try:
                    await mallory.announce(left=1)
                except Unmet as error:
                    raise Unmet(f"{what}: {error}") from None
        return "each is answered or ignored, and the socket stays open"

    async def _reconnects(self, alice: _Peer) -> str:
        """Bob comes back on a second socket, while the tracker still holds the first."""
        async with self._peer(self.bob_id) as bob_again:
            await bob_again.announce(event="started")
            await alice.send(offers=[{"offer": {"type": "offer", "sdp": _SDP}, "offer_id": _any_id()}] * 2)
            await bob_again.expect("offer on the new socket", lambda message: "offer" in message)
        return ""

    async def _stops(self, alice: _Peer) -> str:
        await alice.announce(event="stopped", left=0)
        await alice.announce(event="started", left=0)
        return ""

    async def _closes(self, alice: _Peer, bob: _Peer) -> str:
        await bob.announce(left=1)
        await bob.socket.close()
        deadline = time.monotonic() + self.patience
        while time.monotonic() < deadline:
            reply = await alice.announce(left=0)
            if (reply.get("complete"), reply.get("incomplete")) == (1, 0):
                return ""
            await asyncio.sleep(0.1)
        raise Unmet(f"still counted after {self.patience:g} s")

    @asynccontextmanager
    async def _peer(self, peer_id: str) -> AsyncIterator[_Peer]:
        async with connect(
            self.url, open_timeout=self.patience, close_timeout=1, compression=None, max_queue=None
        ) as socket:
            yield _Peer(socket, self.info_hash, peer_id, self.patience)

    async def _try(self, name: str, needed: bool, step: Callable[[], Awaitable[str]]) -> None:
        if any(result.needed and not result.works for result in self.report.results):
            self._add(name, needed, None, "")
            return
        try:
            detail, works = await step(), True
        except Unmet as error:
            detail, works = str(error), False
        except websockets.ConnectionClosed as error:
            detail, works = f"the tracker closed the socket ({_why(error)})", False
        except (OSError, TimeoutError, websockets.WebSocketException) as error:
            detail, works = _one_line(error), False
        self._add(name, needed, works, detail)

    def _add(self, name: str, needed: bool, works: bool | None, detail: str) -> None:
        # What a tracker says is not to be trusted with the terminal.
        clean = "".join(letter if letter.isprintable() else "?" for letter in detail)[:MAX_DETAIL]
        self.report.results.append(Result(name, needed, works, clean))


async def check(url: str, patience: float) -> Report:
    """Try everything on the tracker at `url`, waiting up to `patience` seconds for each answer."""
    return await _Check(url, patience).run()


def _any_id() -> str:
    return "".join(chr(random.randrange(256)) for _ in range(16)) + '\0"\\\xff'


def _ascii_id() -> str:
    return "".join(random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=20))


def _why(error: websockets.ConnectionClosed) -> str:
    return f"{error.rcvd.code} {error.rcvd.reason}".strip() if error.rcvd else "no close frame"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
