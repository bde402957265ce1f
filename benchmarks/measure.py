"""Measures a tracker under a load.

Per second of the server's CPU time counts what the server cost, not what the machine happened to give it, so these
figures bear other programs beside them; messages a second and latencies do not. Memory per connection is what the
server's resident memory grew by: `idle` once all are connected, `busy` after they have announced for the whole run,
what the server's allocator holds back included. What the kernel holds in the buffers of its sockets counts apart.
"""

import asyncio
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Final

from benchmarks.load import Load, Shape
from benchmarks.servers import Running, ServerFailed
from benchmarks.suite import Figures

SETTLE: Final = 0.5
FIRST: Final = 20
"""Clients before the base of memory is taken: what a server loads or compiles for the first is no cost of each."""


@dataclass(frozen=True)
class Mark:
    """The clocks of a server and of this process, and what has been counted, at one moment."""

    wall: float
    unix: float
    user: float
    system: float
    ran: float
    waited: float
    own: float
    count: float

    @classmethod
    def of(cls, server: Running, count: float) -> "Mark":
        """Now."""
        return cls(time.perf_counter(), time.time(), *server.cpu(), *server.main_thread(), time.process_time(), count)

    def until_now(self, server: Running, count: float) -> Figures:
        """What has been done since, and what it cost. Raises `ServerFailed` if it was nothing."""
        now = Mark.of(server, count)
        done, seconds = now.count - self.count, now.wall - self.wall
        user, system = now.user - self.user, now.system - self.system
        # What its other threads took of the same core is no other program's.
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
    """Median, 99th percentile and greatest, in milliseconds."""
    if len(seconds) < 2:
        return {}
    cuts = quantiles(seconds, n=100)
    return {"p50_ms": cuts[49] * 1e3, "p99_ms": cuts[98] * 1e3, "max_ms": max(seconds) * 1e3}


async def warm(server: Running, context: ssl.SSLContext | None = None) -> None:
    """Let a server have its first clients."""
    first = Load(Shape(FIRST))
    await first.connect(server.port, context)
    await first.join()
    await first.disconnect()
    await asyncio.sleep(SETTLE)


async def under_load(
    server: Running,
    shape: Shape,
    seconds: float,
    warm_up: float,
    context: ssl.SSLContext | None = None,
) -> Figures:
    """Load a server that has just started."""
    await warm(server, context)
    base, base_kernel = server.resident(), server.socket_memory()
    load = Load(shape)
    await load.connect(server.port, context)
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
