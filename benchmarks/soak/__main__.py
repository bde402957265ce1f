"""Let clients come and go for an hour, and fail if the tracker's memory grows: `python -m benchmarks.soak`.

Three cases run at the same time, each with a tracker of its own: plain, TLS, and linked with a neighbour that is killed
every 30 seconds and comes back. The slope of the resident memory, the descriptors and tasks that are left, and the
counts of connections, swarms, peers and links after the last client are judged.
"""

import asyncio
import gc
import json
from pathlib import Path
from typing import Any, Final

import click
import uvloop

from benchmarks.servers import ServerFailed, raise_file_limit
from benchmarks.soak.cases import CASES, NEIGHBOUR_LIVES, Outcome, Plan, soak

MINUTES: Final = 60.0
MAX_STEP: Final = 60.0
STEPS: Final = 20
"""Lines of a run, at least."""

WARM_UP: Final = 1 / 6
"""The part of the run that does not count: of an hour, ten minutes."""


async def run(names: tuple[str, ...], plan: Plan) -> list[Outcome]:
    """Run cases at the same time. A case whose tracker fails has that as a fault."""

    async def one(name: str) -> Outcome:
        try:
            return await soak(name, plan, _report)
        except (ServerFailed, OSError, TimeoutError) as error:
            return Outcome(name, faults=[str(error) or type(error).__name__])

    return await asyncio.gather(*map(one, names))


def _report(case: str, row: dict[str, Any]) -> None:
    heap = f", heap {row['used'] / 2**20:5.1f} used {row['free'] / 2**20:5.1f} free" if "heap" in row else ""
    deaths = f", {row['deaths']} deaths" if row["deaths"] else ""
    click.echo(
        f"{row['hours'] * 60:5.1f} min  {case:6}  {row['resident']:6.1f} MiB ({row['anonymous']:5.1f} anonymous{heap}, "
        f"{row['mapped'] / 2**20 if 'mapped' in row else 0:.1f} mapped), {row['came']} clients{deaths}, "
        f"{row['objects']} objects, {row['descriptors']} descriptors, {sum(row['tasks'].values())} tasks"
    )


@click.command(help=__doc__)
@click.argument("names", nargs=-1, metavar="[CASE]...", type=click.Choice(CASES))
@click.option("--minutes", default=MINUTES, show_default=True, help="Duration; its first sixth does not count.")
@click.option("--clients", default=Plan.clients, show_default=True, help="Clients of each case at a time.")
@click.option("--lives", default=NEIGHBOUR_LIVES, show_default=True, help="Seconds of each life of the neighbour.")
@click.option("--limit", default=Plan.limit, show_default=True, help="MiB an hour that the memory may grow.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write all figures to this file.")
def main(names: tuple[str, ...], minutes: float, clients: int, lives: float, limit: float, file: Path | None) -> None:
    """Run cases, by default all, and exit with 1 if one fails."""
    raise_file_limit()
    gc.freeze()
    seconds = minutes * 60
    step = min(MAX_STEP, seconds / STEPS)
    plan = Plan(seconds, seconds * WARM_UP, step, clients=clients, lives=lives, limit=limit)
    outcomes = uvloop.run(run(names or CASES, plan))
    if file:
        file.write_text(json.dumps([one.as_json() for one in outcomes], indent=1) + "\n")
    for one in outcomes:
        slope = f"{one.trend.slope:+.2f} ± {one.trend.margin:.2f} MiB an hour" if one.trend else "no trend"
        click.echo(f"{one.case}: {slope}: " + ("; ".join(one.faults) or "passed"))
    if any(one.faults for one in outcomes):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
