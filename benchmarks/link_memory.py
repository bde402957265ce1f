"""Resident memory of one tracker that links and shared swarms take: the difference of two moments.

`accepting` is the tracker that was dialed.
"""

import asyncio
from collections.abc import Iterator
from typing import Final

import uvloop
from websockets.asyncio.server import serve

from benchmarks.links import Tracker, accept, check_shared, neighbour, open_swarms, tracker, two, until
from benchmarks.servers import OURS
from benchmarks.suite import Figures, Result, Suite
from extensions.federation import wire
from extensions.federation.audience import RENEW
from extensions.federation.filters import OwnSwarms
from extensions.federation.transports import SUBPROTOCOL

LINKS: Final = 80
SWARMS: Final = 10_000
SETTLE: Final = 5.0
"""Seconds until changed counts are told and all messages are applied."""

WARM_LINKS: Final = 5
WARM_SWARMS: Final = 100
"""Links and swarms before the first measurement, because the first ones cost more than each further one."""


def link_memory(suite: Suite) -> Iterator[Result]:
    """Memory of links without swarms, of filters, and of swarms without a link, with one, and shared over it."""
    for dialed in (False, True):
        figures = uvloop.run(_links(suite, LINKS, dialed))
        yield Result("link-memory", f"link, {'dialing' if dialed else 'accepting'}", OURS, figures)
    number = SWARMS // 10 if suite.quick else SWARMS
    figures = uvloop.run(_filters(suite, number))
    yield Result("link-memory", f"filter of {number} swarms", OURS, figures)
    for case in ("no link", "told", "shared"):
        for end, figures in zip(("accepting", "dialing"), uvloop.run(_swarms(suite, case, number)), strict=True):
            yield Result("link-memory", f"swarm, {case}, {end}", OURS, figures)


async def _swarms(suite: Suite, case: str, number: int) -> list[Figures]:
    async with two(suite, linked=case != "no link") as pair:
        clients = [await open_swarms(one.port, -1 - WARM_SWARMS, WARM_SWARMS, n) for n, one in enumerate(pair)]
        await asyncio.sleep(SETTLE)
        before = [one.server.resident() for one in pair]
        for n, one in enumerate(pair):
            clients.append(await open_swarms(one.port, 0 if case == "shared" else n * number, number, n))
        # Of many swarms that open at once, the next filter tells.
        await asyncio.sleep(RENEW + 2 * SETTLE)
        expected = {"no link": set[int](), "told": {WARM_SWARMS}, "shared": {WARM_SWARMS + number}}
        check_shared(pair, expected[case])
        return [_grown(number, base, one) for one, base in zip(pair, before, strict=True)]


async def _links(suite: Suite, number: int, dialed: bool) -> Figures:
    """Links that a tracker has dialed, or accepted, with trackers that this process pretends to be."""
    async with serve(accept, "127.0.0.1", 0, subprotocols=[SUBPROTOCOL], compression=None) as listener:
        port = listener.sockets[0].getsockname()[1]
        listener.close(close_connections=False)
        with tracker(suite, *(f"ws://127.0.0.1:{port}/{n}" for n in range(number if dialed else 0))) as one:
            kept = [await neighbour(one.port) for _ in range(WARM_LINKS)]
            await asyncio.sleep(1.0)
            before = one.server.resident()
            if not dialed:
                kept += [await neighbour(one.port) for _ in range(number)]
            async with serve(accept, "127.0.0.1", port, subprotocols=[SUBPROTOCOL], compression=None):
                await until(lambda: len(one.links) == WARM_LINKS + number)
                await asyncio.sleep(SETTLE)
                figures = _grown(number, before, one)
            for _, transport in kept:
                await transport.close()
            return figures


async def _filters(suite: Suite, swarms: int) -> Figures:
    """The filters of trackers with so many swarms, on links that are there before."""
    own = OwnSwarms()
    for number in range(swarms):
        own.add(f"{number:020}")
    with tracker(suite) as one:
        kept = [transport for _ in range(LINKS) for _, transport in [await neighbour(one.port)]]
        await asyncio.sleep(SETTLE)
        before = one.server.resident()
        for transport in kept:
            for number, part in enumerate(own.parts):
                await transport.send(wire.encode(wire.Filter(number, len(own.parts), bytes(part.bits))))
        await asyncio.sleep(SETTLE)
        figures = _grown(LINKS, before, one)
        for transport in kept:
            await transport.close()
        return figures


def _grown(number: int, before: float, one: Tracker) -> Figures:
    after = one.server.resident()
    return {"number": number, "base_mib": before / 1024, "each_kib": (after - before) / number}
