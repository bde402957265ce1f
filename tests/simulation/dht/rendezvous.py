"""Scenarios of the rendezvous, of the day's end, and of the BEP 5 fallback."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from statistics import mean
from typing import Final

from extensions.dht.records.keys import DAY, SALTS, day_of
from extensions.dht.records.shards import SHALLOW
from extensions.trackers import RENDEZVOUS
from tests.simulation.dht.cases import Arguments, Case, chosen, draw_infohashes, publish_and_find
from tests.simulation.dht.experiment import Experiment, announce_target, experiment, slot_targets
from tests.simulation.dht.liars import NamesHostsWithoutTracker
from tests.simulation.dht.mainline import Conditions
from tests.simulation.dht.trackers import EmulatedTracker
from tests.simulation.dht.vandal import overwrite, upper_shards
from tests.simulation.measures import Components

MEETING: Final = 900.0
"""Seconds in which two trackers must find each other at the rendezvous."""

SETTLED: Final = 75 * 60.0
"""Seconds after which all trackers have visited the rendezvous again."""

MORNING: Final = 8 * 3600
EVENING: Final = 23 * 3600


async def rendezvous_sybils(arguments: Arguments, seed: int) -> AsyncIterator[Case]:
    """Sybils next to the places of the rendezvous, where two new trackers must meet."""
    places = {"r0": (0,), "r0, announced hash": (0, 3), "all places": (0, 1, 2, 3)}
    for text, chosen_places in places.items():
        for count in (8, 16, 64):
            name = f"K={count} at {text}"
            if chosen(arguments, name):
                case = Case(name)
                async with experiment(Conditions(nodes=arguments.nodes), seed) as run:
                    for _ in range(arguments.infohashes or 30):
                        await _wait_until(MORNING)
                        targets = [*slot_targets(RENDEZVOUS), announce_target(RENDEZVOUS)]
                        for place in chosen_places:
                            run.add_sybils(targets[place], count)
                        await _meet(run, 2, case)
                        run.network.nodes.clear()
                    case.digest = run.network.digest
                case.expect_found(29 / 30)
                yield case


async def rendezvous_sizes(arguments: Arguments, seed: int) -> AsyncIterator[Case]:
    """So many trackers start within a minute and meet at the rendezvous."""
    for count in (2, 6, 18, 40, 100):
        name = f"{count} trackers"
        if chosen(arguments, name):
            case = Case(name)
            async with experiment(Conditions(nodes=arguments.nodes), seed) as run:
                await _wait_until(MORNING)
                await _meet(run, count, case, SETTLED)
                case.digest = run.network.digest
            case.expect_found(1.0)
            yield case


async def _meet(run: Experiment, count: int, case: Case, seconds: float = MEETING) -> None:
    """Start some trackers, and count those that are connected with most of the others by who knows whom.

    Over the links that follow, trackers learn of all others.
    """
    trackers = [run.make() for _ in range(count)]

    async def start(tracker: EmulatedTracker) -> None:
        await asyncio.sleep(random.uniform(0, 60.0 if count > 2 else 5.0))
        await tracker.start()
        tracker.directory.publish(RENDEZVOUS)

    started = time.monotonic()
    await asyncio.gather(*map(start, trackers))
    figures, together = case.figures, 0
    while together < count and time.monotonic() < started + MEETING:
        await asyncio.sleep(1.0)
        together = _largest_part(trackers)
    figures.of += count
    figures.found += together if together > 1 else 0
    figures.seconds.append(time.monotonic() - started)
    if seconds > MEETING:
        await asyncio.sleep(started + seconds - time.monotonic())
        case.notes["known to the loneliest"] = min(len(_known(tracker, trackers)) for tracker in trackers)
        case.notes["queries an hour"] = mean(tracker.queries for tracker in trackers) * 3600 / seconds
    await run.stop()


def _largest_part(trackers: Sequence[EmulatedTracker]) -> int:
    parts = Components(tracker.tracker_id for tracker in trackers)
    for tracker in trackers:
        for other in _known(tracker, trackers):
            parts.join(tracker.tracker_id, other)
    return parts.largest


def _known(tracker: EmulatedTracker, others: Sequence[EmulatedTracker]) -> set[str]:
    known = tracker.directory.knowledge.get(RENDEZVOUS)
    return set(known.seen) & {other.tracker_id for other in others} if known else set()


async def midnight(arguments: Arguments, seed: int) -> AsyncIterator[Case]:
    """Sybils next to r0 of the day, or of the next day, too: lookups after midnight, when keys change."""
    for text, days in {"today": (0,), "today and tomorrow": (0, 1)}.items():
        names = {f"K=64 {text}, {minutes} min after midnight": minutes for minutes in (21, 62)}
        if any(chosen(arguments, name) for name in names):
            info_hashes = draw_infohashes(seed, arguments.infohashes or 20)
            async with experiment(Conditions(nodes=arguments.nodes), seed) as run:
                await _wait_until(EVENING)
                for info_hash in info_hashes:
                    for ahead in days:
                        run.add_sybils(slot_targets(info_hash, day_of(time.time()) + ahead)[0], 64)
                writer = await run.start()
                reader = await run.start(is_published=False)
                for info_hash in info_hashes:
                    writer.directory.publish(info_hash)
                for name, minutes in names.items():
                    case = Case(name)
                    await _wait_until(60 * minutes)
                    await run.look_up(reader, info_hashes, writer, case.figures)
                    case.expect_found(0.95)
                    yield case


async def liars_bep5(arguments: Arguments, seed: int) -> AsyncIterator[Case]:
    """Slots and upper shards are locked, and nodes next to the announced hash name hosts without a tracker."""
    for depth, counts in {None: (5,), 2: (0, 1, 2, 5), SHALLOW: (0, 5)}.items():
        for count in counts:
            name = f"slots{'' if depth is None else f', shards to depth {depth}'}, {count} liars"
            if chosen(arguments, name):

                async def prepare(
                    run: Experiment, info_hashes: list[bytes], depth: int | None = depth, count: int = count
                ) -> None:
                    vandal = await run.start(is_published=False)
                    for info_hash in info_hashes:
                        salts = [*SALTS, *(upper_shards(depth) if depth is not None else [])]
                        await overwrite(vandal, info_hash, salts, locks=True)
                        run.add_next_to(announce_target(info_hash), count, NamesHostsWithoutTracker)

                conditions = Conditions(nodes=arguments.nodes)
                case = await publish_and_find(name, conditions, seed, arguments.infohashes or 24, before=prepare)
                case.expect_found(22 / 24)
                yield case


async def _wait_until(second: int) -> None:
    """Wait until the next time of day (seconds in UTC)."""
    await asyncio.sleep((second - time.time()) % DAY)
