"""Simulate many trackers in virtual time.

The trackers are the product's own classes; sockets, DHT nodes and clients are models. With the same seed and arguments,
a run goes the same way again. docs/simulation.md tells more.
"""

import argparse
import asyncio
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import structlog

from tests.simulation import clock
from tests.simulation.plot import plot
from tests.simulation.report import comparison, figures, table
from tests.simulation.scenarios import SCENARIOS, Arguments, Outcome

SENSIBLE: Final[dict[str, dict[str, Any]]] = {
    "small-swarms": {"max_links": 30},
    "popular": {"trackers": 200, "within": 20.0},
    "cold": {},
    "hostile": {},
    "partition": {},
    "full": {},
    "one-place": {},
    "life": {},
}
"""The scenarios that run by default, with some of their arguments: they take about five minutes."""


def main() -> None:
    """Run the command line. The exit code is 1 if a goal was missed."""
    options = _options()
    only_errors()
    seed = options.seed
    arguments = Arguments(**{name: value for name, value in vars(options).items() if name in Arguments.__annotations__})
    runs = []
    for name in options.scenario or SENSIBLE:
        own = {} if options.scenario else SENSIBLE[name]
        runs.append(simulate(name, replace(arguments, **own), seed))
        print(table(runs[-1]), flush=True)
        if name == "validate":
            # Imported here, because it needs libtorrent.
            from tests.simulation.real import live

            used = runs[-1]["arguments"]
            print("The same with real trackers, which takes as long:", flush=True)
            world = asyncio.run(live(used["trackers"], used["infohashes"], used["spread"], used["seconds"]))
            print(comparison(runs[-1], world), flush=True)
        if options.json:
            # After each scenario, so that an interrupted run leaves its results.
            options.json.write_text(json.dumps(runs, indent=2) + "\n")
    if options.plot:
        plot(runs, options.plot)
    if not all(goal["is_reached"] for run in runs for goal in run["goals"]):
        sys.exit(1)


def simulate(name: str, arguments: Arguments, seed: int) -> dict[str, Any]:
    """Run a scenario and return its figures."""
    started = time.process_time()

    async def live() -> dict[str, Any]:
        outcome: Outcome = await SCENARIOS[name](arguments, seed)
        run = figures(outcome, time.process_time() - started)
        # The end of all links is no part of the figures; its failures are.
        await outcome.world.stop()
        run["failures"] = dict(sum((tracker.failures for tracker in outcome.world.trackers), Counter[str]()))
        return run

    return clock.run(seed, live)


def only_errors() -> None:
    """Write the errors that the trackers log to standard error, and nothing else."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        processors=[structlog.processors.format_exc_info, _write],
    )


def _write(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    print(*(f"{name}: {value}" for name, value in event.items()), sep="\n", file=sys.stderr)
    raise structlog.DropEvent


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    width = max(map(len, SCENARIOS))
    parser.epilog = "scenarios:\n" + "\n".join(
        f"  {name:{width}}  {(run.__doc__ or '').strip().splitlines()[0]}" for name, run in SCENARIOS.items()
    )
    parser.add_argument("--scenario", nargs="+", choices=list(SCENARIOS), metavar="NAME", help="run these")
    parser.add_argument("--seed", type=int, default=1, help="the random numbers of the run (1)")
    parser.add_argument("--trackers", type=int, default=0, help="number of trackers")
    parser.add_argument("--infohashes", type=int, default=0, help="number of infohashes")
    parser.add_argument(
        "--spread", type=int, nargs=2, default=(2, 5), metavar=("MIN", "MAX"), help="trackers of an infohash (2 5)"
    )
    parser.add_argument("--peers", type=int, default=0, help="peers of an infohash at each of its trackers")
    parser.add_argument("--max-links", type=int, default=0, help="extensions.federation.max_links")
    parser.add_argument("--restarts", type=float, default=0.0, help="share of trackers restarted each minute")
    parser.add_argument("--churn", type=float, default=0.0, help="share of peers replaced each minute")
    parser.add_argument("--vandals", type=float, default=0.0, help="seconds for a vandal's attack on each record")
    parser.add_argument("--hostile", type=float, default=0.0, help="share of trackers that are hostile")
    parser.add_argument("--loss", type=float, default=0.0, help="share of lost packets on links")
    parser.add_argument("--slow", type=float, default=0.0, help="share of trackers with slow lines")
    parser.add_argument(
        "--dht-rate", type=float, default=8000.0, help="bytes a second that a node of the DHT sends (8000); 0: any"
    )
    parser.add_argument("--within", type=float, default=1.0, help="seconds in which all trackers start (1)")
    parser.add_argument("--seconds", type=float, default=0.0, help="virtual seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them, as SVG (or PNG, by the name)")
    return parser.parse_args()
