"""A model of the DHT: the nodes that store items and announcements, and a client for each tracker.

As in a DHT of millions of nodes, each target has storing nodes of its own, which have nothing else to do with the
trackers. The routing to them is only time here. Items carry no signatures, since no node of the model forges any; the
entries in them are signed and verified by the product.
"""

import asyncio
import hashlib
import random
import time
from collections.abc import Callable, Iterable
from heapq import nsmallest
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc.client import Found, Stored
from extensions.dht.krpc.messages import CAS_MISMATCH, SEQ_TOO_OLD, Address, Contact, Item, item_target
from extensions.dht.krpc.messenger import Counters
from extensions.dht.krpc.schedule import Job
from extensions.dht.krpc.scheduler import Scheduler
from extensions.dht.krpc.traversal import CLOSEST, Candidate, State
from tests.simulation.network import Traffic

NODES_PER_TARGET: Final = 2 * CLOSEST
"""Nodes near a target: those that store it, and those that take the place of nodes that do not answer."""

ITEM_LIFETIME: Final = 2 * 3600.0
PEER_LIFETIME: Final = 45 * 60.0
"""Seconds for which nodes keep an item, and an announced peer."""

UPLOAD_RATE: Final = 8000.0
UPLOAD_BURST: Final = 3 * UPLOAD_RATE
"""Bytes a second that a node sends, and at once after a rest, by default (`dht_upload_rate_limit`). Queries that come
when it may send nothing are dropped."""

HOPS: Final = 3
"""Round trips of a lookup until it has found the nodes that are closest to a target."""

ROUND_TRIP: Final = (0.04, 0.3)
SOFT_TIMEOUT: Final = 0.8
"""Seconds of a query, and after which a lookup goes on without the reply."""

REPLY: Final = 300
STORED: Final = 60
"""Bytes of a reply without its values, and of the reply to a store; the rate does not count the heads of IP and UDP."""

MAX_PEERS: Final = 100
"""Announced peers in one reply."""


class StoringNode:
    """One node. `rate` limits the bytes that it sends in a second; 0 does not."""

    def __init__(self, contact: Contact, rate: float) -> None:
        self.contact = contact
        self.items: dict[bytes, tuple[Item, float]] = {}
        """The items by target, and when each was stored."""
        self.peers: dict[bytes, dict[Address, float]] = {}
        """The announced peers by infohash, and when each was announced."""
        self.gets = self.puts = self.dropped = 0
        self.bytes_sent = 0
        self.busiest = 0
        """Most bytes in one second."""
        self._rate = rate
        self._quota = 3 * rate
        self._quota_at = 0.0
        self._second = 0
        self._in_second = 0

    def may_send(self, now: float) -> bool:
        """Return whether it answers now at all."""
        if not self._rate:
            return True
        self._quota = min(3 * self._rate, self._quota + (now - self._quota_at) * self._rate)
        self._quota_at = now
        if self._quota <= 0:
            self.dropped += 1
            return False
        return True

    def send(self, size: int, now: float) -> None:
        """Account for the bytes of a reply."""
        self.bytes_sent += size
        self._quota -= size
        if int(now) != self._second:
            self._second, self._in_second = int(now), 0
        self._in_second += size
        self.busiest = max(self.busiest, self._in_second)

    def get(self, target: bytes, now: float) -> Item | None:
        """Return the item of a target, if it has one."""
        self.gets += 1
        item = self._item(target, now)
        self.send(REPLY + (len(item.value) if item else 0), now)
        return item

    def put(self, target: bytes, item: Item, cas: int | None, now: float) -> int:
        """Store an item, if the node has no newer one and the version of `cas`. Return 0, or the error code of BEP 44.

        As in libtorrent, an item of the same version is accepted, and prolongs the life of the known one.
        """
        self.puts += 1
        self.send(STORED, now)
        known = self._item(target, now)
        if known and cas is not None and cas != known.seq:
            return CAS_MISMATCH
        if known and item.seq < known.seq:
            return SEQ_TOO_OLD
        self.items[target] = known if known and item.seq == known.seq else item, now
        return 0

    def has_item(self, target: bytes, now: float) -> bool:
        """Return whether it has an item of a target, without counting this as a query."""
        return self._item(target, now) is not None

    def get_peers(self, info_hash: bytes, now: float) -> list[Address]:
        """Return a sample of the announced peers."""
        self.gets += 1
        announced = self.peers.get(info_hash, {})
        alive = [address for address, since in announced.items() if now - since < PEER_LIFETIME]
        chosen = random.sample(alive, min(MAX_PEERS, len(alive)))
        self.send(REPLY + 8 * len(chosen), now)
        return chosen

    def announce(self, info_hash: bytes, address: Address, now: float) -> bool:
        """Store a peer."""
        self.puts += 1
        self.send(STORED, now)
        self.peers.setdefault(info_hash, {})[address] = now
        return True

    def _item(self, target: bytes, now: float) -> Item | None:
        item, since = self.items.get(target, (None, 0.0))
        return item if now - since <= ITEM_LIFETIME else None


class Dht:
    """All storing nodes.

    `loss` is the share of queries that are lost. `rate` limits the bytes that a node sends in a second; 0 does not.
    `nodes` is the number of all nodes, of a small DHT; with 0, each target has nodes of its own. `round_trip` are the
    least and the most seconds of a query and its reply.
    """

    def __init__(
        self,
        traffic: Traffic,
        loss: float = 0.02,
        rate: float = UPLOAD_RATE,
        nodes: int = 0,
        round_trip: tuple[float, float] = ROUND_TRIP,
    ) -> None:
        self.loss = loss
        self.round_trip = round_trip
        self.gets = self.puts = self.conflicts = self.lost = 0
        """Lookups, stores, refused stores at single nodes, and lost queries."""
        self.nodes: dict[Address, StoringNode] = {}
        self._rate = rate
        self._near: dict[bytes, list[StoringNode]] = {}
        self._traffic = traffic
        self._all = [self._new(random.randbytes(20)) for _ in range(nodes)]

    def near(self, target: bytes) -> list[StoringNode]:
        """Return the nodes near a target, the closest first."""
        nodes = self._near.get(target)
        if nodes is None:
            if self._all:
                number = int.from_bytes(target, "big")
                nodes = nsmallest(
                    NODES_PER_TARGET,
                    self._all,
                    key=lambda node: int.from_bytes(node.contact.node_id, "big") ^ number,
                )
            else:
                ends = [hashlib.blake2b(target + bytes([number]), digest_size=16) for number in range(NODES_PER_TARGET)]
                nodes = [self._new(target[:4] + end.digest()) for end in ends]
            self._near[target] = nodes
        return nodes

    def note(self, *event: object) -> None:
        """Add an event to the digest of the run."""
        self._traffic.note("dht", *event)

    def _new(self, node_id: bytes) -> StoringNode:
        serial = len(self.nodes)
        address = f"{11 + serial // 65536}.{serial // 256 % 256}.{serial % 256}.1", 6881
        node = self.nodes[address] = StoringNode(Contact(node_id, address), self._rate)
        return node


class DhtClient:
    """The interface of `extensions.dht.krpc.client.Client`, on the model. `address` is that of this tracker."""

    def __init__(self, dht: Dht, scheduler: Scheduler, address: str) -> None:
        self.scheduler = scheduler
        self.counters = Counters()
        self.in_flight = 0
        self.is_closed = False
        self.is_cut_off: Callable[[], bool] = lambda: False
        """Whether no node is reached at the moment."""
        self._dht = dht
        self._address = address

    def close(self) -> None:
        """Send nothing from now on."""
        self.is_closed = True
        self.scheduler.close()

    async def find_nodes(self, _node_id: bytes) -> Found:
        """Do nothing: the routing table is not modelled."""
        return Found()

    async def get(self, public_key: bytes, salt: bytes, job: Job, on_item: Callable[[Item], None]) -> Found:
        """Look up a mutable item."""
        target = item_target(public_key, salt)
        self._dht.gets += 1
        self._dht.note("get", self._address, target)

        def ask(node: StoringNode) -> Callable[[Candidate], None]:
            item = node.get(target, time.monotonic())

            def on_reply(candidate: Candidate) -> None:
                if item:
                    candidate.seq = item.seq
                    on_item(item)

            return on_reply

        return await self._look_up(target, job, ask)

    async def get_peers(
        self, info_hash: bytes, job: Job, on_peers: Callable[[Address, tuple[Address, ...]], None]
    ) -> Found:
        """Look up announced peers."""
        self._dht.gets += 1
        self._dht.note("get_peers", self._address, info_hash)

        def ask(node: StoringNode) -> Callable[[Candidate], None]:
            peers = node.get_peers(info_hash, time.monotonic())

            def on_reply(_candidate: Candidate) -> None:
                if peers:
                    on_peers(node.contact.address, tuple(peers))

            return on_reply

        return await self._look_up(info_hash, job, ask)

    async def put(
        self, found: Found, key: Ed25519PrivateKey, salt: bytes, seq: int, value: bytes, cas: bool = True
    ) -> Stored:
        """Store a mutable item; without `cas`, whatever the nodes have."""
        public_key = key.public_key().public_bytes_raw()
        target = item_target(public_key, salt)
        self._dht.puts += 1
        self._dht.note("put", self._address, seq, value)
        # Not signed: see above. The signature tells versions apart.
        signature = hashlib.blake2b(value + seq.to_bytes(8, "big"), digest_size=64).digest()
        item = Item(public_key, signature, seq, value)
        return await self._store(
            found, lambda node, candidate: not node.put(target, item, candidate.seq if cas else None, time.monotonic())
        )

    async def announce(self, found: Found, info_hash: bytes, port: int) -> Stored:
        """Announce this tracker's address with a port."""
        self._dht.puts += 1
        self._dht.note("announce", self._address, info_hash)
        return await self._store(
            found, lambda node, _candidate: node.announce(info_hash, (self._address, port), time.monotonic())
        )

    async def _look_up(
        self, target: bytes, job: Job, ask: Callable[[StoringNode], Callable[[Candidate], None]]
    ) -> Found:
        self._refuse_if_closed()
        async with self.scheduler.turn(job):
            await asyncio.sleep(sum(random.uniform(*self._dht.round_trip) for _ in range(HOPS)))
            waiting = iter(self._dht.near(target))
            candidates: list[Candidate] = []
            missing = CLOSEST
            while missing and (asked := [node for node, _ in zip(waiting, range(missing), strict=False)]):
                candidates += await self._ask(asked, target, ask)
                missing = CLOSEST - len(candidates)
        return Found(sorted(candidates), NODES_PER_TARGET, sorted(candidates))

    async def _ask(
        self, nodes: Iterable[StoringNode], target: bytes, ask: Callable[[StoringNode], Callable[[Candidate], None]]
    ) -> list[Candidate]:
        """Query some nodes at once, and return those that answer."""
        number = int.from_bytes(target, "big")
        answered: list[Candidate] = []

        def on_query(node: StoringNode, way: float, done: Callable[[], None]) -> None:
            if not node.may_send(time.monotonic()):
                self._lose(done)
                return
            apply = ask(node)

            def on_reply() -> None:
                if not self.is_closed:
                    distance = int.from_bytes(node.contact.node_id, "big") ^ number
                    candidate = Candidate(distance, node.contact, State.ANSWERED, b"token")
                    answered.append(candidate)
                    apply(candidate)
                done()

            asyncio.get_running_loop().call_later(way, on_reply)

        await self._query(nodes, on_query)
        return answered

    async def _store(self, found: Found, store: Callable[[StoringNode, Candidate], bool]) -> Stored:
        self._refuse_if_closed()
        stored = Stored()
        candidates = {candidate.contact.address: candidate for candidate in found.candidates if candidate.token}

        def on_query(node: StoringNode, way: float, done: Callable[[], None]) -> None:
            if not node.may_send(time.monotonic()):
                stored.failed += 1
                self._lose(done)
                return
            if store(node, candidates[node.contact.address]):
                stored.taken += 1
            else:
                self._dht.conflicts += 1
                stored.conflicts += 1
            asyncio.get_running_loop().call_later(way, done)

        lost = await self._query([self._dht.nodes[address] for address in candidates], on_query)
        stored.failed += lost
        return stored

    async def _query(
        self, nodes: Iterable[StoringNode], on_query: Callable[[StoringNode, float, Callable[[], None]], None]
    ) -> int:
        """Send a query to each node, and wait for all replies. Return how many queries were lost on the way."""
        loop = asyncio.get_running_loop()
        all_done = loop.create_future()
        left = lost = 0

        def done() -> None:
            nonlocal left
            left -= 1
            if not left and not all_done.done():
                all_done.set_result(None)

        for node in nodes:
            left += 1
            way = random.uniform(*self._dht.round_trip) / 2
            if self.is_closed or self.is_cut_off() or random.random() < self._dht.loss:
                lost += 1
                self._lose(done)
            else:
                loop.call_later(way, on_query, node, way, done)
        if left:
            await all_done
        return lost

    def _lose(self, done: Callable[[], None]) -> None:
        self._dht.lost += 1
        asyncio.get_running_loop().call_later(SOFT_TIMEOUT, done)

    def _refuse_if_closed(self) -> None:
        if self.is_closed:
            raise asyncio.CancelledError("the client is closed")


class NoNode:
    """The part of `extensions.dht.node.Node` that others use."""

    stats: Final[dict[str, Any]] = {}
