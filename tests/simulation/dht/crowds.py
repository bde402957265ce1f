"""Scenarios of a tracker with tens of thousands of swarms, on the model of storing nodes."""

import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.settings import DhtSettings
from extensions.entries import sign_entry
from extensions.trackers import Sighting
from tests.simulation.dht.cases import Arguments, Case, chosen
from tests.simulation.dht.model import Dht
from tests.simulation.network import Traffic
from tests.simulation.tracker import Disk, ModelledService

ROUND_TRIP: Final = (0.15, 0.6)
"""Seconds of a query: a lookup then takes as long as among millions of nodes."""

OPENS_WITHIN: Final = 10.0
"""Seconds in which all swarms open at the start."""

PROBES: Final = (30.0, 600.0, 3600.0)
"""Seconds after the start at which further swarms open, which another tracker serves."""

FOUND_WITHIN: Final = 12.0
"""Seconds until the other tracker is found: ten until the lookup starts, and its duration."""

STEP: Final = 5.0


async def many_swarms(arguments: Arguments, _seed: int) -> AsyncIterator[Case]:
    """Very many swarms at the start of a tracker, and swarms that open meanwhile."""
    for swarms, peers, hours in ((10_000, 2, 1.2), (20_000, 2, 1.2), (20_000, 1, 1.2)):
        name = f"{swarms} swarms of {peers} peers"
        if chosen(arguments, name):
            yield await _crowd(Case(name), swarms, peers, hours)


async def _crowd(case: Case, swarms: int, peers: int, hours: float) -> Case:
    dht = Dht(Traffic(), rate=0.0, round_trip=ROUND_TRIP)
    with tempfile.TemporaryDirectory(prefix="simulation-") as directory:
        other, tracker = (_service(dht, Path(directory), number) for number in range(2))
        await other.start()
        await tracker.start()
        probes = [random.randbytes(20) for _ in PROBES]
        for probe in probes:
            other.directory.publish(probe)
        await asyncio.sleep(60.0)
        found: dict[bytes, float] = {}

        def on_sighting(info_hash: bytes, _sighting: Sighting) -> None:
            found.setdefault(info_hash, time.monotonic())

        tracker.directory.sightings.listeners.append(on_sighting)
        started = time.monotonic()
        opened: dict[bytes, float] = {}

        async def open_probes() -> None:
            for probe, when in zip(probes, PROBES, strict=True):
                await asyncio.sleep(started + when - time.monotonic())
                opened[probe] = time.monotonic()
                tracker.directory.swarm(probe, peers, False)

        task = asyncio.ensure_future(open_probes())
        for _ in range(swarms):
            tracker.directory.swarm(random.randbytes(20), peers, False)
            await asyncio.sleep(OPENS_WITHIN / swarms)
        reached: dict[int, float] = {}
        while time.monotonic() < started + 3600 * hours:
            await asyncio.sleep(STEP)
            published = tracker.directory.published
            for number in (1000, 5000, 10_000):
                if published >= number:
                    reached.setdefault(number, time.monotonic() - started)
        await task
        waits = [found.get(probe, time.monotonic()) - opened[probe] for probe in probes]
        for number in (1000, 5000, 10_000):
            case.notes[f"{number} published after"] = reached.get(number, 3600 * hours) / 60
        case.notes["overdue"] = tracker.directory.overdue
        case.notes["lookups a second"] = dht.gets / (time.monotonic() - started)
        case.figures.seconds = waits
        case.figures.of, case.figures.found = len(waits), sum(wait <= FOUND_WITHIN for wait in waits)
        case.expect_at_most("seconds until a new swarm's trackers are found", max(waits), FOUND_WITHIN)
        case.expect_at_most("minutes until 1000 are published", case.notes["1000 published after"], 5)
        case.expect_at_most("minutes until 10000 are published", case.notes["10000 published after"], 50)
        await tracker.stop()
        await other.stop()
    return case


def _service(dht: Dht, directory: Path, number: int) -> ModelledService:
    key = Ed25519PrivateKey.from_private_bytes(random.randbytes(32))
    url = f"wss://tracker{number}.example"

    async def fetch(_address: Any, now: float) -> Any:
        return sign_entry(key, b"", url, now)

    settings = DhtSettings()
    return ModelledService(dht, Disk(directory), f"5.0.0.{number + 1}", fetch, settings, key, url, directory)
