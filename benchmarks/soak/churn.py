"""Clients that come and go: they join swarms, make and answer offers, and leave in all ways in which clients leave."""

import asyncio
import ssl
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from random import Random
from typing import Final
from urllib.error import URLError

from picows import WSError, WSMsgType

from benchmarks.load import Load, Peer, Shape, open_socket

STAY: Final = 5.0
"""Seconds that a client stays on average."""

ROUND: Final = 1.0
"""Seconds between two announces of a client on average."""

OFFERS: Final = 5
SWARM: Final = 10
"""Clients of one swarm at a time, about."""

RENEWED: Final = 0.1
"""The part of the clients that join a new swarm, so that swarms open and close, too."""

AFTER_FAILURE: Final = 0.5
"""Seconds after which a client whose connection has failed is followed by the next one."""

TIMEOUT: Final = 10.0

LEAVES: Final = {"closes": 6, "stops": 2, "vanishes": 2, "hasty": 1, "silent": 1, "garbage": 1}
"""How clients leave, with weights: with a close frame, with `stopped` before it, or without a close frame. A hasty one
leaves before the opening handshake is done, a silent one soon after it. Garbage is no JSON."""

ERRORS: Final = (OSError, WSError, TimeoutError, asyncio.IncompleteReadError, URLError)


class Churn:
    """Clients of some trackers.

    Args:
        ports: The ports of the trackers. A client chooses one at random.
        clients: The number of clients at a time.
        context: For TLS.
        seed: For all random choices but the times of the network.
    """

    def __init__(
        self, ports: Sequence[int], clients: int, context: ssl.SSLContext | None = None, seed: int = 1
    ) -> None:
        self.came: Counter[str] = Counter()
        """Clients that have come and gone, by how they left; "refused" are those that could not connect."""
        self._ports = ports
        self._context = context
        self._random = Random(seed)
        self._load = Load(Shape(0, offers=OFFERS, swarm_size=SWARM))
        self._numbers = count()
        self._swarms = [self._swarm() for _ in range(-(-clients // SWARM))]
        self._is_over = asyncio.Event()
        self._tasks = [asyncio.ensure_future(self._visits()) for _ in range(clients)]

    @property
    def received(self) -> int:
        """The messages that all clients have received."""
        return self._load.received

    async def stop(self) -> None:
        """Let all clients leave, now. Raise the exception of a client that has failed."""
        self._is_over.set()
        await asyncio.gather(*self._tasks)

    async def _pause(self, seconds: float) -> None:
        """Wait, but not longer than until the end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_over.wait()

    async def _visits(self) -> None:
        # Not all at once, and not in step.
        await self._pause(self._random.uniform(0, STAY))
        while not self._is_over.is_set():
            way = self._random.choices(list(LEAVES), list(LEAVES.values()))[0]
            port = self._random.choice(self._ports)
            try:
                await (self._look(port) if way == "hasty" else self._visit(port, way))
            except ERRORS:
                way = "refused"
                await self._pause(AFTER_FAILURE)
            self.came[way] += 1

    async def _visit(self, port: int, way: str) -> None:
        """Be a client from its opening handshake to its end."""
        number = next(self._numbers)
        place = self._random.randrange(len(self._swarms))
        if self._random.random() < RENEWED:
            self._swarms[place] = self._swarm()
        peer = Peer(self._load, [self._swarms[place]], number, self._random)
        await open_socket(peer, port, self._context)
        if not hasattr(peer, "transport"):
            # The tracker was killed during the handshake.
            raise ConnectionResetError
        try:
            if way == "silent":
                return
            peer.join()
            end = asyncio.get_running_loop().time() + self._random.expovariate(1 / STAY)
            while asyncio.get_running_loop().time() < end and not self._is_over.is_set():
                await self._pause(self._random.expovariate(1 / ROUND))
                if peer.transport.is_disconnected:
                    break
                peer.begin_round()
            if way == "garbage":
                peer.transport.send(WSMsgType.TEXT, b"{")
            if way == "stops":
                peer.transport.send(WSMsgType.TEXT, peer.first[0].replace(b'"started"', b'"stopped"'))
        finally:
            if way != "vanishes":
                peer.transport.send_close()
            peer.transport.disconnect(graceful=way != "vanishes")
        with suppress(TimeoutError):
            async with asyncio.timeout(TIMEOUT):
                await peer.transport.wait_disconnected()

    async def _look(self, port: int) -> None:
        """Connect, send the beginning of a handshake, and leave."""
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            # The head of a TLS record that announces more bytes than come.
            writer.write(b"\x16\x03\x01\x02\x00\x01" if self._context else b"GET / HTTP/1.1\r\nHost:")
            await writer.drain()
            await self._pause(self._random.uniform(0, ROUND))
        finally:
            writer.transport.abort()

    def _swarm(self) -> str:
        return f"soak{self._random.randrange(10**16):016}"
