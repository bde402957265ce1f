"""A small WebTorrent tracker with links, written from docs/federation.md, section "A minimal implementation".

    python minimal_tracker.py --port 8000 --url wss://tracker.example.org --peer wss://other.example.org

It trusts every tracker that it is linked with: on a public address, name those that it should admit (`--admit`).
Numbers in comments are rules of the page. Beyond that section, it keeps rule 8.3, it names all swarms again when their
tags have filled the filter, and it engages trackers that name a swarm, so that two small trackers can be linked.
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.typing import Subprotocol

SUBPROTOCOL = Subprotocol("peerservers.federation.1")
# Section 10: sizes, and times in seconds.
FRAME, SDP, PART, SWARMS, OFFERS, PEERS = 262144, 65536, 32768, 1000, 100, 1000000
HANDSHAKE_TIMEOUT, TELL_PERIOD, ANSWER_TIMEOUT, QUIET_TIME = 10, 3, 120, 10
ROOM = PART * 8 // 10  # Swarms in a part of this size.
# The page leaves these to the tracker: announce intervals of clients, and the pause before it dials again.
INTERVAL, LONELY_INTERVAL, REDIAL, REDIAL_MOST = 120, 30, 1.0, 60.0
# `broadcast` sends without waiting. The buffer of a receiver that does not read grows until its pong is overdue.
WEBSOCKET: dict[str, Any] = {"compression": None, "max_size": FRAME, "ping_interval": 30, "ping_timeout": 25}
# A value that has not the expected form raises one of these.
Malformed = (AttributeError, KeyError, TypeError, ValueError, RecursionError)

Value = TypeVar("Value")
Message = dict[str, Any]
Check = Callable[[Any], object]
Offer = tuple[bytes, str, str]  # Swarm bytes, peer_id of the peer that makes the offer, offer_id.


# --- The forms of messages (section 3)


def require(condition: bool) -> None:
    if not condition:
        raise ValueError


def text(most: int, unit: int = 1) -> Check:
    """Strings of so many bytes in UTF-8, in multiples of a unit."""
    return lambda value: require(len(value.encode()) <= most and len(value.encode()) % unit == 0)


def identifier(value: Any) -> None:
    """A peer_id or offer_id of any swarm. `Swarm.check` is stricter."""
    require(1 <= len(value) <= 64 and bool(value.encode()))


def number(most: int, least: int = 0) -> Check:
    return lambda value: require(type(value) is int and least <= value <= most)


def flag(value: Any) -> None:
    require(isinstance(value, bool))


def digits(size: int) -> Check:
    return lambda value: require(len(bytes.fromhex(value)) == size and value == bytes.fromhex(value).hex())


def several(check: Check, most: int, least: int = 0) -> Check:
    return lambda value: require(isinstance(value, list) and least <= len([check(v) for v in value]) <= most)


def row(*checks: Check) -> Check:
    return lambda value: [check(field) for check, field in zip(checks, value, strict=True)]


def name(value: Any) -> None:
    require(isinstance(value, str) and len(value) == 32)


def name_or_empty(value: Any) -> None:
    if value != "":
        name(value)


def offer(value: Any) -> None:
    require(value["offer"]["type"] == "offer")
    text(SDP)(value["offer"]["sdp"])
    identifier(value["offer_id"])


def bits(value: Any) -> None:
    part = base64.b64decode(value, validate=True)
    require(0 < len(part) <= PART and int.from_bytes(part, "big").bit_count() <= len(part) * 5)


# An optional field ends with "?".
FORMS: dict[str, dict[str, Check]] = {
    "hello": {"id": digits(32), "nonce": digits(32), "url?": text(FRAME), "features?": several(text(FRAME), FRAME)},
    "proof": {"signature": digits(64), "swarms?": several(name, 8)},
    "filter": {"part": number(63), "parts": number(64, 1), "bits": bits},
    "opened": {"tags": text(16 * SWARMS, 16)},
    "have": {"swarms": several(row(name, number(PEERS), number(PEERS)), SWARMS), "reply?": flag},
    "present": {"swarms": several(row(name, text(16 * 32, 16), text(16 * 32, 16)), SWARMS), "reply?": flag},
    "offers": {"swarm": name, "peer_id": identifier, "offers": several(offer, OFFERS, 1)},
    "refused": {"swarm": name, "peer_id": identifier, "offer_ids": several(identifier, OFFERS), "known?": flag},
    "answer": dict.fromkeys(("peer_id", "to_peer_id", "offer_id"), identifier) | {"swarm": name, "sdp": text(SDP)},
    "seek": {"swarm": name_or_empty},
    "trackers": {
        "swarm": name_or_empty,
        "trackers": several(row(digits(32), number(2**63), text(FRAME), digits(64)), 20),
    },
    "bye": {"reason": text(64)},
}


def parse(line: str) -> Message:
    """Return a valid message; raise one of `Malformed`."""
    message = json.loads(line)
    form = FORMS[message["type"]]
    if message["type"] == "hello":
        number(2**63)(message["version"])
        form = form if message["version"] == 1 else {}  # 4.5: with another version, no other field is read.
    for field, check in form.items():
        if not field.endswith("?") or field[:-1] in message:
            check(message[field.rstrip("?")])
    if message["type"] == "filter":
        require(message["part"] < message["parts"] and message["parts"].bit_count() == 1)
    return dict(message)


def encode(message: Message) -> str:
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))


def fits(message: Message) -> bool:
    return len(encode(message).encode()) <= FRAME


def same_url(url: str, other: str) -> bool:
    def parts(url: str) -> tuple[object, ...]:
        split = urlsplit(url)
        port = split.port or {"wss": 443, "ws": 80}.get(split.scheme)
        return split.scheme, split.hostname, port, split.path.rstrip("/"), split.query

    with contextlib.suppress(ValueError):
        return parts(url) == parts(other)
    return False


# --- Swarms


def keep(table: dict[Offer, Value], offer: Offer, value: Value) -> None:
    """Keep a value as long as an offer can be answered."""
    table[offer] = value
    asyncio.get_running_loop().call_later(ANSWER_TIMEOUT, table.pop, offer, None)


@dataclass
class Peer:
    client: "Client"
    seeder: bool
    quiet_until: float  # No offers from links before this time.


class Swarm:
    """The own peers of an open swarm, by their peer_id."""

    def __init__(self, info_hash: str) -> None:
        self.info_hash = info_hash
        self.is_text = len(info_hash) != 20 or max(info_hash) > "\xff"
        if self.is_text:
            key = hashlib.sha256(b"peerservers/1 text id" + info_hash.encode()).digest()[:20]  # dht.md, Keys
        self.bytes = b"text" + key if self.is_text else info_hash.encode("latin-1")  # 5.1
        self.tag = hashlib.sha256(b"peerservers/1 tag" + self.bytes).digest()[:8].hex()  # 5.2
        self.peers: dict[str, Peer] = {}

    def numbers(self) -> tuple[int, int]:
        seeders = sum(peer.seeder for peer in self.peers.values())
        return seeders, len(self.peers) - seeders

    def check(self, *identifiers: str) -> None:
        """Check peer_ids and offer_ids, as clients of this swarm need them (3.5)."""
        for value in identifiers:
            identifier(value)
            require(self.is_text or (len(value) == 20 and max(value) <= "\xff"))


# --- Links


class LinkEnd(Exception):
    """The link ends, with this reason."""


class Link:
    """A link without its WebSocket. `url` is the URL that this tracker has dialed, and None at the listener."""

    def __init__(self, tracker: "Tracker", send: Callable[[Message], None], url: str | None = None) -> None:
        self.tracker, self.send, self.url = tracker, send, url
        self.nonce = os.urandom(32)
        self.id = self.transcript = self.secret = b""
        self.state = "hello"  # The next message, then "open" and "ended".
        self.room = 0  # How many swarms may be named until the next filter.
        self.proved, self.said = False, ""  # `said` is the reason of the other side's `bye`.
        self.stop: Callable[[], None] = lambda: None  # Ends the WebSocket.
        self.numbers: dict[Swarm, tuple[int, int]] = {}  # What the other side has told,
        self.told: dict[Swarm, tuple[int, int]] = {}  # and this side.
        self.sent: dict[Offer, bool] = {}
        own = {"version": 1, "id": tracker.id.hex(), "nonce": self.nonce.hex(), "url": url or ""}
        send({"type": "hello", **own})

    def end(self, reason: str) -> None:
        if self.state != "ended" and reason != "closed_there":
            self.send({"type": "bye", "reason": reason})
        self.state = "ended"

    def name(self, swarm: Swarm, side: bytes | None = None) -> str:
        """The name of a swarm in messages of this side, or the given one (5.3)."""
        return swarm.tag + hmac.digest(self.secret, (side or self.tracker.id) + swarm.bytes, "sha256")[:8].hex()

    def swarm(self, name: str) -> Swarm | None:
        swarm = self.tracker.tags.get(name[:16])
        return swarm if swarm and self.name(swarm, self.id) == name else None  # 5.4

    def common(self, swarm: Swarm) -> bool:
        return swarm in self.numbers and swarm in self.told

    def receive(self, frame: str | bytes) -> None:
        """Apply the messages of a frame; raise LinkEnd."""
        try:
            require(isinstance(frame, str))
            for message in [parse(line) for line in str(frame).split("\n")]:
                if message["type"] == "bye":
                    self.said = message["reason"]
                    raise LinkEnd("closed_there")
                if self.state == "ended":
                    return
                if self.state != (message["type"] if message["type"] in ("hello", "proof") else "open"):
                    raise LinkEnd("out_of_turn")
                handlers = {"hello": self.on_hello, "proof": self.on_proof, "opened": self.on_opened}
                handlers |= {"have": self.on_have, "offers": self.on_offers}
                handlers |= {"refused": self.on_refused, "answer": self.on_answer}
                handlers.get(message["type"], lambda _: None)(message)
        except Malformed as error:
            raise LinkEnd("invalid_message") from error

    def on_hello(self, m: Message) -> None:
        if m["version"] != 1:
            raise LinkEnd("wrong_version")
        self.id, nonce = bytes.fromhex(m["id"]), bytes.fromhex(m["nonce"])
        if self.id == self.tracker.id and any(link.nonce == nonce for link in self.tracker.links):
            raise LinkEnd("itself")
        url, urls = m.get("url", "") if self.url is None else self.url, self.tracker.urls
        if self.url is None and urls and not any(same_url(url, own) for own in urls):
            raise LinkEnd("wrong_url")
        if nonce == self.nonce:
            raise LinkEnd("invalid_proof")
        own, other = (self.tracker.id, self.nonce), (self.id, nonce)
        dialer, listener = (other, own) if self.url is None else (own, other)
        self.transcript = b"".join([SUBPROTOCOL.encode(), dialer[0], listener[0], dialer[1], listener[1]])
        self.transcript += hashlib.sha256(url.encode()).digest()  # 4.6
        self.secret = hashlib.sha256(b"names" + self.transcript).digest()
        role = b"listener " if self.url is None else b"dialer "
        self.send({"type": "proof", "signature": self.tracker.key.sign(role + self.transcript).hex()})
        self.state = "proof"

    def on_proof(self, m: Message) -> None:
        role = b"dialer " if self.url is None else b"listener "
        try:
            key = Ed25519PublicKey.from_public_bytes(self.id)
            key.verify(bytes.fromhex(m["signature"]), role + self.transcript)
        except (InvalidSignature, ValueError) as error:
            raise LinkEnd("invalid_proof") from error
        if self.id == self.tracker.id:
            raise LinkEnd("same_key")
        self.proved = True
        self.tracker.admit(self)
        self.state = "open"
        self.send_swarms()

    def send_swarms(self) -> None:
        """Send a filter without any swarm, and name all open swarms."""
        tags, parts = list(self.tracker.tags), 1
        while 2 * len(tags) > parts * ROOM:
            parts *= 2
        for part in range(parts):
            self.send({"type": "filter", "part": part, "parts": parts, "bits": base64.b64encode(bytes(PART)).decode()})
        for start in range(0, len(tags), SWARMS):
            self.send({"type": "opened", "tags": "".join(tags[start : start + SWARMS])})
        self.room = parts * ROOM - len(tags)

    def send_opened(self, swarm: Swarm) -> None:
        """Name a swarm that has opened, or all again if the other side cannot keep more tags."""
        self.room -= 1
        if self.room:
            self.send({"type": "opened", "tags": swarm.tag})  # 6.2
        else:
            self.send_swarms()

    def on_opened(self, m: Message) -> None:
        """Engage the other side, which may be as small as this one and not do so itself (6.5)."""
        tags = [m["tags"][start : start + 16] for start in range(0, len(m["tags"]), 16)]
        swarms = [self.tracker.tags[tag] for tag in tags if tag in self.tracker.tags]
        self.tell([swarm for swarm in swarms if swarm not in self.told])

    def tell(self, swarms: list[Swarm], reply: bool = False) -> None:
        for start in range(0, len(swarms), SWARMS):
            part = swarms[start : start + SWARMS]
            told = [[self.name(swarm), *swarm.numbers()] for swarm in part]
            self.send({"type": "have", "swarms": told, "reply": reply})
        self.told |= {swarm: swarm.numbers() for swarm in swarms}

    def forget(self, swarm: Swarm) -> None:
        self.numbers.pop(swarm, None)
        self.told.pop(swarm, None)

    def on_have(self, m: Message) -> None:
        to_tell = []
        for name, numbers in {name: numbers for name, *numbers in m["swarms"]}.items():  # The last entry counts (6.8).
            swarm = self.swarm(name)
            if swarm and any(numbers):
                if swarm not in self.numbers and not (m.get("reply") and swarm in self.told):
                    to_tell.append(swarm)  # 6.6
                self.numbers[swarm] = numbers[0], numbers[1]
            elif swarm:
                self.forget(swarm)  # 6.10
        self.tell(to_tell, reply=True)

    def on_offers(self, m: Message) -> None:
        swarm, peer_id, offers = self.swarm(m["swarm"]), m["peer_id"], m["offers"]
        if not swarm:
            return
        swarm.check(peer_id, *(item["offer_id"] for item in offers))
        if not self.common(swarm):
            return  # 7.2
        now = time.monotonic()
        peers = [peer for other, peer in swarm.peers.items() if other != peer_id and peer.quiet_until <= now]
        for item, peer in zip(offers, random.sample(peers, min(len(peers), len(offers))), strict=False):
            keep(self.tracker.routes, (swarm.bytes, peer_id, item["offer_id"]), self)  # 7.7
            peer.client.relay(swarm, peer_id, "offer", item["offer"]["sdp"], item["offer_id"])
        refused = [item["offer_id"] for item in offers[len(peers) :]]
        if refused:
            self.send({"type": "refused", "swarm": self.name(swarm), "peer_id": peer_id, "offer_ids": refused})

    def on_refused(self, m: Message) -> None:
        """The offers are lost."""
        swarm = self.swarm(m["swarm"])
        if swarm:
            swarm.check(m["peer_id"], *m["offer_ids"])

    def send_offers(self, swarm: Swarm, peer_id: str, offers: list[Message]) -> None:
        message = {"type": "offers", "swarm": self.name(swarm), "peer_id": peer_id, "offers": offers}
        if len(offers) <= OFFERS and fits(message):
            for item in offers:
                keep(self.sent, (swarm.bytes, peer_id, item["offer_id"]), True)
            self.send(message)
        elif len(offers) > 1:
            middle = len(offers) // 2
            self.send_offers(swarm, peer_id, offers[:middle])
            self.send_offers(swarm, peer_id, offers[middle:])

    def on_answer(self, m: Message) -> None:
        swarm, to_peer_id, offer_id = self.swarm(m["swarm"]), m["to_peer_id"], m["offer_id"]
        if swarm:
            swarm.check(m["peer_id"], to_peer_id, offer_id)
            if to_peer_id in swarm.peers and (swarm.bytes, to_peer_id, offer_id) in self.sent:  # 7.8
                swarm.peers[to_peer_id].client.relay(swarm, m["peer_id"], "answer", m["sdp"], offer_id)


# --- Clients, and the tracker


class Client:
    """A client without its WebSocket. It may have several peers, as pairs of an info_hash and a peer_id."""

    def __init__(self, tracker: "Tracker", send: Callable[[Message], None]) -> None:
        self.tracker, self.send = tracker, send
        self.joined: set[tuple[str, str]] = set()

    def relay(self, swarm: Swarm, peer_id: str, kind: str, sdp: str, offer_id: str) -> None:
        ids = {"info_hash": swarm.info_hash, "peer_id": peer_id, "offer_id": offer_id}
        self.send({"action": "announce", **ids, kind: {"type": kind, "sdp": sdp}})

    def receive(self, frame: str | bytes) -> None:
        info_hash = "\0" * 20
        try:
            message = json.loads(frame)
            require(message["action"] == "announce")
            identifier(message["info_hash"])
            info_hash = message["info_hash"]
            swarm = self.tracker.swarms.get(info_hash) or Swarm(info_hash)
            swarm.check(message["peer_id"])
            if message.get("answer"):
                self.answer(swarm, message)
            else:
                self.announce(swarm, message)
        except Malformed:
            self.send({"action": "announce", "info_hash": info_hash, "failure reason": "invalid message"})

    def answer(self, swarm: Swarm, m: Message) -> None:
        peer_id, to_peer_id, offer_id, sdp = m["peer_id"], m["to_peer_id"], m["offer_id"], m["answer"]["sdp"]
        swarm.check(to_peer_id, offer_id)
        text(SDP)(sdp)
        link = self.tracker.routes.get((swarm.bytes, to_peer_id, offer_id))
        if (swarm.info_hash, peer_id) not in self.joined:
            return
        if link and link.state == "open":
            ids = {"peer_id": peer_id, "to_peer_id": to_peer_id, "offer_id": offer_id}
            answer = {"type": "answer", "swarm": link.name(swarm), **ids, "sdp": sdp}
            if fits(answer):
                link.send(answer)
        elif to_peer_id in swarm.peers:
            swarm.peers[to_peer_id].client.relay(swarm, peer_id, "answer", sdp, offer_id)

    def announce(self, swarm: Swarm, m: Message) -> None:
        peer_id, event, offers = m["peer_id"], m.get("event"), []
        for item in m.get("offers") or []:
            with contextlib.suppress(*Malformed):
                offer(item)
                swarm.check(item["offer_id"])
                sdp = item["offer"]["sdp"]
                offers.append({"offer": {"type": "offer", "sdp": sdp}, "offer_id": item["offer_id"]})
        if event == "stopped":
            self.tracker.leave(self, swarm, peer_id)
        else:
            joins_quietly = event == "completed" and not offers and peer_id not in swarm.peers  # 8.3
            quiet_until = time.monotonic() + QUIET_TIME if joins_quietly else 0
            peer = Peer(self, event == "completed" or m.get("left") == 0, quiet_until)
            self.tracker.join(swarm, peer_id, peer)
        links = [link for link in self.tracker.links if link.common(swarm)]
        seeders, leechers = map(sum, zip(swarm.numbers(), *(link.numbers[swarm] for link in links), strict=True))
        interval = INTERVAL if seeders + leechers > 1 else LONELY_INTERVAL
        reply = {"info_hash": swarm.info_hash, "interval": interval, "complete": seeders, "incomplete": leechers}
        self.send({"action": "announce", **reply})
        if event != "stopped":
            self.place(swarm, peer_id, offers, links)

    def place(self, swarm: Swarm, peer_id: str, offers: list[Message], links: list[Link]) -> None:
        """Draw a receiver for each offer, as if the peers behind links were own peers (7.1)."""
        receivers: list[Client | Link] = [peer.client for other, peer in swarm.peers.items() if other != peer_id]
        counts = [1] * len(receivers) + [sum(link.numbers[swarm]) for link in links]
        receivers += links
        drawn = random.sample(receivers, min(sum(counts), len(offers)), counts=counts) if receivers else []
        for receiver, item in zip(drawn, offers, strict=False):
            if isinstance(receiver, Client):
                receiver.relay(swarm, peer_id, "offer", item["offer"]["sdp"], item["offer_id"])
        for link in set(links).intersection(drawn):
            together = [item for receiver, item in zip(drawn, offers, strict=False) if receiver is link]
            link.send_offers(swarm, peer_id, together)


class Tracker:
    """A tracker with the key of a seed.

    It accepts links at its URLs, or, if there are none, at any. It dials the URLs of its peers. It links with the
    trackers of the admitted ids, or with all.
    """

    def __init__(
        self,
        seed: bytes,
        urls: Collection[str] = (),
        peers: Collection[str] = (),
        admitted: Collection[bytes] = (),
    ) -> None:
        self.key = Ed25519PrivateKey.from_private_bytes(seed)
        self.id = self.key.public_key().public_bytes_raw()
        self.urls, self.peers, self.admitted = urls, peers, admitted
        self.swarms: dict[str, Swarm] = {}
        self.tags: dict[str, Swarm] = {}
        self.links: set[Link] = set()
        self.routes: dict[Offer, Link] = {}

    def join(self, swarm: Swarm, peer_id: str, peer: Peer) -> None:
        old = swarm.peers.get(peer_id, peer)
        old.client.joined.discard((swarm.info_hash, peer_id))
        peer.client.joined.add((swarm.info_hash, peer_id))
        peer.seeder |= old.seeder
        swarm.peers[peer_id] = peer
        if swarm.info_hash not in self.swarms:
            self.swarms[swarm.info_hash] = self.tags[swarm.tag] = swarm
            for link in self.links:
                if link.state == "open":
                    link.send_opened(swarm)

    def leave(self, client: Client, swarm: Swarm, peer_id: str) -> None:
        if (swarm.info_hash, peer_id) not in client.joined:
            return
        client.joined.discard((swarm.info_hash, peer_id))
        del swarm.peers[peer_id]
        if not swarm.peers:
            del self.swarms[swarm.info_hash], self.tags[swarm.tag]
            for link in self.links:
                if swarm in link.told:
                    link.tell([swarm])  # 6.10
                    link.forget(swarm)

    async def tell_changes(self) -> None:
        while True:
            await asyncio.sleep(TELL_PERIOD)
            for link in self.links:
                link.tell([swarm for swarm, numbers in link.told.items() if numbers != swarm.numbers()])  # 6.8

    def admit(self, link: Link) -> None:
        """Keep one link with each tracker."""
        if self.admitted and link.id not in self.admitted:
            raise LinkEnd("not_allowed")
        for old in self.links:
            if old.state == "open" and old.id == link.id:
                if (old.url is None) != (link.url is None) and (old.url is None) == (self.id > link.id):
                    raise LinkEnd("duplicate")
                old.end("replaced")
                old.stop()

    async def dial(self, url: str) -> None:
        """Keep a link with the tracker at a URL."""
        known, pause = b"", REDIAL
        while True:
            if any(link.state == "open" and link.id == known for link in self.links):
                await asyncio.sleep(REDIAL)
                continue
            with contextlib.suppress(OSError, WebSocketException):
                async with connect(url, subprotocols=[SUBPROTOCOL], proxy=None, **WEBSOCKET) as socket:
                    if socket.subprotocol == SUBPROTOCOL:
                        link = await self.serve_link(socket, url)
                        known = link.id if link.proved else known
                        pause = REDIAL if link.proved and link.said in ("", "shutdown") else pause
            await asyncio.sleep(pause)
            pause = min(2 * pause, REDIAL_MOST)

    async def serve_link(self, socket: ClientConnection | ServerConnection, url: str | None = None) -> Link:
        link = Link(self, lambda message: broadcast([socket], encode(message)), url)
        self.links.add(link)
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT) as timeout:
                link.stop = lambda: timeout.reschedule(0)
                async for frame in socket:
                    link.receive(frame)
                    if link.state == "open":
                        timeout.reschedule(None)
        except (LinkEnd, TimeoutError) as error:
            link.end(str(error) or "handshake_timeout")
        except ConnectionClosed:
            pass
        finally:
            self.links.discard(link)
            link.state = "ended"
        await socket.close()
        return link

    async def accept(self, socket: ServerConnection) -> None:
        if socket.subprotocol == SUBPROTOCOL:
            await self.serve_link(socket)
            return
        client = Client(self, lambda message: broadcast([socket], encode(message)))
        with contextlib.suppress(ConnectionClosed):
            async for frame in socket:
                client.receive(frame)
        for info_hash, peer_id in list(client.joined):
            self.leave(client, self.swarms[info_hash], peer_id)

    @contextlib.asynccontextmanager
    async def serving(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
        """Serve clients and links at one port, which is the value."""

        def choose(_: ServerConnection, offered: Collection[Subprotocol]) -> Subprotocol | None:
            return SUBPROTOCOL if SUBPROTOCOL in offered else None

        async with serve(self.accept, host, port, select_subprotocol=choose, **WEBSOCKET) as server:
            tasks = [asyncio.create_task(task) for task in (self.tell_changes(), *map(self.dial, self.peers))]
            try:
                yield server.sockets[0].getsockname()[1]
            finally:
                for link in self.links:
                    if link.state != "ended":
                        link.end("shutdown")
                        link.stop()
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)


def main() -> None:
    parser = argparse.ArgumentParser(description="A minimal WebTorrent tracker with links.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--key", default="", help="64 hexadecimal digits: the secret key. Without it, a new one")
    parser.add_argument("--url", action="append", default=[], help="a public URL of this tracker")
    parser.add_argument("--peer", action="append", default=[], help="the URL of a tracker to dial")
    parser.add_argument(
        "--admit", action="append", default=[], help="the id of a tracker to link with. Without any: all"
    )
    options = parser.parse_args()
    seed = bytes.fromhex(options.key) or os.urandom(32)
    tracker = Tracker(seed, options.url, options.peer, [bytes.fromhex(tracker_id) for tracker_id in options.admit])

    async def run() -> None:
        async with tracker.serving(options.host, options.port) as port:
            print(f"Tracker {tracker.id.hex()} at ws://{options.host}:{port}")
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run())


if __name__ == "__main__":
    main()
