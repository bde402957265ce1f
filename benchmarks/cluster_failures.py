"""Let parts of a cluster fail under load, and count what clients and operators see.

python -m benchmarks.cluster_failures [--list] [SCENARIO...]

Real nodes, a real nats-server and real WebSocket clients run on this machine. Each scenario takes about half a minute.
"""

import asyncio
import json
from typing import Final

import click

from benchmarks.failures.scenarios import SCENARIOS
from benchmarks.failures.site import Site
from benchmarks.servers import raise_file_limit

MANY: Final = {"rolling-restart": 2000}
"""The numbers of clients in scenarios that need others than the option says."""


async def run(name: str, clients: int, swarm_size: int, settle: float) -> dict[str, object]:
    """Run a scenario."""
    site = Site(MANY.get(name, clients), swarm_size, settle)
    try:
        fail = await SCENARIOS[name](site)
        return await site.measure(fail)
    except BaseException:
        for tracker in site.trackers:
            click.echo(f"{tracker.name}: " + "\n".join(tracker.log.read_text().splitlines()[-20:]), err=True)
        raise
    finally:
        await site.close()


@click.command(help=(__doc__ or "").split("\n\n")[0])
@click.argument("names", nargs=-1, metavar="[SCENARIO]...")
@click.option("--clients", default=300, show_default=True, help="Number of clients.")
@click.option("--swarm-size", default=15, show_default=True, help="Clients of each swarm.")
@click.option("--settle", default=12.0, show_default=True, help="Seconds of load after a failure.")
@click.option("--list", "only_list", is_flag=True, help="List the scenarios.")
def main(names: tuple[str, ...], clients: int, swarm_size: int, settle: float, only_list: bool) -> None:
    """Run scenarios, by default all, and print their figures."""
    if only_list:
        click.echo("\n".join(SCENARIOS))
        return
    raise_file_limit()
    for name in names or SCENARIOS:
        try:
            figures = asyncio.run(run(name, clients, swarm_size, settle))
        except Exception as error:
            click.echo(f"{name}: {type(error).__name__}: {error}")
            continue
        click.echo(f"{name}\n" + "".join(f"  {key}: {json.dumps(value)}\n" for key, value in figures.items()))


if __name__ == "__main__":
    main()
