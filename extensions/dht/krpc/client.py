"""Looks things up in the DHT, and stores them at the nodes that a lookup has found.

libtorrent's own lookups do not suffice, for three reasons. Its put reads and writes in one step without reporting the
old value, so that of two trackers that write at the same time one is lost. One dead node on the way costs it 15
seconds. And it does not let us limit the packets to one node.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc import messages
from extensions.dht.krpc.messages import Address, Contact, Item, Reply
from extensions.dht.krpc.messenger import Counters, Messenger
from extensions.dht.krpc.pacing import NODE_RATE
from extensions.dht.krpc.schedule import Job
from extensions.dht.krpc.scheduler import Scheduler
from extensions.dht.krpc.traversal import Candidate, Traversal

START: Final = 16
"""Known nodes with which a lookup starts."""

METHODS: Final = ("find_node", "get", "get_peers", "put", "announce_peer", "ping")
"""The methods of the queries that are sent."""


@dataclass(slots=True)
class Found:
    """The result of a lookup: the closest nodes, with the tokens that allow storing there."""

    candidates: list[Candidate] = field(default_factory=list)
    queries: int = 0


@dataclass(slots=True)
class Stored:
    """The result of a store: the nodes that stored the value, that had a newer one, and that failed."""

    taken: int = 0
    conflicts: int = 0
    failed: int = 0


class Client:
    """Lookups and stores. Lookups wait for a turn of the scheduler, by default for one with the default limits.

    `contacts` gives the nodes known in an address family (4 or 6). At most `node_rate` packets per second go to one
    node. With `private`, nodes may have any address and share one; otherwise only global addresses are used, and a
    lookup queries at most one node of each network.
    """

    def __init__(
        self,
        contacts: Callable[[int], Iterable[Contact]],
        private: bool = False,
        node_rate: int = NODE_RATE,
        scheduler: Scheduler | None = None,
    ) -> None:
        self.scheduler = scheduler or Scheduler()
        self._messenger = Messenger(private, node_rate)
        self._contacts = contacts
        self._private = private
        self._is_closed = False

    @property
    def counters(self) -> Counters:
        """Counters of queries and bytes."""
        return self._messenger.counters

    @property
    def messenger(self) -> Messenger:
        """The sockets, and whether nodes answer."""
        return self._messenger

    @property
    def in_flight(self) -> int:
        """Queries waiting for a reply."""
        return self._messenger.in_flight

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    async def start(self, hosts: Iterable[str]) -> None:
        """Open a socket on a free port of each address. Raises `OSError` if none can be opened."""
        await self._messenger.start(hosts)

    def close(self) -> None:
        """Close the sockets. The caller must cancel the tasks that wait for a lookup."""
        self._is_closed = True
        self.scheduler.close()
        self._messenger.close()

    def take_responders(self) -> list[Address]:
        """Return some of the nodes that have replied since the last call."""
        return self._messenger.take_responders()

    def forget_timeouts(self) -> None:
        """Query nodes again although they have not answered lately."""
        self._messenger.forget_timeouts()

    async def find_nodes(self, node_id: bytes) -> Found:
        """Look up the nodes closest to an id (BEP 5)."""
        return await self._look_up(node_id, "find_node", {b"target": node_id}, Job(), lambda _candidate, _reply: None)

    async def get(self, public_key: bytes, salt: bytes, job: Job, on_item: Callable[[Item], None]) -> Found:
        """Look up a mutable item (BEP 44).

        `on_item` is called with each valid item as it comes, also shortly after the end of the lookup.
        """
        target = messages.item_target(public_key, salt)

        def on_reply(candidate: Candidate, reply: Reply) -> None:
            if reply.item and messages.is_valid(reply.item, public_key, salt):
                candidate.seq = reply.item.seq
                on_item(reply.item)
            elif reply.item:
                self.counters.invalid_items += 1

        return await self._look_up(target, "get", {b"target": target}, job, on_reply)

    async def get_peers(self, info_hash: bytes, job: Job, on_peer: Callable[[Address], None]) -> Found:
        """Look up the peers announced for an infohash (BEP 5). `on_peer` may be called several times for one peer."""

        def on_reply(_candidate: Candidate, reply: Reply) -> None:
            for peer in reply.peers:
                on_peer(peer)

        return await self._look_up(info_hash, "get_peers", {b"info_hash": info_hash}, job, on_reply)

    async def put(self, found: Found, key: Ed25519PrivateKey, salt: bytes, seq: int, value: bytes) -> Stored:
        """Store a mutable item at the nodes found. Each replaces only the version that it had then (`cas`, BEP 44)."""
        arguments = {
            b"k": key.public_key().public_bytes_raw(),
            b"salt": salt,
            b"seq": seq,
            b"sig": messages.sign_item(key, salt, seq, value),
            b"v": value,
        }
        return await self._store(found, "put", arguments, cas=True)

    async def announce(self, found: Found, info_hash: bytes, port: int) -> Stored:
        """Announce this host's address with a TCP port for an infohash (BEP 5), at the nodes found."""
        return await self._store(found, "announce_peer", {b"info_hash": info_hash, b"port": port}, cas=False)

    async def _look_up(
        self,
        target: bytes,
        method: str,
        arguments: dict[bytes, Any],
        job: Job,
        on_reply: Callable[[Candidate, Reply], None],
    ) -> Found:
        self._refuse_if_closed()
        async with self.scheduler.turn(job):
            walks = [
                _Walk(self._messenger, self._traversal(target, family), method, arguments, on_reply)
                for family in self._messenger.families
            ]
            for walk in walks:
                walk.go_on()
            await asyncio.gather(*(walk.done for walk in walks))
        return Found(
            [candidate for walk in walks for candidate in walk.traversal.closest()],
            sum(walk.traversal.queries for walk in walks),
        )

    async def _store(self, found: Found, method: str, arguments: dict[bytes, Any], cas: bool) -> Stored:
        self._refuse_if_closed()
        candidates = [candidate for candidate in found.candidates if candidate.token]
        if not candidates:
            return Stored()
        store = _Store(len(candidates))
        for candidate in candidates:
            own = {**arguments, b"token": candidate.token}
            if cas:
                # Also if the node had nothing: otherwise it accepts the first values of two writers, and keeps one.
                own[b"cas"] = candidate.seq
            self._messenger.query(store, candidate.contact, method, own)
        return await store.done

    def _traversal(self, target: bytes, family: int) -> Traversal:
        number = int.from_bytes(target, "big")
        usable = [
            contact
            for contact in self._contacts(family)
            # Some nodes have taken this client for a node, and told ours about it.
            if contact.node_id != self._messenger.node_id and self._messenger.is_usable(contact.address)
        ]
        start = nsmallest(START, usable, key=lambda contact: int.from_bytes(contact.node_id, "big") ^ number)
        return Traversal(target, start, self._messenger.is_usable, one_per_network=not self._private)

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise asyncio.CancelledError("the client is closed")


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
            self._messenger.query(self, contact, self._method, self._arguments)
        if not self.done.done() and self.traversal.is_done:
            self.done.set_result(None)

    def on_reply(self, contact: Contact, reply: Reply) -> None:
        # Some nodes have taken this client for a node, and name it.
        others = (other for other in reply.contacts if other.node_id != self._messenger.node_id)
        candidate = self.traversal.answered(Contact(reply.node_id, contact.address), others, reply.token)
        try:
            if candidate:
                self._on_reply(candidate, reply)
        finally:
            self.go_on()

    def on_error(self, contact: Contact, _code: int) -> None:
        self.on_timeout(contact)

    def on_slow(self, contact: Contact) -> None:
        self.traversal.slow(contact.address)
        self.go_on()

    def on_timeout(self, contact: Contact) -> None:
        self.traversal.failed(contact.address)
        self.go_on()


class _Store:
    """A store at several nodes. It waits for slow ones too, since a reader may find them alive."""

    def __init__(self, nodes: int) -> None:
        self.done: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self._stored = Stored()
        self._missing = nodes

    def on_reply(self, _contact: Contact, _reply: Reply) -> None:
        self._stored.taken += 1
        self._count()

    def on_error(self, _contact: Contact, code: int) -> None:
        if code in (messages.CAS_MISMATCH, messages.SEQ_TOO_OLD):
            self._stored.conflicts += 1
        else:
            self._stored.failed += 1
        self._count()

    def on_slow(self, contact: Contact) -> None: ...

    def on_timeout(self, _contact: Contact) -> None:
        self._stored.failed += 1
        self._count()

    def _count(self) -> None:
        self._missing -= 1
        if not self._missing and not self.done.done():
            self.done.set_result(self._stored)
