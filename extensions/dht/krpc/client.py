"""Looks things up in the DHT, and stores them at the nodes that a lookup found.

Why not libtorrent's own: its put reads and writes without saying what it read, so that of two trackers that write at
once one is lost; a dead node on the way costs it fifteen seconds; and how many packets go to a node is not ours to say.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc import messages
from extensions.dht.krpc.messages import Address, Contact, Item, Reply
from extensions.dht.krpc.messenger import Messenger, Tally
from extensions.dht.krpc.pacing import NODE_RATE, Queue
from extensions.dht.krpc.traversal import Candidate, Traversal

PARALLEL: Final = 8
RATE: Final = 6.0
BURST: Final = 30.0
"""Lookups at a time, started per second, and started at once after a rest."""

START: Final = 16
"""Nodes that a lookup starts with."""

METHODS: Final = ("find_node", "get", "get_peers", "put", "announce_peer")
"""What nodes are asked."""


@dataclass(slots=True)
class Found:
    """What a lookup found: the closest nodes, with the tokens to store there."""

    candidates: list[Candidate] = field(default_factory=list)
    queries: int = 0


@dataclass(slots=True)
class Stored:
    """How many nodes took what was to be stored, and how many had something newer by then."""

    taken: int = 0
    conflicts: int = 0
    failed: int = 0


class Client:
    """Lookups and stores, with a budget. `contacts` gives the nodes known in an address family (4 or 6).

    With `private`, nodes may have any address, and several the same; otherwise only global ones, and one lookup asks
    no two nodes of one network.
    """

    def __init__(
        self, contacts: Callable[[int], Iterable[Contact]], private: bool = False, node_rate: int = NODE_RATE
    ) -> None:
        self.queue: Queue[asyncio.Future[None]] = Queue(PARALLEL, RATE, BURST)
        self._messenger = Messenger(private, node_rate)
        self._contacts = contacts
        self._private = private
        self._timer: asyncio.TimerHandle | None = None
        self._closed = asyncio.Event()

    @property
    def tally(self) -> Tally:
        """What was counted."""
        return self._messenger.tally

    @property
    def in_flight(self) -> int:
        """Queries that wait for their reply."""
        return self._messenger.in_flight

    async def start(self, hosts: Iterable[str]) -> None:
        """Open a socket on a free port of each address. Raises `OSError` if none can be had."""
        self._loop = asyncio.get_running_loop()
        await self._messenger.start(hosts)

    def close(self) -> None:
        """Close the sockets. Who still waits for a lookup must be cancelled."""
        self._closed.set()
        if self._timer:
            self._timer.cancel()
        self._messenger.close()

    def take_heard(self) -> list[Address]:
        """Some of the nodes that have replied since this was called last."""
        heard = list(dict.fromkeys(self._messenger.heard))
        self._messenger.heard.clear()
        return heard

    async def find_nodes(self, node_id: bytes) -> Found:
        """Look up the nodes closest to an id (BEP 5)."""
        return await self._look_up(node_id, "find_node", {b"target": node_id}, 0, lambda _candidate, _reply: None)

    async def get(self, public_key: bytes, salt: bytes, urgency: int, on_item: Callable[[Item], None]) -> Found:
        """Look up a mutable item (BEP 44); `on_item` is called with each valid one, even a moment after the end."""
        target = messages.item_target(public_key, salt)

        def on_reply(candidate: Candidate, reply: Reply) -> None:
            if reply.item and messages.is_valid(reply.item, public_key, salt):
                candidate.seq = reply.item.seq
                on_item(reply.item)
            elif reply.item:
                self.tally.invalid_items += 1

        return await self._look_up(target, "get", {b"target": target}, urgency, on_reply)

    async def get_peers(self, info_hash: bytes, urgency: int, on_peer: Callable[[Address], None]) -> Found:
        """Look up who has announced an infohash (BEP 5); `on_peer` is called for each, perhaps several times."""

        def on_reply(_candidate: Candidate, reply: Reply) -> None:
            for peer in reply.peers:
                on_peer(peer)

        return await self._look_up(info_hash, "get_peers", {b"info_hash": info_hash}, urgency, on_reply)

    async def put(self, found: Found, key: Ed25519PrivateKey, salt: bytes, seq: int, value: bytes) -> Stored:
        """Store a mutable item at the nodes found, at each only in place of what it was seen to have (BEP 44's cas)."""
        arguments = {
            b"k": key.public_key().public_bytes_raw(),
            b"salt": salt,
            b"seq": seq,
            b"sig": messages.sign_item(key, salt, seq, value),
            b"v": value,
        }
        return await self._store(found, "put", arguments, cas=True)

    async def announce(self, found: Found, info_hash: bytes, port: int) -> Stored:
        """Announce an infohash (BEP 5) at the nodes found, for this host's address and a TCP port."""
        return await self._store(found, "announce_peer", {b"info_hash": info_hash, b"port": port}, cas=False)

    async def _look_up(
        self,
        target: bytes,
        method: str,
        arguments: dict[bytes, Any],
        urgency: int,
        on_reply: Callable[[Candidate, Reply], None],
    ) -> Found:
        await self._take_turn(urgency)
        try:
            walks = [
                _Walk(self._messenger, self._traversal(target, family), method, arguments, on_reply)
                for family in self._messenger.families
            ]
            for walk in walks:
                walk.go_on()
            await asyncio.gather(*(walk.done for walk in walks))
        finally:
            self.queue.done()
            self._give_turns()
        return Found(
            [candidate for walk in walks for candidate in walk.traversal.closest()],
            sum(walk.traversal.queries for walk in walks),
        )

    async def _store(self, found: Found, method: str, arguments: dict[bytes, Any], cas: bool) -> Stored:
        self._refuse_if_closed()
        candidates = [candidate for candidate in found.candidates if candidate.token]
        if not candidates:
            return Stored()
        spread = _Spread(len(candidates))
        for candidate in candidates:
            own = {**arguments, b"token": candidate.token}
            if cas:
                # Also where there was nothing: otherwise a node answers two first writers alike, and keeps one.
                own[b"cas"] = candidate.seq
            self._messenger.ask(spread, candidate.contact, method, own)
        return await spread.done

    def _traversal(self, target: bytes, family: int) -> Traversal:
        number = int.from_bytes(target, "big")
        usable = [
            contact
            for contact in self._contacts(family)
            # Some nodes have taken us for a node, and ours has heard of it.
            if contact.node_id != self._messenger.node_id and self._messenger.is_usable(contact.address)
        ]
        start = nsmallest(START, usable, key=lambda contact: int.from_bytes(contact.node_id, "big") ^ number)
        return Traversal(target, start, self._messenger.is_usable, one_per_network=not self._private)

    async def _take_turn(self, urgency: int) -> None:
        self._refuse_if_closed()
        turn = self._loop.create_future()
        self.queue.put(urgency, turn)
        self._give_turns()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self.queue.remove(turn)
            else:
                # It was given in the moment of the cancellation, and will not be used.
                self.queue.give_back()
            self._give_turns()
            raise

    def _refuse_if_closed(self) -> None:
        if self._closed.is_set():
            raise asyncio.CancelledError("the client is closed")

    def _give_turns(self) -> None:
        if self._closed.is_set():
            return
        now = self._loop.time()
        while (turn := self.queue.take(now)) is not None:
            if turn.done():
                # Cancelled, and its task has not noticed yet.
                self.queue.give_back()
            else:
                turn.set_result(None)
        wait = self.queue.wait(now)
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if wait is not None:
            self._timer = self._loop.call_later(wait, self._give_turns)


class _Walk:
    """A traversal under way."""

    def __init__(
        self,
        messenger: Messenger,
        traversal: Traversal,
        method: str,
        arguments: dict[bytes, Any],
        on_reply: Callable[[Candidate, Reply], None],
    ) -> None:
        self.traversal = traversal
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._messenger = messenger
        self._method = method
        self._arguments = arguments
        self._on_reply = on_reply

    def go_on(self) -> None:
        while not self.done.done() and (contact := self.traversal.next()):
            self._messenger.ask(self, contact, self._method, self._arguments)
        if not self.done.done() and self.traversal.is_done:
            self.done.set_result(None)

    def replied(self, contact: Contact, reply: Reply) -> None:
        # Some nodes have taken us for a node, and name us.
        others = (other for other in reply.contacts if other.node_id != self._messenger.node_id)
        candidate = self.traversal.answered(Contact(reply.node_id, contact.address), others, reply.token)
        try:
            if candidate:
                self._on_reply(candidate, reply)
        finally:
            self.go_on()

    def refused(self, contact: Contact, _code: int) -> None:
        self.silent(contact)

    def late(self, contact: Contact) -> None:
        self.traversal.late(contact.address)
        self.go_on()

    def silent(self, contact: Contact) -> None:
        self.traversal.failed(contact.address)
        self.go_on()


class _Spread:
    """Storing at several nodes: a silent one is waited for, since whoever reads may find it alive."""

    def __init__(self, number: int) -> None:
        self.done: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self._stored = Stored()
        self._missing = number

    def replied(self, _contact: Contact, _reply: Reply) -> None:
        self._stored.taken += 1
        self._said()

    def refused(self, _contact: Contact, code: int) -> None:
        if code in (messages.CAS_MISMATCH, messages.SEQ_TOO_OLD):
            self._stored.conflicts += 1
        else:
            self._stored.failed += 1
        self._said()

    def late(self, contact: Contact) -> None: ...

    def silent(self, _contact: Contact) -> None:
        self._stored.failed += 1
        self._said()

    def _said(self) -> None:
        self._missing -= 1
        if not self._missing and not self.done.done():
            self.done.set_result(self._stored)
