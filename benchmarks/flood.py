"""The effect of a flood from one address on the peers at another, with the default limits.

The flood comes from 127.0.0.2, from a process of its own: connections, announces with five offers, garbage, or TLS
handshakes that are not finished, as fast as the tracker takes them. It lasts until the measurement is over and it has
sent `AMOUNTS`. It opens a connection again at once if the tracker has refused or cut it. The victims, at 127.0.0.1,
announce with five offers each, about as often as the limits of their own address allow. The limits also hold for
loopback here, which is exempt by default. The case `handshakes without a limit` has no limit of new connections.
`attempts` counts the messages or connections of the flood, and `refused` its connections that were refused or cut.
"""

import asyncio
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from ssl import MemoryBIO, SSLContext, SSLWantReadError, create_default_context
from tempfile import TemporaryDirectory
from typing import Any, Final

import uvloop

from benchmarks.load import SDP, Load, Shape, announce
from benchmarks.measure import Mark, latency, warm
from benchmarks.servers import OURS, Running
from benchmarks.storm import AT_A_TIME, HANDSHAKE, Storm
from benchmarks.suite import Figures, Result, Suite
from tests.certificates import Pair
from tracker.protocol.codec import make_offer

VICTIMS: Final = Shape(50, rate=40)
HOSTILE: Final = "127.0.0.2"
AMOUNTS: Final = {
    "none": 0,
    "connections": 10_000,
    "announces": 100_000,
    "garbage": 100_000,
    "handshakes": 10_000,
    "handshakes without a limit": 10_000,
}
SOCKETS: Final = 400
"""Open connections of the flood; one address may have a few more."""

TOO_MANY: Final = 1000
"""Connections at a time, of which the tracker refuses half."""

PATIENCE: Final = 120.0
_SLICE: Final = 0.5
_AGAIN: Final = 0.01
_GARBAGE: Final = b'{"action":"announce","info_hash":' * 20


def flood(suite: Suite) -> Iterator[Result]:
    """The effect of a flood from one address on the announces of another: connections, announces, garbage."""
    with TemporaryDirectory() as directory:
        pair = Pair(Path(directory), "127.0.0.1")
        for kind, amount in AMOUNTS.items():
            environment = {"PEERSERVERS_LIMITS__EXEMPT": "[]"}
            context = None
            if kind.startswith("handshakes"):
                environment |= pair.env
                context = pair.client_context()
            if "without" in kind:
                environment["PEERSERVERS_LIMITS__NEW_CONNECTIONS_PER_SECOND"] = "0"

            async def measure(
                server: Running, kind: str = kind, amount: int = amount, context: SSLContext | None = context
            ) -> Figures:
                return await _victims(suite, server, kind, amount // 10 if suite.quick else amount, context)

            yield from suite.each("flood", kind, measure, environment, (OURS,))


async def _victims(suite: Suite, server: Running, kind: str, amount: int, context: SSLContext | None) -> Figures:
    await warm(server, context)
    load = Load(VICTIMS)
    await load.connect(server.port, context)
    await load.join()
    await load.start()
    await load.run(suite.warm_up)
    with _flooding(kind, server.port) as (sent, refused):
        while kind != "none" and not sent.value:
            await load.run(_SLICE)
        load.latencies.clear()
        mark = Mark.of(server, load.received)
        seconds = 0.0
        while (seconds := time.perf_counter() - mark.wall) < PATIENCE and (
            seconds < suite.seconds or sent.value < amount
        ):
            await load.run(_SLICE)
        figures = mark.until_now(server, load.received)
        attempts: Figures = {"attempts": sent.value, "refused": refused.value}
    await load.stop()
    # The cost of a message is left out: most messages are the flood's.
    kept: Figures = {
        key: figures[key] for key in ("gc_longest_ms", "server_cpu", "waited", "load_cpu") if key in figures
    }
    lost = load.lost + load.unexpected + load.closed
    reached = len(load.latencies) / seconds / (VICTIMS.rate or 1)
    return {**latency(load.latencies), **attempts, **kept, "reached": reached, "lost": lost}


@contextmanager
def _flooding(kind: str, port: int) -> Iterator[tuple[Any, Any]]:
    """Run a flood during the block; yield the counts of its attempts, and of those refused or cut."""
    context = multiprocessing.get_context("spawn")
    counts = context.Value("q", 0), context.Value("q", 0)
    process = context.Process(target=_flood, args=(kind, port, *counts), daemon=True)
    process.start()
    try:
        yield counts
    finally:
        process.kill()
        process.join()


def _flood(kind: str, port: int, sent: Any, refused: Any) -> None:
    # The tracker and the victims must not wait for the core that this process shares with them.
    os.nice(19)
    if kind == "connections" or kind.startswith("handshakes"):
        crowd, at_a_time = Storm(port, HOSTILE), TOO_MANY
        if kind != "connections":
            # The first byte of the tracker's answer is sent when its part of the key exchange is done.
            crowd, at_a_time = Storm(port, HOSTILE, _client_hello(), b"\x16"), AT_A_TIME
        while True:
            crowd.run(0.1, at_a_time)
            sent.value, refused.value = crowd.done + crowd.refused, crowd.refused
    elif kind != "none":
        uvloop.run(_Flood(kind, port, sent, refused).run())


def _client_hello() -> bytes:
    """Return the first message of a TLS client."""
    incoming, outgoing = MemoryBIO(), MemoryBIO()
    with suppress(SSLWantReadError):
        create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


class _Flood:
    def __init__(self, kind: str, port: int, sent: Any, refused: Any) -> None:
        self.kind = kind
        self.port = port
        self.sent = sent
        self.refused = refused

    async def run(self) -> None:
        self.loop = asyncio.get_running_loop()
        for number in range(SOCKETS):
            self.open(number)
        await asyncio.Event().wait()

    def open(self, number: int) -> None:
        task = self.loop.create_task(self._open(number))
        task.add_done_callback(lambda done: self.again(number) if done.exception() else None)

    def again(self, number: int) -> None:
        self.refused.value += 1
        self.loop.call_later(_AGAIN, self.open, number)

    async def _open(self, number: int) -> None:
        await self.loop.create_connection(
            lambda: _Hostile(self, number), "127.0.0.1", self.port, local_addr=(HOSTILE, 0)
        )


class _Hostile(asyncio.Protocol):
    """One socket, which sends the same message again and again and ignores the responses."""

    def __init__(self, flood: _Flood, number: int) -> None:
        self._flood = flood
        self._number = number
        self._full = self._open = False
        self._frame = _masked(_announce(number) if flood.kind == "announces" else _GARBAGE)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        # Without a buffer here, only messages that the kernel has taken are counted.
        transport.set_write_buffer_limits(0)
        transport.write(HANDSHAKE)

    def data_received(self, _data: bytes) -> None:
        if not self._open:
            self._open = True
            self._push()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._push()

    def connection_lost(self, _error: Exception | None) -> None:
        self._flood.again(self._number)

    def _push(self) -> None:
        if self._open and not self._full and not self._transport.is_closing():
            self._transport.write(self._frame)
            self._flood.sent.value += 1
            self._flood.loop.call_soon(self._push)


def _announce(number: int) -> bytes:
    made = [make_offer(f"{number:010}{offer:010}", SDP) for offer in range(5)]
    return announce("flood" * 4, f"{number:020}", {"left": 1, "numwant": 5}, made)


def _masked(payload: bytes) -> bytes:
    """Return a client's text frame, masked with zeros."""
    return b"\x81\xfe" + len(payload).to_bytes(2, "big") + bytes(4) + payload
