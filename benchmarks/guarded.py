"""The cost of metrics, limits and access lists: the same load with all of them and with the defaults."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.request import urlopen

from benchmarks.load import Load, Shape
from benchmarks.measure import under_load
from benchmarks.servers import OURS, Running
from benchmarks.suite import Figures, Result, Suite

SHAPE: Final = Shape(400)
LISTED: Final = 100_000
"""Infohashes in each list."""

PLENTY: Final = 10**9
"""The limits of each address: they are checked, and never reached."""


def guarded(suite: Suite) -> Iterator[Result]:
    """Metrics read every second, limits for every address, lists of 100 000 infohashes; and the same without."""

    async def plain(server: Running) -> Figures:
        return await under_load(server, SHAPE, suite.seconds, suite.warm_up)

    async def watched(server: Running) -> Figures:
        reading = asyncio.create_task(_read_metrics(server.port))
        try:
            return await under_load(server, SHAPE, suite.seconds, suite.warm_up)
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading

    with TemporaryDirectory() as directory:
        yield from suite.each("guarded", "defaults", plain, only=(OURS,))
        name = "with metrics, limits, access lists"
        yield from suite.each("guarded", name, watched, _environment(Path(directory)), (OURS,))


def _environment(directory: Path) -> dict[str, str]:
    allowed, denied = directory / "allowed", directory / "denied"
    # The clients that warm the tracker up use the first of these infohashes, too.
    used = [info_hash.encode("latin-1").hex() for hashes in Load(SHAPE).hashes for info_hash in hashes]
    allowed.write_text("\n".join([*used, *(os.urandom(20).hex() for _ in range(LISTED))]))
    denied.write_text("\n".join(os.urandom(20).hex() for _ in range(LISTED)))
    return {
        "PEERSERVERS_ACCESS__ALLOW_INFOHASHES": str(allowed),
        "PEERSERVERS_ACCESS__DENY_INFOHASHES": str(denied),
        "PEERSERVERS_ACCESS__DENY_ORIGINS": '["https://*.example.org"]',
        "PEERSERVERS_LIMITS__EXEMPT": "[]",
        "PEERSERVERS_LIMITS__CONNECTIONS_PER_ADDRESS": str(PLENTY),
        "PEERSERVERS_LIMITS__ANNOUNCES_PER_SECOND": str(PLENTY),
        "PEERSERVERS_LIMITS__OFFERS_PER_SECOND": str(PLENTY),
    }


async def _read_metrics(port: int) -> None:
    while True:
        await asyncio.sleep(1.0)
        await asyncio.to_thread(_get, f"http://127.0.0.1:{port}/metrics")


def _get(url: str) -> None:
    with urlopen(url) as response:
        response.read()
