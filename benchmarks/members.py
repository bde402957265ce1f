"""A private DHT in a process of its own, members of it in this process, and a probe of their packets and delays."""

import asyncio
import gc
import multiprocessing
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc.messages import Address
from extensions.dht.krpc.messenger import Messenger
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
"""Up to this number of nodes, all know all others; with more, each knows `MOST`."""

MOST: Final = 0.6
"""The share of the other nodes."""


class Network:
    """`async with Network(20) as network:` runs a private DHT in a new process; libtorrent does not survive a fork."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(count, theirs), daemon=True)
        self._theirs = theirs
        self.bootstrap: list[str] = []

    async def kill(self, count: int) -> None:
        """Close `count` nodes without a message to the others."""
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
                # Pauses, because many messages at once overflow the nodes' sockets.
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
    """Passes datagrams on to a UDP transport. `on_sent`, if set, is called with the receiver of each."""

    def __init__(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport
        self.on_sent: Callable[[Address], None] | None = None

    def sendto(self, data: Any, addr: Any = None) -> None:
        self.transport.sendto(data, addr)
        if self.on_sent:
            self.on_sent(addr)

    def abort(self) -> None:
        self.transport.abort()


class _Timed(asyncio.DatagramProtocol):
    """Passes datagrams on to a protocol, and reports the seconds that it takes for each."""

    def __init__(self, protocol: asyncio.DatagramProtocol, report: Callable[[float], None]) -> None:
        self.protocol = protocol
        self._report = report

    def datagram_received(self, data: bytes, addr: Any) -> None:
        began = time.perf_counter()
        self.protocol.datagram_received(data, addr)
        self._report(time.perf_counter() - began)

    def error_received(self, exc: Exception) -> None:
        self.protocol.error_received(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.protocol.connection_lost(exc)


_taps: WeakKeyDictionary[Service, list[_Tap]] = WeakKeyDictionary()
"""The UDP transports of each running service."""


@contextmanager
def _tapping() -> Iterator[list[_Tap]]:
    """Put a tap on each UDP transport that is opened during the block; yield the list of these taps."""
    loop: Any = asyncio.get_running_loop()
    open_endpoint = loop.create_datagram_endpoint
    taps: list[_Tap] = []

    async def open_tapped(*arguments: Any, **options: Any) -> tuple[_Tap, Any]:
        transport, protocol = await open_endpoint(*arguments, **options)
        taps.append(_Tap(transport))
        return taps[-1], protocol

    loop.create_datagram_endpoint = open_tapped
    try:
        yield taps
    finally:
        loop.create_datagram_endpoint = open_endpoint


class Probe:
    """Watches the packets that a running service sends, and the delays of its event loop."""

    def __init__(self, service: Service) -> None:
        self.in_flight = 0
        self.to_one_node = self.to_itself = 0
        """The most packets sent to one node within any second, and to the client's own socket.

        Nodes that store values of the client take it for a node and name it to others. So it sometimes queries itself,
        and its answers go to its own socket.
        """
        self.delay = self.loop_cpu = self.garbage_collection = 0.0
        self.callbacks: dict[str, float] = {"received": 0.0, "tick": 0.0}
        """The longest that single callbacks of the messenger took, in seconds, while the loop was watched."""
        self._client = service.client
        self._taps = _taps[service]
        self._own = {tap.transport.get_extra_info("sockname")[:2] for tap in self._taps}
        self._sent: dict[Address, deque[float]] = defaultdict(deque)
        for tap in self._taps:
            tap.on_sent = self._on_sent

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the event loop, too, during the block."""
        loop: Any = asyncio.get_running_loop()
        wall, cpu = time.perf_counter(), time.thread_time()
        timer: asyncio.TimerHandle
        collecting = 0.0
        call_later = loop.call_later

        def tick() -> None:
            nonlocal wall, cpu, timer
            now, now_cpu = time.perf_counter(), time.thread_time()
            self.delay = max(self.delay, now - wall - TICK)
            self.loop_cpu = max(self.loop_cpu, now_cpu - cpu)
            wall, cpu = now, now_cpu
            timer = call_later(TICK, tick)

        def collect(phase: str, _info: dict[str, int]) -> None:
            nonlocal collecting
            if phase == "start":
                collecting = time.perf_counter()
            else:
                self.garbage_collection = max(self.garbage_collection, time.perf_counter() - collecting)

        def call_timed(delay: float, callback: Callable[..., None], *arguments: Any, **options: Any) -> Any:
            # A messenger's only method that is a timer's callback is its tick.
            if isinstance(getattr(callback, "__self__", None), Messenger):
                callback = self._timed("tick", callback)
            return call_later(delay, callback, *arguments, **options)

        protocols = [cast(asyncio.DatagramProtocol, tap.transport.get_protocol()) for tap in self._taps]
        for tap, protocol in zip(self._taps, protocols, strict=True):
            tap.transport.set_protocol(_Timed(protocol, partial(self._took, "received")))
        loop.call_later = call_timed
        gc.callbacks.append(collect)
        timer = call_later(TICK, tick)
        try:
            yield
        finally:
            timer.cancel()
            gc.callbacks.remove(collect)
            loop.call_later = call_later
            for tap, protocol in zip(self._taps, protocols, strict=True):
                tap.transport.set_protocol(protocol)

    def _on_sent(self, address: Address) -> None:
        now, times = time.perf_counter(), self._sent[address]
        times.append(now)
        while times[0] + 1.0 <= now:
            times.popleft()
        if address in self._own:
            self.to_itself = max(self.to_itself, len(times))
        else:
            self.to_one_node = max(self.to_one_node, len(times))
        self.in_flight = max(self.in_flight, self._client.in_flight)

    def _timed(self, name: str, callback: Callable[..., None]) -> Callable[..., None]:
        def timed(*arguments: Any) -> None:
            began = time.perf_counter()
            callback(*arguments)
            self._took(name, time.perf_counter() - began)

        return timed

    def _took(self, name: str, seconds: float) -> None:
        self.callbacks[name] = max(self.callbacks[name], seconds)


@asynccontextmanager
async def running(network: Network, url: str = "", lifted: bool = False) -> AsyncIterator[Service]:
    """Run a member of a DHT during the block. If `lifted`, queries in flight and lookups at a time stay limited."""
    settings = DhtSettings(listen="127.0.0.1:0", bootstrap=network.bootstrap[:3], private=True)
    limits, node_rate = (LookupLimits(rate=LIFTED, burst=LIFTED), 1000) if lifted else (LookupLimits(), NODE_RATE)
    service = Service(settings, Ed25519PrivateKey.generate(), url, None, node_rate=node_rate, limits=limits)
    with _tapping() as taps:
        await service.start()
    _taps[service] = taps
    try:
        async with asyncio.timeout(PATIENCE):
            await service.settled.wait()
        await asyncio.sleep(SETTLE)
        yield service
    finally:
        await service.stop()
