"""The workloads that any tracker can run: relaying, many sockets, swarms of all sizes, scrapes, TLS."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.load import Shape
from benchmarks.measure import under_load
from benchmarks.servers import OURS, THEIRS, Running
from benchmarks.suite import Figures, Result, Suite, configurable
from tests.certificates import Pair

RATE: Final = 800.0
"""Announces a second at a fixed rate: about a third of a core for bittorrent-tracker."""

BUSY_RATE: Final = 2000.0
"""Announces a second that take a third of a core of this tracker, and three quarters for bittorrent-tracker."""

SHARE: Final = 0.3
"""Load of one core at which latencies are compared."""


def case(shape: Shape) -> str:
    """Return the name of a shape."""
    pace = "saturated" if shape.rate is None else f"{shape.rate:,.0f}/s"
    messages = "scrapes" if shape.scrape else f"{shape.offers} offers"
    idle = "" if shape.active is None else f", {shape.active} of them active"
    return f"{shape.sockets} sockets{idle}, {messages}, {pace}"


def _load(suite: Suite, workload: str, shape: Shape, name: str = "", only: tuple[str, ...] = ()) -> Iterator[Result]:
    async def measure(server: Running) -> Figures:
        return await under_load(server, shape, suite.seconds, suite.warm_up)

    return suite.each(workload, name or case(shape), measure, only=only)


def relay(suite: Suite) -> Iterator[Result]:
    """Announces with 5 and 10 offers, each answered; saturated, and at fixed rates."""
    paced = (Shape(4000, rate=rate) for rate in (RATE, BUSY_RATE))
    for shape in (Shape(400), Shape(400, offers=10), Shape(4000), *paced):
        yield from _load(suite, "relay", shape)


def latency(suite: Suite) -> Iterator[Result]:
    """From an announce to its reply, at the rates that take 30 % of a core of this tracker or bittorrent-tracker."""

    async def capacity(server: Running) -> Figures:
        return await under_load(server, Shape(400), 2.0, 2.0)

    for result in list(suite.each("latency", "", capacity, only=(OURS, THEIRS))):
        if result.figures:
            rate = SHARE * result.figures["per_cpu_second"] / (1 + 2 * Shape(400).offers)
            name = f"400 sockets, {rate:,.0f}/s, {SHARE:.0%} of a core for {result.server}"
            yield from _load(suite, "latency", Shape(400, rate=rate), name)


def sockets(suite: Suite) -> Iterator[Result]:
    """100, 1000 and 10 000 sockets with the same total rate of announces; 10 000 sockets of which only 100 announce."""
    for number in (100, 1000, 10_000):
        yield from _load(suite, "sockets", Shape(number, rate=RATE))
    yield from _load(suite, "sockets", Shape(10_000, active=100, rate=RATE))


def swarms(suite: Suite) -> Iterator[Result]:
    """One swarm of 10 000 peers, and 10 000 swarms of 2, ten on each socket."""
    yield from _load(suite, "swarms", Shape(10_000, swarm_size=10_000, rate=RATE), "1 swarm of 10 000")
    yield from _load(suite, "swarms", Shape(2000, swarm_size=2, swarms=10), "10 000 swarms of 2, saturated")


def scrape(suite: Suite) -> Iterator[Result]:
    """Scrapes of one swarm each."""
    yield from _load(suite, "scrape", Shape(400, scrape=True))


def tls(suite: Suite) -> Iterator[Result]:
    """Relaying over wss://, with the TLS in the tracker itself."""
    shape = Shape(400)
    with TemporaryDirectory() as directory:
        pair = Pair(Path(directory), "127.0.0.1")
        # The first two are those of bittorrent_tracker.mjs and rivals.py.
        environment = {"CERTIFICATE": str(pair.certificate), "KEY": str(pair.key), **pair.env}
        context = pair.client_context()

        async def measure(server: Running) -> Figures:
            return await under_load(server, shape, suite.seconds, suite.warm_up, context)

        yield from suite.each("tls", case(shape), measure, environment, configurable())
