"""What relaying costs in CPU time and memory, beside npm's bittorrent-tracker: `python -m benchmarks.relay`.

Each server runs alone on one core, and the load on another. Per second of the server's CPU time counts what the server
cost, not what the machine happened to give it, so these figures bear other programs beside them; messages a second and
latencies do not. Without `--rate`, every peer has a round under way at any time: the latencies are those of a server
that always has more to do, and grow with the number of sockets.

Memory per connection is what the server's resident memory grew by: `idle` once all are connected, `busy` after they
have announced for the whole run, what the server's allocator holds back included.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median, quantiles
from typing import Final

import uvloop

from benchmarks.load import Load
from benchmarks.servers import OURS, THEIRS, Running, ServerFailed, known, raise_file_limit, running

WARM_UP: Final = 3.0
"""Seconds of load before the measurement, for just-in-time compilers and buffers to settle."""

SETTLE: Final = 0.5

BUSY: Final = 0.95
"""Above this share of its core, a process is held up by it."""


@dataclass(frozen=True)
class Figures:
    """One server under one number of sockets."""

    messages_per_second: float
    messages_per_cpu_second: float
    user_us_per_message: float
    system_us_per_message: float
    latency_p50_ms: float
    latency_p99_ms: float
    base_mib: float
    idle_kib_per_connection: float
    busy_kib_per_connection: float
    server_cpu: float
    load_cpu: float
    lost: float


_COLUMNS: Final = {
    "messages_per_second": ("msg/s", ",.0f"),
    "messages_per_cpu_second": ("msg/CPU s", ",.0f"),
    "user_us_per_message": ("user µs", ".2f"),
    "system_us_per_message": ("sys µs", ".2f"),
    "latency_p50_ms": ("p50 ms", ".1f"),
    "latency_p99_ms": ("p99 ms", ".1f"),
    "base_mib": ("base MiB", ".1f"),
    "idle_kib_per_connection": ("idle KiB", ".1f"),
    "busy_kib_per_connection": ("busy KiB", ".1f"),
    "server_cpu": ("CPU", ".0%"),
    "load_cpu": ("load CPU", ".0%"),
    "lost": ("lost", ".0f"),
}
_WITHOUT_RATIO: Final = ("server_cpu", "load_cpu", "lost")


def main() -> None:
    """Run the command line."""
    options = _options()
    raise_file_limit()
    server_core, load_core = _cores()
    if load_core is not None:
        os.sched_setaffinity(0, {load_core})
    gc.disable()
    commands = known() | dict(options.server)
    results: dict[int, dict[str, Figures]] = {}
    try:
        for sockets in options.sockets:
            results[sockets] = {}
            for name, runs in _in_turns(commands, options.repeat, sockets, server_core, options.seconds, options.rate):
                results[sockets][name] = _median(runs)
            print(table(sockets, results[sockets], options.rate is None), flush=True)
    except ServerFailed as error:
        sys.exit(f"benchmarks.relay: {error}")
    if options.json:
        report = {sockets: {name: asdict(it) for name, it in rows.items()} for sockets, rows in results.items()}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def table(sockets: int, rows: Mapping[str, Figures], saturated: bool) -> str:
    """The figures of all servers, and those of each as multiples of bittorrent-tracker's."""
    cells = [[f"{sockets} sockets", *(title for title, _ in _COLUMNS.values())]]
    for name, row in rows.items():
        cells.append([name, *(format(getattr(row, key), form) for key, (_, form) in _COLUMNS.items())])
    theirs = rows.get(THEIRS)
    for name, row in rows.items():
        if theirs and row is not theirs:
            ratios = ["" if key in _WITHOUT_RATIO else _ratio(row, theirs, key) for key in _COLUMNS]
            cells.append([f"{name} / {THEIRS}", *ratios])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in cells]
    for name, row in rows.items():
        if row.load_cpu > BUSY > row.server_cpu:
            lines.append(f"{name}: the load generator was the bottleneck, the server could have sent more per second")
        elif saturated and max(row.load_cpu, row.server_cpu) < BUSY:
            lines.append(f"{name}: neither core was busy throughout, other programs took part of the time")
        if row.lost:
            lines.append(f"{name}: {row.lost:.0f} messages did not come, came malformed, or their sockets were closed")
    return "\n".join(lines) + "\n"


async def measure(server: Running, sockets: int, seconds: float, rate: float | None) -> Figures:
    """Load a server that has just started."""
    # What a server loads or compiles for its first clients is no cost of each.
    first = Load(20, None)
    await first.connect(server.port)
    await first.join()
    await first.disconnect()
    await asyncio.sleep(SETTLE)
    base = server.resident()

    load = Load(sockets, rate)
    await load.connect(server.port)
    await asyncio.sleep(SETTLE)
    idle = server.resident()
    await load.join()
    await load.start()
    await load.run(WARM_UP)

    load.latencies.clear()
    received, cpu, own_cpu, began = load.received, server.cpu(), time.process_time(), time.perf_counter()
    await load.run(seconds)
    elapsed = time.perf_counter() - began
    user, system = (after - before for after, before in zip(server.cpu(), cpu, strict=True))
    own_cpu = time.process_time() - own_cpu
    messages = load.received - received
    latencies = quantiles(load.latencies, n=100) if len(load.latencies) > 1 else [float("nan")] * 99

    await load.stop()
    closed = load.closed
    await asyncio.sleep(SETTLE)
    busy = server.resident()
    await load.disconnect()
    if not messages or not user + system:
        raise ServerFailed(f"{server.name} has relayed nothing")
    return Figures(
        messages_per_second=messages / elapsed,
        messages_per_cpu_second=messages / (user + system),
        user_us_per_message=user / messages * 1e6,
        system_us_per_message=system / messages * 1e6,
        latency_p50_ms=latencies[49] * 1e3,
        latency_p99_ms=latencies[98] * 1e3,
        base_mib=base / 1024,
        idle_kib_per_connection=(idle - base) / sockets,
        busy_kib_per_connection=(busy - base) / sockets,
        server_cpu=(user + system) / elapsed,
        load_cpu=own_cpu / elapsed,
        lost=load.lost + load.unexpected + closed,
    )


def _in_turns(
    commands: Mapping[str, str], repeat: int, sockets: int, core: int | None, seconds: float, rate: float | None
) -> list[tuple[str, list[Figures]]]:
    # In turns, so that what disturbs the machine for a while disturbs all servers.
    runs: dict[str, list[Figures]] = {name: [] for name in commands}
    for _ in range(repeat):
        for name, command in commands.items():
            with running(name, command, core) as server:
                runs[name].append(uvloop.run(measure(server, sockets, seconds, rate)))
            gc.collect()
    return list(runs.items())


def _median(runs: list[Figures]) -> Figures:
    return Figures(**{field.name: median(getattr(run, field.name) for run in runs) for field in fields(Figures)})


def _ratio(row: Figures, other: Figures, key: str) -> str:
    return f"{getattr(row, key) / getattr(other, key):.2f}" if getattr(other, key) else "-"


def _cores() -> tuple[int | None, int | None]:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("server and load share the only core: messages a second and latencies mean little")
        return None, None
    return cores[0], cores[1]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--sockets", type=int, nargs="+", default=[400, 4000], help="numbers of connections")
    parser.add_argument("--seconds", type=float, default=10, help="how long each measurement takes")
    parser.add_argument("--repeat", type=int, default=1, help="measurements of each; the medians are shown")
    parser.add_argument("--rate", type=float, help="announces a second of all peers together; without, all they can")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument(
        "--server",
        type=_server,
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help=f"another tracker to measure, or another command for {OURS}; {{port}} stands for its TCP port",
    )
    return parser.parse_args()


def _server(text: str) -> tuple[str, str]:
    name, equals, command = text.partition("=")
    if not (name and equals and "{port}" in command):
        raise argparse.ArgumentTypeError("must be NAME=COMMAND with {port} in the command")
    return name, command


if __name__ == "__main__":
    main()
