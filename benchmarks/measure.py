"""Measure a tracker under a load.

Figures per second of the server's CPU time hold also if other programs run at the same time; messages per second and
latencies do not. Memory per connection is the growth of the server's resident memory: `idle` once all clients are
connected, `busy` after they have announced for the whole run. It includes freed memory that the allocator keeps. The
kernel's socket buffers are counted separately.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Final

from benchmarks.load import Load, Shape
from benchmarks.servers import Measured, ServerFailed
from benchmarks.suite import Figures

SETTLE: Final = 0.5
FIRST: Final = 20
"""Clients before the base of memory is taken, because the first ones make a server load or compile code."""


@dataclass(frozen=True)
class Mark:
    """The clocks of a server and of this process, and the count of messages, at one moment."""

    wall: float
    unix: float
    user: float
    system: float
    ran: float
    waited: float
    own: float
    count: float

    @classmethod
    def of(cls, server: Measured, count: float) -> "Mark":
        """Return the mark of this moment."""
        return cls(
            time.perf_counter(), time.time(), *server.cpu(), *server.busiest_thread(), time.process_time(), count
        )

    def until_now(self, server: Measured, count: float) -> Figures:
        """Return the figures since this mark. Raise `ServerFailed` if the server has done nothing."""
        now = Mark.of(server, count)
        done, seconds = now.count - self.count, now.wall - self.wall
        user, system = now.user - self.user, now.system - self.system
        # The core's time that the server's other threads used was not another program's.
        waited = max(0.0, now.waited - self.waited - max(0.0, user + system - (now.ran - self.ran)))
        if not done or not user + system:
            raise ServerFailed(f"{server.name} has done nothing")
        figures = {
            "per_second": done / seconds,
            "per_cpu_second": done / (user + system),
            "user_us": user / done * 1e6,
            "system_us": system / done * 1e6,
            "server_cpu": (user + system) / seconds,
            "waited": waited / seconds,
            "load_cpu": (now.own - self.own) / seconds,
        }
        pauses = server.collections(self.unix)
        if pauses is not None:
            figures["gc_longest_ms"] = max(pauses, default=0.0) * 1e3
            figures["gc_share"] = sum(pauses) / seconds
        return figures


def latency(seconds: Sequence[float]) -> Figures:
    """Return the median, the 99th percentile and the greatest, in milliseconds."""
    if len(seconds) < 2:
        return {}
    cuts = quantiles(seconds, n=100)
    return {"p50_ms": cuts[49] * 1e3, "p99_ms": cuts[98] * 1e3, "max_ms": max(seconds) * 1e3}


async def warm(server: Measured, context: ssl.SSLContext | None = None) -> bool:
    """Connect a server's first clients, and disconnect them. Return whether the server replies to answers, too."""
    first = Load(Shape(FIRST, active=1, rate=1.0))
    await first.connect(server.port, context)
    await first.join()
    await first.start()
    await asyncio.sleep(SETTLE)
    replies, announces = len(first.latencies), FIRST + 1
    await first.disconnect()
    await asyncio.sleep(SETTLE)
    return replies > announces


async def under_load(
    server: Measured,
    shape: Shape,
    seconds: float,
    warm_up: float,
    context: ssl.SSLContext | None = None,
    port_of: Callable[[int], int] | None = None,
) -> Figures:
    """Measure a server that has just started under a load. `port_of` gives each peer its port, by its number."""
    replies_to_answers = await warm(server, context)
    base, base_kernel = server.resident(), server.socket_memory()
    load = Load(shape, replies_to_answers)
    await load.connect(port_of or server.port, context)
    await asyncio.sleep(SETTLE)
    idle, idle_kernel = server.resident(), server.socket_memory()
    await load.join()
    await load.start()
    await load.run(warm_up)

    load.latencies.clear()
    mark = Mark.of(server, load.received)
    await load.run(seconds)
    figures = mark.until_now(server, load.received) | latency(load.latencies)
    rounds = len(load.latencies)
    busy_kernel = server.socket_memory()

    await load.stop()
    closed = load.closed
    await asyncio.sleep(SETTLE)
    busy = server.resident()
    await load.disconnect()
    figures |= {
        "base_mib": base / 1024,
        "idle_kib": (idle - base) / shape.sockets,
        "busy_kib": (busy - base) / shape.sockets,
        "lost": load.lost + load.unexpected + closed,
    }
    if base_kernel is not None and idle_kernel is not None and busy_kernel is not None:
        figures["idle_kernel_kib"] = (idle_kernel - base_kernel) / shape.sockets
        figures["busy_kernel_kib"] = (busy_kernel - base_kernel) / shape.sockets
    if shape.rate is not None:
        figures["reached"] = rounds / seconds / shape.rate
    return figures
