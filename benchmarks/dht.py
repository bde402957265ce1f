"""Measures the cost of the DHT, and how soon trackers find each other in it: `python -m benchmarks.dht`.

All measurements use private DHTs of libtorrent nodes on loopback, which run in a process of their own. The service
runs in this process. Its CPU time is given twice: `process` is that of all threads, including libtorrent's; `loop` is
that of the event loop's thread. Packets are UDP datagrams sent and received in lookups and stores, without those of the
node.

The delay of the event loop is measured with a callback that is due every millisecond. It includes the time that other
programs take on the same core. `loop CPU` does not: it is the largest CPU time of the loop's thread between two of
these callbacks. The callback itself costs CPU time, so it never runs while CPU time is measured.
"""

import argparse
import asyncio
import json
import os
import time
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, cast

import uvloop

from benchmarks.members import PATIENCE, SETTLE, Network, Probe, running
from extensions.dht.krpc.messenger import MAX_IN_FLIGHT
from extensions.dht.krpc.pacing import NODE_RATE
from extensions.dht.service import Service
from tracker.logs import configure

PARTS: Final = ("latency", "packets", "cpu", "paced")
URL: Final = "wss://tracker.example.org/announce"
PAUSE: Final = 1.2
"""Seconds after which packets to a node no longer count against its limit."""

FEW: Final = 30
"""Publications at a time, where not all are requested at once."""

BESIDES: Final = 1
"""Packets above the limit that one node may receive within a second: the loop's clock has whole milliseconds."""


async def _stored(service: Service, number: int) -> None:
    async with asyncio.timeout(PATIENCE + number):
        while service.directory.counters.publications["stored"] < number:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


# Latency


@dataclass(frozen=True)
class Latency:
    """Milliseconds from a request to publish until another tracker finds the entry; it repeats its lookup at once."""

    case: str
    rounds: int
    median_ms: float
    p90_ms: float
    worst_ms: float
    looks: float


async def measure_latency(nodes: int, rounds: int) -> list[Latency]:
    """Measure in a healthy DHT, and in one in which a third of the nodes have died."""
    async with Network(nodes) as network, running(network, URL) as tracker, running(network) as other:
        figures = [
            await _latency("healthy", tracker, other, rounds, PAUSE),
            await _latency("healthy, no pauses", tracker, other, rounds, 0.0),
        ]
        await network.kill(nodes // 3)
        return [
            *figures,
            await _latency("third dead", tracker, other, rounds, PAUSE),
            await _latency("third dead, all forgotten", tracker, other, rounds, PAUSE, forget=True),
            await _latency("third dead, no pauses", tracker, other, rounds, 0.0),
        ]


async def _latency(
    case: str, tracker: Service, other: Service, rounds: int, pause: float, forget: bool = False
) -> Latency:
    times, looks = [], 0
    await asyncio.sleep(SETTLE * 2)
    for _ in range(rounds):
        if forget:
            # As if no timeout had been noticed yet.
            tracker.client.forget_timeouts()
            other.client.forget_timeouts()
        info_hash, began = os.urandom(20), time.perf_counter()
        tracker.directory.swarm(info_hash, peers=5, linked=False)
        async with asyncio.timeout(PATIENCE):
            while not await _is_found(other, info_hash):
                looks += 1
        times.append((time.perf_counter() - began) * 1e3)
        await asyncio.sleep(pause)
    times.sort()
    return Latency(case, rounds, median(times), times[rounds * 9 // 10], times[-1], looks / rounds + 1)


async def _is_found(service: Service, info_hash: bytes) -> bool:
    """Return whether one new lookup finds a tracker."""
    await service.directory.forget(info_hash)
    async with aclosing(cast(Any, service.directory.trackers(info_hash))) as sightings:
        async for _ in sightings:
            return True
    return False


# Packets


@dataclass(frozen=True)
class Packets:
    """The mean of one lookup or publication."""

    nodes: int
    kind: str
    queries: float
    packets: float
    bytes_sent: float
    bytes_received: float
    timeouts: float


async def measure_packets(nodes: int, number: int) -> list[Packets]:
    """Measure lookups that find nothing, publications, and lookups of these."""
    async with (
        Network(nodes) as network,
        running(network, URL, lifted=True) as tracker,
        running(network, lifted=True) as other,
    ):
        hashes = [os.urandom(20) for _ in range(number)]
        figures = []

        async def look(expected: bool) -> None:
            assert all([await _is_found(other, info_hash) is expected for info_hash in hashes])
            # A lookup goes on after the first result.
            await asyncio.sleep(SETTLE)

        async def publish() -> None:
            for done, info_hash in enumerate(hashes, 1):
                tracker.directory.publish(info_hash)
                await _stored(tracker, done)

        for kind, service, do in (
            ("lookup of nothing", other, look(False)),
            ("publication", tracker, publish()),
            ("lookup", other, look(True)),
        ):
            before = _counted(service)
            await do
            sums = [after - then for after, then in zip(_counted(service), before, strict=True)]
            figures.append(Packets(nodes, kind, *(one / number for one in sums)))
        return figures


def _counted(service: Service) -> tuple[int, ...]:
    counters = service.client.counters
    queries = sum(counters.queries.values())
    packets = queries + counters.replies + counters.refusals + counters.garbage
    return queries, packets, counters.bytes_out, counters.bytes_in, counters.timeouts


# CPU time


@dataclass(frozen=True)
class HeldUp:
    """The longest time for which the loop was blocked, and its causes."""

    delay_ms: float
    loop_cpu_ms: float
    received_ms: float
    tick_ms: float
    gc_ms: float

    @classmethod
    def of(cls, probe: Probe) -> "HeldUp":
        """Return the figures of a probe."""
        callbacks = probe.callbacks
        seconds = (probe.delay, probe.loop_cpu, callbacks["received"], callbacks["tick"], probe.garbage_collection)
        return cls(*(one * 1e3 for one in seconds))


@dataclass(frozen=True)
class Cpu:
    """Many publications without limits: the CPU time of the first half, and all other figures of the second half."""

    case: str
    publications: int
    seconds: float
    process_cpu_s: float
    loop_cpu_s: float
    in_flight: int
    held_up: HeldUp
    grown_kib: float
    failures: int


async def measure_cpu(nodes: int, number: int) -> list[Cpu]:
    """Measure with all requested at once, as after an outage, and with a few at a time."""
    return [await _cpu("at once", nodes, number, number), await _cpu(f"{FEW} at a time", nodes, number, FEW)]


async def _cpu(case: str, nodes: int, number: int, at_a_time: int) -> Cpu:
    async with Network(nodes) as network, running(network, URL, lifted=True) as service:
        await _publish(service, 100, at_a_time)
        resident = _resident()
        wall, process, thread = await _publish(service, number, at_a_time)
        grown = (_resident() - resident) / number
        probe = Probe(service)
        with probe.watching():
            await _publish(service, number, at_a_time)
        publications = service.directory.counters.publications
        failures = publications.total() - publications["stored"]
        return Cpu(case, number, wall, process, thread, probe.in_flight, HeldUp.of(probe), grown, failures)


async def _publish(service: Service, number: int, at_a_time: int) -> list[float]:
    """Publish `number` infohashes. Return the time that this took: wall, and CPU of the process and the loop."""
    stored = service.directory.counters.publications["stored"]
    before = _clocks()
    for wanted in range(1, number + 1):
        service.directory.publish(os.urandom(20))
        await _stored(service, stored + wanted - at_a_time + 1)
    await _stored(service, stored + number)
    return [after - then for after, then in zip(_clocks(), before, strict=True)]


@dataclass(frozen=True)
class Paced:
    """A tracker's normal load: publications at a steady rate, with all limits."""

    publications: int
    process_cpu: float
    loop_cpu: float
    idle_process_cpu: float
    idle_loop_cpu: float
    in_flight: int
    to_one_node: int
    to_itself: int
    refusals: int
    delayed: int
    timeouts: int
    held_up: HeldUp
    backlog: int
    backlog_later: int


async def measure_paced(nodes: int, per_hour: float, minutes: float) -> Paced:
    """Measure CPU time in the first half, and the loop's delays in the second."""
    async with Network(nodes) as network, running(network, URL) as service:
        # In its first seconds the node is refreshed more often.
        await asyncio.sleep(10)
        before = _clocks()
        await asyncio.sleep(20)
        idle_process, idle_loop = _shares(before)
        probe = Probe(service)
        half = max(1, int(per_hour / 60 * minutes / 2))
        before = _clocks()
        await _publish_steadily(service, half, 3600 / per_hour)
        process, loop = _shares(before)
        with probe.watching():
            await _publish_steadily(service, half, 3600 / per_hour)
        stored, counters = service.directory.counters.publications, service.client.counters
        backlog = 2 * half - stored["stored"]
        await asyncio.sleep(SETTLE)
        return Paced(
            publications=2 * half,
            process_cpu=process,
            loop_cpu=loop,
            idle_process_cpu=idle_process,
            idle_loop_cpu=idle_loop,
            in_flight=probe.in_flight,
            to_one_node=probe.to_one_node,
            to_itself=probe.to_itself,
            refusals=counters.refusals,
            delayed=counters.delayed,
            timeouts=counters.timeouts,
            held_up=HeldUp.of(probe),
            backlog=backlog,
            backlog_later=2 * half - stored["stored"],
        )


async def _publish_steadily(service: Service, number: int, period: float) -> None:
    began = time.perf_counter()
    for done in range(1, number + 1):
        service.directory.swarm(os.urandom(20), peers=5, linked=False)
        await asyncio.sleep(began + done * period - time.perf_counter())


def _clocks() -> tuple[float, float, float]:
    """Return the time, the CPU time of all threads, and that of this thread."""
    return time.perf_counter(), time.process_time(), time.thread_time()


def _shares(before: tuple[float, float, float]) -> tuple[float, float]:
    """Return the CPU use since then in percent of a core: of all threads, and of this thread."""
    wall, process, thread = (after - then for after, then in zip(_clocks(), before, strict=True))
    return process / wall * 100, thread / wall * 100


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


# The command line


def main() -> None:
    """Run the command line."""
    options = _options()
    configure("warning", "text")
    report: dict[str, list[dict[str, Any]]] = {}
    for part in options.parts or PARTS:
        print(f"{part} (load average {os.getloadavg()[0]:.1f})")
        report[part] = [_flat(asdict(row)) for row in _measure(part, options)]
        print(table(report[part]), flush=True)
        for row in report[part]:
            if row.get("in_flight", 0) > MAX_IN_FLIGHT or row.get("to_one_node", 0) > NODE_RATE + BESIDES:
                print("more was sent than the limits allow\n")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def table(rows: list[dict[str, Any]]) -> str:
    """Format one line for each figure, one column for each measurement."""
    cells = [[name.replace("_", " "), *(_text(row[name]) for row in rows)] for name in rows[0]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return (
        "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in cells) + "\n"
    )


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: one
        for key, value in row.items()
        for name, one in (value.items() if isinstance(value, dict) else [(key, value)])
    }


def _text(value: object) -> str:
    return f"{value:,.{2 if abs(value) < 100 else 0}f}" if isinstance(value, float) else str(value)


def _measure(part: str, options: argparse.Namespace) -> list[Any]:
    if part == "latency":
        return uvloop.run(measure_latency(options.nodes, options.rounds))
    if part == "packets":
        return [row for nodes in options.packets_in for row in uvloop.run(measure_packets(nodes, options.rounds))]
    if part == "cpu":
        runs = [uvloop.run(measure_cpu(options.nodes, options.publications)) for _ in range(options.repeat)]
        return [row for run in runs for row in run]
    return [uvloop.run(measure_paced(2 * options.nodes, options.rate, options.minutes)) for _ in range(options.repeat)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dht", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"parts to measure: {', '.join(PARTS)}; without, all")
    parser.add_argument("--nodes", type=int, default=20, help="nodes of the DHT; the paced part uses twice as many")
    parser.add_argument(
        "--packets-in", type=int, nargs="+", default=[20], metavar="NODES", help="nodes of the DHTs of the packets part"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=50,
        help="rounds of the latency part, and lookups and publications of the packets part",
    )
    parser.add_argument("--publications", type=int, default=1000, help="publications of the CPU part")
    parser.add_argument("--rate", type=float, default=10_000, help="publications an hour of the paced part")
    parser.add_argument("--minutes", type=float, default=2, help="how long the paced part takes")
    parser.add_argument("--repeat", type=int, default=1, help="measurements of CPU and at a pace")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    return options


if __name__ == "__main__":
    main()
