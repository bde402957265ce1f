"""Looks things up in the DHT, and stores them at the nodes that a lookup has found.

libtorrent's own lookups do not suffice, for three reasons. Its put reads and writes in one step without reporting the
old value, so that of two trackers that write at the same time one is lost. One dead node on the way costs it 15
seconds. And it does not let us limit the packets to one node.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc import messages
from extensions.dht.krpc.estimate import SizeEstimate
from extensions.dht.krpc.messages import Address, Contact, Item, Reply
from extensions.dht.krpc.messenger import Counters, Messenger
from extensions.dht.krpc.pacing import NODE_RATE
from extensions.dht.krpc.refusers import Refusers
from extensions.dht.krpc.schedule import Job
from extensions.dht.krpc.scheduler import Scheduler
from extensions.dht.krpc.stores import Search, Store, Stored
from extensions.dht.krpc.traversal import Candidate, Goal, Traversal
from extensions.dht.krpc.walks import Walk

__all__ = ["METHODS", "START", "Client", "Found", "Stored"]

START: Final = 16
"""Known nodes with which a lookup starts."""

METHODS: Final = ("find_node", "get", "get_peers", "put", "announce_peer", "ping")
"""The methods of the queries that are sent."""


@dataclass(slots=True)
class Found:
    """The result of a lookup."""

    candidates: list[Candidate] = field(default_factory=list)
    """The nodes at which values are stored, with the tokens that allow it."""
    queries: int = 0
    asked: list[Candidate] = field(default_factory=list)
    """All nodes that were queried, the nearest first."""
    is_dense: bool = False
    """Whether the eight nearest nodes are so close that they must have chosen their ids; False if it is unknown."""
    search: Search | None = field(default=None, repr=False, compare=False)
    """The lookup itself, for stores that need more nodes."""


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
        self._refusers = Refusers()
        self._is_closed = False
        self.estimates: Mapping[int, SizeEstimate] = {4: SizeEstimate(), 6: SizeEstimate()}
        """The size of the DHT, by address family."""

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
    def refusers(self) -> int:
        """Nodes that are remembered as refusing to store."""
        return self._refusers.count(self._now())

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

    async def measure(self) -> None:
        """Look up one random id in each address family, to estimate the size of the DHT."""
        target = os.urandom(20)
        goal = Goal(needs_fitting=True)
        found = await self._look_up(target, "find_node", {b"target": target}, Job(), lambda _family: goal)
        for family, walk in zip(self._messenger.families, found.search.walks if found.search else (), strict=False):
            live = walk.traversal.live()
            self.estimates[family].note(target, ids_of(live), ids_of(one for one in live if one.fits))

    async def find_nodes(self, node_id: bytes) -> Found:
        """Look up the nodes closest to an id (BEP 5)."""
        return await self._look_up(node_id, "find_node", {b"target": node_id}, Job(), lambda _family: Goal())

    async def get(self, public_key: bytes, salt: bytes, job: Job, on_item: Callable[[Item], None]) -> Found:
        """Look up a mutable item (BEP 44).

        `on_item` is called with each valid item as it comes, also shortly after the end of the lookup.
        """
        target = messages.item_target(public_key, salt)
        items: dict[Address, bytes] = {}

        def on_reply(candidate: Candidate, reply: Reply) -> None:
            address, item = candidate.contact.address, reply.item
            self._refusers.on_item(target, address, item.seq if item else 0, self._now())
            if self._refuses("put", address):
                candidate.can_store = False
            if item and messages.is_valid(item, public_key, salt):
                candidate.seq, candidate.has_item = item.seq, True
                items[address] = item.signature
                on_item(item)
            elif item:
                candidate.has_invalid_item = True
                self.counters.invalid_items += 1

        return await self._look_up(target, "get", {b"target": target}, job, self._goal_of("put"), on_reply, items)

    async def get_peers(
        self, info_hash: bytes, job: Job, on_peers: Callable[[Address, tuple[Address, ...]], None]
    ) -> Found:
        """Look up the peers announced for an infohash (BEP 5).

        `on_peers` is called with the address of each node that names peers, and with these peers.
        """

        def on_reply(candidate: Candidate, reply: Reply) -> None:
            if reply.peers:
                on_peers(candidate.contact.address, reply.peers)

        goal_of = self._goal_of("announce_peer")
        return await self._look_up(info_hash, "get_peers", {b"info_hash": info_hash}, job, goal_of, on_reply)

    async def put(self, found: Found, key: Ed25519PrivateKey, salt: bytes, seq: int, value: bytes) -> Stored:
        """Store a mutable item at the nodes found, or at the next ones in place of those that fail.

        Each replaces only the version that it had then (`cas`, BEP 44).
        """
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
        goal_of: Callable[[int], Goal],
        on_reply: Callable[[Candidate, Reply], None] = lambda _candidate, _reply: None,
        items: dict[Address, bytes] | None = None,
    ) -> Found:
        self._refuse_if_closed()
        async with self.scheduler.turn(job):
            walks = {
                family: Walk(
                    self._messenger,
                    self._traversal(target, family, goal_of(family)),
                    target,
                    method,
                    arguments,
                    on_reply,
                )
                for family in self._messenger.families
            }
            await asyncio.gather(*(walk.run() for walk in walks.values()))
        traversals = [walk.traversal for walk in walks.values()]
        return Found(
            [candidate for traversal in traversals for candidate in traversal.closest()],
            sum(traversal.queries for traversal in traversals),
            sorted(candidate for traversal in traversals for candidate in traversal.asked()),
            any(
                self.estimates[family].is_dense(target, ids_of(walk.traversal.live())) for family, walk in walks.items()
            ),
            Search(list(walks.values()), self._now(), items if items is not None else {}),
        )

    async def _store(self, found: Found, method: str, arguments: dict[bytes, Any], cas: bool) -> Stored:
        self._refuse_if_closed()
        store = Store(self._messenger, self._refusers, found.search, method, arguments, cas)
        stored = await store.run(found.candidates)
        self.counters.stores_failed += stored.failed
        return stored

    def _goal_of(self, method: str) -> Callable[[int], Goal]:
        """Return the goal, by address family, of a lookup for nodes that store with this method."""

        def goal_of(family: int) -> Goal:
            return Goal(True, True, self.estimates[family].reach, lambda address: self._refuses(method, address))

        return goal_of

    def _refuses(self, method: str, address: Address) -> bool:
        return self._refusers.refuses(method, address, self._now())

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _traversal(self, target: bytes, family: int, goal: Goal) -> Traversal:
        number = int.from_bytes(target, "big")
        usable = [
            contact
            for contact in self._contacts(family)
            # Some nodes have taken this client for a node, and told ours about it.
            if contact.node_id != self._messenger.node_id and self._messenger.is_usable(contact.address)
        ]
        start = nsmallest(START, usable, key=lambda contact: int.from_bytes(contact.node_id, "big") ^ number)
        return Traversal(target, start, self._messenger.is_usable, not self._private, goal)

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise asyncio.CancelledError("the client is closed")


def ids_of(candidates: Iterable[Candidate]) -> list[bytes]:
    """Return the ids of nodes."""
    return [candidate.contact.node_id for candidate in candidates]
