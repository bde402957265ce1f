"""A service in virtual time, with a node and a network that the test controls."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from extensions.dht.krpc import bencode
from extensions.dht.krpc.messages import Address, Contact
from extensions.dht.records.descriptor import DescriptorError
from extensions.dht.service import Service
from extensions.dht.settings import DhtSettings
from extensions.trackers import TrackerEntry
from tests.simulation.clock import VirtualLoop
from tests.unit.dht.entries import NOW, URL, identity

ROUND_TRIP = 0.05


def place(number: int) -> Address:
    """Return the address of a node."""
    return f"127.0.{number // 250}.{1 + number % 250}", 6881


class FakeNode:
    """A node that knows the contacts that it is given."""

    def __init__(
        self, listen: list[str], bootstrap: list[str], private: bool, task_failures: Counter[str] | None
    ) -> None:
        self.arguments = listen, bootstrap, private
        self.stats: dict[str, int] = {}
        self.addresses: list[Address] = []
        self.known: list[Contact] = []
        self.joins = 0
        self.added: list[Address] = []
        self.is_running = False
        self.saved: bytes | None = None

    @property
    def size(self) -> int:
        return len(self.known)

    @property
    def ids(self) -> list[bytes]:
        return [bytes(20)]

    @property
    def has_contacts(self) -> bool:
        return bool(self.known)

    def contacts(self, family: int) -> list[Contact]:
        return list(self.known) if family == 4 else []

    def join(self) -> None:
        self.joins += 1

    def add(self, address: Address) -> None:
        self.added.append(address)

    async def start(self, state: bytes | None) -> None:
        self.is_running, self.saved = True, state

    async def refresh(self) -> None: ...

    async def state(self) -> bytes:
        return b"state"

    async def close(self) -> None:
        self.is_running = False


class Loop(VirtualLoop):
    """Virtual time, and a network of storing nodes at `place(0)` and so on, which is up as long as `is_up`."""

    def __init__(self) -> None:
        super().__init__()
        self.is_up = True
        self.sent: list[float] = []
        """The times at which packets were sent."""
        self.is_alive: Callable[[Address], bool] = lambda _: True
        self.asked: set[Address] = set()
        """The nodes that were sent a `get`."""
        self.gets = self.puts = self.finds = 0
        self.items: dict[bytes, dict[bytes, Any]] = {}

    async def create_datagram_endpoint(  # type: ignore[override]
        self, factory: Callable[[], Any], local_addr: tuple[str, int]
    ) -> tuple[Any, Any]:
        self.receiver = factory()
        return cast(Any, self), self.receiver

    def sendto(self, data: bytes, address: Address) -> None:
        query = bencode.decode(data)
        self.sent.append(self.now)
        if query[b"q"] == b"get":
            self.asked.add(address)
        if self.is_up and self.is_alive(address):
            self.call_later(ROUND_TRIP, self._answer, query, address)

    def abort(self) -> None: ...

    def _answer(self, query: dict[bytes, Any], address: Address) -> None:
        if not self.is_up:
            return
        arguments, values = query[b"a"], {b"id": hashlib.sha1(address[0].encode()).digest()}
        if query[b"q"] == b"find_node":
            self.finds += 1
        elif query[b"q"] == b"get":
            self.gets += 1
            values |= {b"token": b"token", **self.items.get(arguments[b"target"], {})}
        elif query[b"q"] == b"put":
            self.puts += 1
        reply = bencode.encode({b"r": values, b"t": query[b"t"], b"y": b"r"})
        self.receiver.datagram_received(reply, address)


class World:
    """A service, its node and its network."""

    def __init__(self, loop: Loop, state_dir: Path | None = None, **settings: Any) -> None:
        self.loop = loop
        self.service = Service(
            DhtSettings(**{"listen": "127.0.0.1:0", "bootstrap": [], "private": True} | settings),
            identity(100),
            URL,
            state_dir,
            # Noon: there is no other day to read.
            clock=lambda: NOW + 43200 + loop.now,
            monotonic=loop.time,
            make_node=FakeNode,
            fetch=no_descriptor,
        )
        self.node = cast(FakeNode, self.service.node)

    def meet(self, nodes: int) -> None:
        """Let the node know so many others."""
        self.node.known = [
            Contact(hashlib.sha1(address[0].encode()).digest(), address) for address in map(place, range(nodes))
        ]

    def open(self, infohashes: Iterable[bytes]) -> None:
        """Open swarms of two peers."""
        for info_hash in infohashes:
            self.service.directory.swarm(info_hash, 2, False)


@asynccontextmanager
async def running(world: World) -> AsyncIterator[World]:
    """Start a service, and stop it at the end."""
    await world.service.start()
    try:
        yield world
    finally:
        await world.service.stop()


def hashes(number: int) -> list[bytes]:
    """Return so many infohashes."""
    return [hashlib.sha1(bytes([one // 256, one % 256])).digest() for one in range(number)]


async def no_descriptor(_address: Address, _now: float) -> TrackerEntry:
    """Fetch nothing."""
    raise DescriptorError("no answer")


def in_virtual_time(main: Callable[[Loop], Coroutine[Any, Any, None]]) -> None:
    """Run a test to its end."""
    loop = Loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(asyncio.wait_for(main(loop), 1e6))
    finally:
        asyncio.set_event_loop(None)
        loop.close()
