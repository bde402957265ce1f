"""A private DHT in a process of its own, members of it in this one, and what can be seen of them."""

import asyncio
import gc
import multiprocessing
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, Final, cast

import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc.messages import Address
from extensions.dht.krpc.pacing import NODE_RATE
from extensions.dht.krpc.schedule import LookupLimits
from extensions.dht.service import Service
from extensions.dht.settings import DhtSettings
from tests.private_dht import PrivateDht
from tracker.logs import configure

PATIENCE: Final = 60.0
SETTLE: Final = 3.0
"""Seconds for a service's routing table to fill, and for its lookups to end."""

TICK: Final = 0.001
LIFTED: Final = 10**9
CROWD: Final = 50
"""Nodes that all know all others; of more, each knows most."""

MOST: Final = 0.6


class Network:
    """`async with Network(20) as network:` runs a private DHT in another process: libtorrent bears no fork."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(count, theirs), daemon=True)
        self._theirs = theirs
        self.bootstrap: list[str] = []

    async def kill(self, count: int) -> None:
        """Close so many nodes, of which the others learn nothing."""
        self._pipe.send(count)
        await asyncio.to_thread(self._pipe.recv)

    async def __aenter__(self) -> "Network":
        self._process.start()
        self._theirs.close()
        self.bootstrap = await asyncio.to_thread(self._pipe.recv)
        return self

    async def __aexit__(self, *_: object) -> None:
        with suppress(OSError):
            self._pipe.send(None)
        await asyncio.to_thread(self._process.join, PATIENCE)


class _Crowd(PrivateDht):
    async def _are_introduced(self) -> bool:
        for node in self.nodes:
            if node.size < len(self.nodes) * MOST:
                for address in self.addresses:
                    node.add(address)
                # What they say at once must not overflow each other's sockets.
                await asyncio.sleep(0.02)
        await asyncio.gather(*(node.refresh() for node in self.nodes))
        return all(node.size >= len(self.nodes) * MOST for node in self.nodes)


def _serve(count: int, pipe: Connection) -> None:
    configure("warning", "text")

    async def serve() -> None:
        async with (_Crowd if count > CROWD else PrivateDht)(count) as dht:
            pipe.send(dht.bootstrap)
            while (killed := await asyncio.to_thread(pipe.recv)) is not None:
                pipe.send(await dht.kill(killed))

    uvloop.run(serve())


class _Tap(asyncio.DatagramTransport):
    """Passes on what is sent through a socket, and counts."""

    def __init__(self, transport: asyncio.DatagramTransport, count: Callable[[Address], None]) -> None:
        self._transport = transport
        self._count = count

    def sendto(self, data: Any, addr: Any = None) -> None:
        self._transport.sendto(data, addr)
        self._count(addr)

    def abort(self) -> None:
        self._transport.abort()


class Probe:
    """Watches what a running service sends, and how long it holds its loop up."""

    def __init__(self, service: Service) -> None:
        self.in_flight = 0
        self.to_one_node = self.to_itself = 0
        """The most packets sent to one node within any second, and to the client's own socket.

        Nodes where it has stored take it for a node and name it: to what it then asks itself it also answers.
        """
        self.delay = self.loop_cpu = self.garbage_collection = 0.0
        self.callbacks: dict[str, float] = {"received": 0.0, "tick": 0.0}
        """The longest that single callbacks of the messenger took."""
        self._messenger = messenger = service.client._messenger
        self._own = {transport.get_extra_info("sockname")[:2] for transport in messenger._sockets.values()}
        self._sent: dict[Address, deque[float]] = defaultdict(deque)
        for family, transport in messenger._sockets.items():
            transport.get_protocol()._on_datagram = self._timed("received", messenger._on_datagram)  # type: ignore[attr-defined]
            messenger._sockets[family] = _Tap(transport, self._on_sent)
        cast(Any, messenger)._on_tick = self._timed("tick", messenger._on_tick)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the loop, too, as long as this lasts."""
        loop = asyncio.get_running_loop()
        wall, cpu = time.perf_counter(), time.thread_time()
        timer: asyncio.TimerHandle
        collecting = 0.0

        def tick() -> None:
            nonlocal wall, cpu, timer
            now, now_cpu = time.perf_counter(), time.thread_time()
            self.delay = max(self.delay, now - wall - TICK)
            self.loop_cpu = max(self.loop_cpu, now_cpu - cpu)
            wall, cpu = now, now_cpu
            timer = loop.call_later(TICK, tick)

        def collect(phase: str, _info: dict[str, int]) -> None:
            nonlocal collecting
            if phase == "start":
                collecting = time.perf_counter()
            else:
                self.garbage_collection = max(self.garbage_collection, time.perf_counter() - collecting)

        gc.callbacks.append(collect)
        timer = loop.call_later(TICK, tick)
        try:
            yield
        finally:
            timer.cancel()
            gc.callbacks.remove(collect)

    def _on_sent(self, address: Address) -> None:
        now, times = time.perf_counter(), self._sent[address]
        times.append(now)
        while times[0] + 1.0 <= now:
            times.popleft()
        if address in self._own:
            self.to_itself = max(self.to_itself, len(times))
        else:
            self.to_one_node = max(self.to_one_node, len(times))
        self.in_flight = max(self.in_flight, self._messenger.in_flight)

    def _timed(self, name: str, callback: Callable[..., None]) -> Callable[..., None]:
        def timed(*arguments: Any) -> None:
            began = time.perf_counter()
            callback(*arguments)
            self.callbacks[name] = max(self.callbacks[name], time.perf_counter() - began)

        return timed


@asynccontextmanager
async def running(network: Network, url: str = "", lifted: bool = False) -> AsyncIterator[Service]:
    """A member of a DHT, without limits if these are lifted."""
    settings = DhtSettings(listen="127.0.0.1:0", bootstrap=network.bootstrap[:3], private=True)
    # Queries in flight and lookups at a time stay limited.
    limits, node_rate = (LookupLimits(rate=LIFTED, burst=LIFTED), 1000) if lifted else (LookupLimits(), NODE_RATE)
    service = Service(settings, Ed25519PrivateKey.generate(), url, None, node_rate=node_rate, limits=limits)
    await service.start()
    try:
        async with asyncio.timeout(PATIENCE):
            await service.settled.wait()
        await asyncio.sleep(SETTLE)
        yield service
    finally:
        await service.stop()
