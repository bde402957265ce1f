"""Simulate the DHT of mainline in virtual time.

The trackers' DHT services are the product's own, with datagrams; millions of nodes answer these as libtorrent does, or
lie. With the same seed and arguments, a run goes the same way again. docs/simulation.md tells more.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tests.simulation import clock
from tests.simulation.command import only_errors
from tests.simulation.dht import crowds, kinds, rendezvous, scenarios, timed
from tests.simulation.dht.cases import Arguments, Case, Scenario, line

SCENARIOS: Final[dict[str, Scenario]] = {
    "calm": scenarios.calm,
    "sybils-before": scenarios.sybils_before,
    "sybils-after": scenarios.sybils_after,
    "sybils-all-slots": scenarios.sybils_all_slots,
    "sybils-fitting": scenarios.sybils_fitting,
    "sybils-ipv6": scenarios.sybils_ipv6,
    "chameleons": scenarios.chameleon_shares,
    "no-tokens": kinds.no_tokens,
    "refusals": kinds.refusals,
    "no-items": kinds.no_items,
    "silent-to-items": kinds.silent_to_items,
    "mixed": kinds.mixed,
    "locks-on-the-way": kinds.locks_on_the_way,
    "shown-to-writers": kinds.shown_to_writers,
    "disturbed": kinds.disturbed,
    "rendezvous-sybils": rendezvous.rendezvous_sybils,
    "rendezvous": rendezvous.rendezvous_sizes,
    "midnight": rendezvous.midnight,
    "liars-bep5": rendezvous.liars_bep5,
    "conflicts": timed.conflicts,
    "emptied": timed.emptied,
    "churn": timed.churn,
    "outages": timed.outages,
    "many-swarms": crowds.many_swarms,
}


def main() -> None:
    """Run the command line. The exit code is 1 if a goal was missed."""
    options = _options()
    only_errors()
    arguments = Arguments(options.nodes, options.infohashes, options.only)
    runs: list[dict[str, Any]] = []
    for name in options.scenario or SCENARIOS:
        print(f"{name}: {_first_line(SCENARIOS[name])}", flush=True)
        started = time.process_time()

        def on_case(case: Case, name: str = name) -> None:
            print(line(case), flush=True)
            runs.append({"scenario": name, "seed": options.seed, **asdict(arguments), **asdict(case)})
            if options.json:
                # After each case, so that an interrupted run leaves its results.
                options.json.write_text(json.dumps(runs, indent=2) + "\n")

        simulate(name, arguments, options.seed, on_case)
        print(f"  {time.process_time() - started:.0f} s of CPU time", flush=True)
    if not all(goal["is_reached"] for run in runs for goal in run["goals"]):
        sys.exit(1)


def simulate(name: str, arguments: Arguments, seed: int, on_case: Callable[[Case], None]) -> None:
    """Run a scenario. `on_case` is called with each case when it has ended."""

    async def live() -> None:
        async for case in SCENARIOS[name](arguments, seed):
            on_case(case)

    clock.run(seed, live)


def _first_line(scenario: Scenario) -> str:
    return (scenario.__doc__ or "").strip().splitlines()[0]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.dht", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    width = max(map(len, SCENARIOS))
    parser.epilog = "scenarios:\n" + "\n".join(
        f"  {name:{width}}  {_first_line(scenario)}" for name, scenario in SCENARIOS.items()
    )
    parser.add_argument("--scenario", nargs="+", choices=list(SCENARIOS), metavar="NAME", help="run these")
    parser.add_argument("--only", default="", metavar="TEXT", help="run only the cases whose names contain this")
    parser.add_argument("--seed", type=int, default=1, help="the random numbers of the run (1)")
    parser.add_argument("--nodes", type=int, default=2_000_000, help="live nodes (2000000)")
    parser.add_argument("--infohashes", type=int, default=0, help="number of infohashes of each case")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser.parse_args()
