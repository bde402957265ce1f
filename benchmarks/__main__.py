"""Compare Peerservers with other trackers: CPU time and latency of a message, and memory of a connection.

Each tracker runs in a process of its own, alone on one core, and the load runs on another core. npm's
bittorrent-tracker is measured if tests/prepare has installed it; aquatic_ws, wt-tracker and openwebtorrent-tracker are
measured if they are in PATH, and so is any tracker that `--server` names. Ratios compare figures of the same run. The
settings are the defaults, but the DHT is off; it has a benchmark of its own: python -m benchmarks.dht.
"""

import argparse
import gc
import json
import os
import sys
from pathlib import Path
from typing import Final

from benchmarks.goals import judged
from benchmarks.plot import plot
from benchmarks.report import as_json, table, verdicts
from benchmarks.servers import OURS, ServerFailed, known, raise_file_limit
from benchmarks.suite import Result, Suite, cores
from benchmarks.workload_list import WORKLOADS

QUICK_SECONDS: Final = 3.0
QUICK_WARM_UP: Final = 1.0


def main() -> None:
    """Run the command line."""
    options = _options()
    raise_file_limit()
    server_core, load_core = cores()
    if load_core is None:
        print("server and load share the only core: figures per second, and latencies, mean little")
    else:
        os.sched_setaffinity(0, {load_core})
    gc.disable()
    suite = Suite(
        commands=known() | dict(options.server),
        seconds=options.seconds or (QUICK_SECONDS if options.quick else 10.0),
        warm_up=QUICK_WARM_UP if options.quick else 3.0,
        repeat=options.repeat,
        quick=options.quick,
        server_core=server_core,
        load_core=load_core,
    )
    results: list[Result] = []
    for name in options.only or WORKLOADS:
        try:
            found = list(WORKLOADS[name](suite))
        except (ServerFailed, OSError, TimeoutError) as error:
            print(f"{name}: failed: {str(error) or type(error).__name__}\n", flush=True)
            continue
        results += found
        print(table(found), flush=True)
        if options.json:
            # After each workload, so that an interrupted run leaves its results.
            options.json.write_text(json.dumps(as_json(results, list(judged(results))), indent=2) + "\n")
    print(verdicts(judged(results)))
    if options.plot:
        plot(results, options.plot)
    if any("failed" in remark for one in results for remark in one.remarks):
        sys.exit(1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    width = max(map(len, WORKLOADS))
    parser.epilog = "workloads:\n" + "\n".join(
        f"  {name:{width}}  {(run.__doc__ or '').strip()}" for name, run in WORKLOADS.items()
    )
    parser.add_argument("--only", nargs="+", choices=list(WORKLOADS), metavar="WORKLOAD", help="measure only these")
    parser.add_argument("--quick", action="store_true", help="short measurements, to see whether something is broken")
    parser.add_argument("--seconds", type=float, help="how long one measurement takes (10; with --quick, 3)")
    parser.add_argument("--repeat", type=int, default=1, help="measurements of each; the medians are shown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them, as SVG (or PNG, by the name)")
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
