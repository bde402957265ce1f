"""Scenarios of hours: refused writes, churn, and outages."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from typing import Final

from extensions.dht.records.keys import SALTS
from tests.simulation.dht.cases import Arguments, Case, chosen, draw_infohashes
from tests.simulation.dht.churn import Churn
from tests.simulation.dht.experiment import Experiment, Figures, experiment, slot_targets
from tests.simulation.dht.mainline import Conditions
from tests.simulation.dht.nodes import Kind, WithoutTokens, refusing
from tests.simulation.dht.trackers import EmulatedTracker
from tests.simulation.dht.vandal import overwrite

HOUR: Final = 3600.0
REFUSERS: Final = 16
CONFLICT_HOURS: Final = 5
CHURNING_NODES: Final = 2000
"""Nodes of a network with churn: each death and each birth is an event."""

BOUND: Final = 60.0
"""Seconds in which an outage is noticed, and is over after its end."""


async def conflicts(arguments: Arguments, seed: int) -> AsyncIterator[Case]:
    """The nodes closest to r0 refuse each put: the queries of the first hour, and of each later one."""
    for code in (0, 203, 301, 302):
        name = f"refused with {code}" if code else "calm"
        if chosen(arguments, name):
            case = Case(name)
            info_hashes = draw_infohashes(seed, arguments.infohashes or 30)
            async with experiment(Conditions(nodes=arguments.nodes), seed) as run:
                for info_hash in info_hashes if code else []:
                    run.add_next_to(slot_targets(info_hash)[0], REFUSERS, refusing(code))
                writer = await run.start()
                reader = await run.start(is_published=False)
                counters = writer.service.client.counters
                queries, size = _of_records(writer), counters.bytes_in + counters.bytes_out
                await run.publish(writer, info_hashes, case.figures)
                await asyncio.sleep(HOUR)
                first = _of_records(writer) - queries
                case.notes["queries in the first hour"] = first / len(info_hashes)
                await asyncio.sleep((CONFLICT_HOURS - 1) * HOUR)
                later = (_of_records(writer) - queries - first) / (CONFLICT_HOURS - 1)
                case.notes["queries an hour"] = later / len(info_hashes)
                size = counters.bytes_in + counters.bytes_out - size
                case.notes["kB an hour"] = size / CONFLICT_HOURS / len(info_hashes) / 1000
                await run.look_up(reader, info_hashes, writer, case.figures)
                case.digest = run.network.digest
            case.expect_at_most("queries an hour", case.notes["queries an hour"], 100)
            yield case


def _of_records(tracker: EmulatedTracker) -> int:
    """Return the queries of a tracker, but the pings. A few of them measure the network."""
    return tracker.queries - tracker.service.client.counters.queries["ping"]


async def emptied(arguments: Arguments, seed: int) -> AsyncIterator[Case]:
    """A vandal empties all slots again and again, for three hours."""
    for minutes in (5, 20, 60):
        name = f"every {minutes} min"
        if chosen(arguments, name):
            case = Case(name)
            info_hashes = draw_infohashes(seed, arguments.infohashes or 12)
            async with experiment(Conditions(nodes=arguments.nodes), seed) as run:
                writer = await run.start()
                reader = await run.start(is_published=False)
                vandal = await run.start(is_published=False)
                await run.publish(writer, info_hashes, case.figures)
                queries, started = _of_records(writer), time.monotonic()
                emptied_at = started
                while time.monotonic() < started + 3 * HOUR:
                    await asyncio.sleep(random.uniform(200.0, 400.0))
                    if time.monotonic() >= emptied_at + 60.0 * minutes:
                        emptied_at = time.monotonic()
                        for info_hash in info_hashes:
                            await overwrite(vandal, info_hash, SALTS)
                        await asyncio.sleep(random.uniform(0.0, 200.0))
                    await run.look_up(reader, info_hashes, writer, case.figures)
                case.notes["queries an hour"] = (_of_records(writer) - queries) / 3 / len(info_hashes)
                case.digest = run.network.digest
            case.expect_at_most("queries an hour", case.notes["queries an hour"], 150)
            yield case


async def churn(arguments: Arguments, seed: int) -> AsyncIterator[Case]:
    """Nodes come and go for a day: the share of the time in which a tracker is found."""
    goals: dict[tuple[int, float], float | None] = {
        (10, 0.0): None,
        (20, 0.0): 0.98,
        (40, 0.0): 0.99,
        (60, 0.0): 0.995,
        (120, 0.0): 0.999,
        (20, 0.5): None,
        (60, 0.5): 0.98,
    }
    for (minutes, without_tokens), least in goals.items():
        name = f"half-life {minutes} min" + (f", {without_tokens:.0%} without tokens" if without_tokens else "")
        if chosen(arguments, name):
            case = Case(name)
            info_hashes = draw_infohashes(seed, arguments.infohashes or 24)
            kinds: dict[Kind, float] = {WithoutTokens: without_tokens}
            nodes = min(arguments.nodes, CHURNING_NODES)
            async with experiment(Conditions(nodes=nodes, dead=0.0, kinds=kinds), seed) as run:
                change = Churn(run.network, 4, 60.0 * minutes)
                task = asyncio.ensure_future(change.run())
                await asyncio.sleep(HOUR)
                writer = await run.start()
                reader = await run.start(is_published=False)
                await run.publish(writer, info_hashes, case.figures)
                queries, until = _of_records(writer), time.monotonic() + 22 * HOUR
                while time.monotonic() < until:
                    await asyncio.sleep(random.uniform(300.0, 900.0))
                    await run.look_up(reader, info_hashes, writer, case.figures)
                case.notes["queries an hour"] = (_of_records(writer) - queries) / 22 / len(info_hashes)
                task.cancel()
                case.digest = run.network.digest
            if least is not None:
                case.expect_found(least)
            yield case


async def outages(arguments: Arguments, seed: int) -> AsyncIterator[Case]:
    """A tracker is cut off for some time, in which swarms open."""
    for seconds, opened in ((5, 20), (60, 20), (60, 0), (150, 20), (600, 20), (3700, 20)):
        name = f"{seconds} s, {opened} swarms open"
        if chosen(arguments, name):
            yield await _outage(arguments, seed, Case(name), [(0.0, float(seconds))], opened)
    if chosen(arguments, "flapping"):
        periods = [(20.0 * number, 10.0) for number in range(15)]
        yield await _outage(arguments, seed, Case("flapping for 5 min"), periods, 20)
    if chosen(arguments, "at the start"):
        case = Case("75 s at the start")
        async with experiment(Conditions(nodes=arguments.nodes), seed) as run:
            tracker = run.make()
            run.network.cut_off.update(tracker.hosts)
            task = asyncio.ensure_future(tracker.start())
            info_hashes = draw_infohashes(seed, 20)
            for info_hash in info_hashes:
                tracker.directory.publish(info_hash)
            await asyncio.sleep(75.0)
            run.network.cut_off.clear()
            await _until_published(tracker, info_hashes, time.monotonic(), case.figures)
            await task
        case.expect_at_most("seconds after its end", max(case.figures.seconds), BOUND)
        yield case


async def _outage(arguments: Arguments, seed: int, case: Case, periods: list[tuple[float, float]], opened: int) -> Case:
    """Cut a tracker off for some periods: their beginnings, and their lengths in seconds."""
    before, new = draw_infohashes(seed, 20), draw_infohashes(seed + 1, opened)
    async with experiment(Conditions(nodes=arguments.nodes), seed) as run:
        tracker = await run.start()
        await run.publish(tracker, before, Figures())
        await asyncio.sleep(60.0)
        started, noticed = time.monotonic(), 0.0
        ends = asyncio.ensure_future(_cut(run, tracker, periods))
        await asyncio.sleep(2.0)
        for info_hash in new:
            tracker.directory.publish(info_hash)
        while not ends.done():
            await asyncio.sleep(0.5)
            if not noticed and not tracker.service.reachable.is_set():
                noticed = time.monotonic() - started
        length = sum(periods[-1])
        if length >= BOUND and len(periods) == 1:
            case.expect_at_most("seconds until it is noticed", noticed or length + 1.0, BOUND)
        case.notes["noticed after"] = noticed
        ended, queries = time.monotonic(), tracker.queries
        reachable = await _until_published(tracker, [*before, *new], ended, case.figures)
        case.notes["reachable after"] = reachable
        case.expect_at_most("seconds after its end", max(reachable, *case.figures.seconds), BOUND)
        case.notes["queries"] = tracker.queries - queries
        case.digest = run.network.digest
    return case


async def _cut(run: Experiment, tracker: EmulatedTracker, periods: list[tuple[float, float]]) -> None:
    started = time.monotonic()
    for begin, length in periods:
        await asyncio.sleep(max(0.0, started + begin - time.monotonic()))
        run.network.cut_off.update(tracker.hosts)
        await asyncio.sleep(length)
        run.network.cut_off.difference_update(tracker.hosts)


async def _until_published(tracker: EmulatedTracker, info_hashes: list[bytes], since: float, figures: Figures) -> float:
    """Wait until all are published and the tracker is reachable, an hour at most. Return when it was reachable."""
    missing, reachable = list(info_hashes), 0.0
    while (missing or not reachable) and time.monotonic() < since + HOUR:
        await asyncio.sleep(0.5)
        passed = time.monotonic() - since
        still = [info_hash for info_hash in missing if not tracker.directory.is_published(info_hash)]
        figures.seconds += [passed] * (len(missing) - len(still))
        figures.found += len(missing) - len(still)
        missing = still
        if not reachable and tracker.service.reachable.is_set():
            reachable = passed
    figures.seconds += [HOUR] * len(missing)
    figures.of += len(info_hashes)
    return reachable or HOUR
