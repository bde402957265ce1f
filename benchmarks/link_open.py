"""The cost of links in swarms that are open: when a link opens, and when a swarm opens at a tracker with many links.

`link, 0 of 10000 shared`: a link opens between two trackers with so many swarms each, none of which is common. CPU time
is that of both trackers together, and bytes are those of the frames in both directions. The memory is that of both, for
each swarm of one tracker. `swarm, 100 links`: swarms open one after the other; CPU time, bytes and memory are those of
one such swarm at its tracker, the announce of its peer included.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import uvloop

from benchmarks.links import Tracker, neighbour, open_swarm, open_swarms, shared, tracker
from benchmarks.servers import OURS, ServerFailed
from benchmarks.suite import Figures, Result, Suite
from extensions.federation.handshake import LinkError
from extensions.federation.transports import Dialed
from tests.federated import Wire

SWARMS: Final = (10_000, 100_000)
LINKS: Final = 100
OPENINGS: Final = 400
PAUSE: Final = 0.05
"""Swarms that open, and seconds between two of them."""

DIALED_WITHIN: Final = 90.0
"""Seconds in which a tracker surely dials another one that is listed."""

QUIET: Final = 7.0
TRICKLE: Final = 1000.0
"""Seconds with fewer bytes per second than this after which everything has been told. Questions for other trackers of
swarms that few have go on."""

PERIOD: Final = 0.25
"""Seconds between two looks at the counters."""


def link_open(suite: Suite) -> Iterator[Result]:
    """The cost of a link that opens between trackers with many swarms, and of a swarm that opens with many links."""
    for number in [SWARMS[0] // 10] if suite.quick else SWARMS:
        for common in (0, number):
            figures = uvloop.run(_link(suite, number, common))
            yield Result("link-open", f"link, {common} of {number} shared", OURS, figures)
    for links in (0, LINKS // 10) if suite.quick else (0, LINKS):
        yield Result("link-open", f"swarm, {links} links", OURS, uvloop.run(_swarm(suite, links)))


@dataclass(frozen=True)
class Moment:
    """The state of some trackers: seconds on a monotonic clock and of CPU time, KiB of memory, and bytes sent."""

    at: float
    cpu: float
    resident: float
    sent: float


def _now(trackers: list[Tracker]) -> Moment:
    # The bytes come first, because reading them costs CPU time.
    sent = sum(one.metric("peerservers_federation_bytes_total", 'direction="out"') for one in trackers)
    cpu = sum(sum(one.server.cpu()) for one in trackers)
    return Moment(time.perf_counter(), cpu, sum(one.server.resident() for one in trackers), sent)


async def _quiet(trackers: list[Tracker]) -> Moment:
    """Return the first moment after which little is sent for `QUIET` seconds."""
    last = _now(trackers)
    while True:
        await asyncio.sleep(PERIOD)
        now = _now(trackers)
        if now.sent - last.sent > TRICKLE * QUIET:
            last = now
        elif now.at - last.at > QUIET:
            return last


async def _link(suite: Suite, number: int, common: int) -> Figures:
    with tracker(suite) as one:
        async with Wire(one.port) as wire:
            wire.cut()
            with tracker(suite, wire.url) as other:
                pair = [one, other]
                clients = [await open_swarms(one.port, 0, number, 0)]
                clients.append(await open_swarms(other.port, 0 if common else number, number, 1))
                await asyncio.sleep(QUIET)
                before = _now(pair)
                wire.mend()
                async with asyncio.timeout(DIALED_WITHIN):
                    while not before.sent:
                        last, before = before, _now(pair)
                        await asyncio.sleep(PERIOD)
                after = await _quiet(pair)
                if not one.links or not other.links:
                    raise ServerFailed("the link has ended")
                del clients
                figures = {
                    "number": number,
                    "shared": max(shared(pair)),
                    "link_bytes": after.sent,
                    "cpu_ms": 1000 * (after.cpu - last.cpu),
                    "seconds": after.at - last.at,
                    "each_us": 1e6 * (after.cpu - last.cpu) / number,
                    "each_kib": (after.resident - last.resident) / number,
                }
            # So that the end of the connection has passed the proxy.
            await asyncio.sleep(PERIOD)
    return figures


async def _swarm(suite: Suite, links: int) -> Figures:
    with tracker(suite) as one:
        tasks = []
        for _ in range(links):
            _, transport = await neighbour(one.port)
            tasks.append(asyncio.ensure_future(_swallow(transport)))
        (client,) = await open_swarms(one.port, -1 - OPENINGS, OPENINGS, 0)
        await _quiet([one])
        before = _now([one])
        for number in range(OPENINGS):
            open_swarm(client, number, 0)
            await asyncio.sleep(PAUSE)
        await asyncio.sleep(QUIET)
        after = _now([one])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return {
            "number": OPENINGS,
            "link_bytes": (after.sent - before.sent) / OPENINGS,
            "each_us": 1e6 * (after.cpu - before.cpu) / OPENINGS,
            "each_kib": (after.resident - before.resident) / OPENINGS,
        }


async def _swallow(transport: Dialed) -> None:
    with suppress(LinkError):
        while True:
            await transport.receive()
