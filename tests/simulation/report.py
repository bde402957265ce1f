"""Reports of runs: figures as JSON, and as a table."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any, Final

from tests.simulation.measures import Measurable, Sample, extent, met_within
from tests.simulation.scenarios import Outcome

WITHIN: Final = (5, 10, 30, 60, 120)
"""Seconds after joining for which the share of peers is given that have met another one."""

ROWS: Final = 14
"""Samples in a table, at most."""

COLUMNS: Final[dict[str, Callable[[Sample], str]]] = {
    "seconds": lambda one: f"{one.seconds:.0f}",
    "met": lambda one: f"{one.met / max(1, one.peers):.1%}",
    "lonely": lambda one: str(one.lonely),
    "wait": lambda one: f"{one.wait:.0f}",
    "split": lambda one: f"{one.split}/{one.swarms}",
    "not all met": lambda one: str(one.unmet),
    "links": lambda one: _extent(one.links),
    "unlinked": lambda one: str(one.unlinked),
    "parts": lambda one: str(one.components),
    "degree": lambda one: _extent(one.degree),
    "dials": lambda one: str(one.dials),
    "gets": lambda one: str(one.gets),
    "puts": lambda one: str(one.puts),
}
"""The columns of the table of samples: see `Sample`. `degree` is that in one swarm, `parts` are those of all links."""


def figures(outcome: Outcome, cpu: float) -> dict[str, Any]:
    """Return the figures of a run as JSON; `cpu` is in seconds. `failures` is added when all trackers have stopped."""
    world = outcome.world
    end = outcome.samples[-1]
    traffic, dht = world.network.traffic, world.dht
    nodes = list(dht.nodes.values())
    return {
        "scenario": outcome.scenario,
        "seed": outcome.seed,
        "arguments": asdict(outcome.arguments),
        "goals": [asdict(goal) for goal in outcome.goals],
        "samples": [asdict(one) for one in outcome.samples],
        "met_within": {str(seconds): met_within(world, seconds) for seconds in WITHIN},
        "restarts": world.restarts,
        "links": {
            "open": end.open_links,
            "dials": end.dials,
            "dials_per_open_link": end.dials / max(1, end.open_links),
            "handshakes_a_second": rates(outcome.samples),
            "ended": dict(sum((tracker.ends for tracker in world.trackers), Counter[str]()).most_common()),
            "bytes": dict(traffic.bytes.most_common()),
            "messages": dict(traffic.messages.most_common()),
        },
        "dht": {
            "gets": dht.gets,
            "puts": dht.puts,
            "refused_puts_at_nodes": dht.conflicts,
            "lost_queries": dht.lost,
            "queries_over_the_rate": sum(node.dropped for node in nodes),
            "bytes_a_node": extent(node.bytes_sent for node in nodes if node.bytes_sent),
            "bytes_a_second_of_the_busiest_node": max((node.bytes_sent for node in nodes), default=0) / world.age,
            "most_bytes_in_a_second": max((node.busiest for node in nodes), default=0),
        },
        "cpu_seconds": cpu,
        "cpu_seconds_a_tracker": cpu / len(world.trackers),
        "digest": traffic.digest,
    }


def table(run: dict[str, Any]) -> str:
    """Return the figures of a run as text."""
    samples = [Sample(**one) for one in run["samples"]]
    links, dht = run["links"], run["dht"]
    busiest = dht["bytes_a_second_of_the_busiest_node"]
    given = {name: value for name, value in run["arguments"].items() if value}
    lines = [
        f"{run['scenario']}, seed {run['seed']}: {', '.join(f'{name} {value}' for name, value in given.items())}",
        *aligned([list(COLUMNS), *([show(one) for show in COLUMNS.values()] for one in chosen(samples))]),
        "met within seconds of joining: "
        + ", ".join(f"{seconds} s {share:.1%}" for seconds, share in run["met_within"].items() if share is not None),
        f"dials: {links['dials']}, {links['dials_per_open_link']:.1f} for each open link; handshakes a second: at most "
        f"{links['handshakes_a_second'][0]:.0f}, in the end {links['handshakes_a_second'][1]:.1f}",
        f"ended: {_counts(links['ended'])}",
        f"bytes on links: {_counts(links['bytes'])}",
        f"messages: {_counts(links['messages'])}",
        f"DHT: {dht['gets']} gets, {dht['puts']} puts, {dht['refused_puts_at_nodes']} refused at single nodes; bytes a "
        f"node {_extent(dht['bytes_a_node'])}, of the busiest {busiest:.0f} a second, "
        f"at most {dht['most_bytes_in_a_second']}; queries over the rate: {dht['queries_over_the_rate']}",
        f"CPU: {run['cpu_seconds']:.1f} s, {run['cpu_seconds_a_tracker']:.3f} s a tracker; restarts: {run['restarts']}",
        f"digest: {run['digest']}",
        *([f"FAILURES: {_counts(run['failures'])}"] if any(run["failures"].values()) else []),
        *(
            f"{'reached' if goal['is_reached'] else 'MISSED '}  {goal['text']}: {goal['measured']}"
            for goal in run["goals"]
        ),
    ]
    return "\n".join(lines) + "\n"


def comparison(run: dict[str, Any], world: Measurable) -> str:
    """Return the figures of a simulated run, and those of a world of real trackers below each."""
    simulated = [Sample(**one) for one in run["samples"]]
    rows = [["", *COLUMNS]]
    for one in chosen(simulated)[::2]:
        at_that_time = next((other for other in world.samples if other.seconds >= one.seconds - 1), world.samples[-1])
        rows += [
            [name, *(show(which) for show in COLUMNS.values())]
            for name, which in (("simulated", one), ("real", at_that_time))
        ]
    lines = aligned(rows)
    for seconds in WITHIN[:3]:
        shares = run["met_within"][str(seconds)], met_within(world, seconds)
        texts = ["-" if share is None else f"{share:.1%}" for share in shares]
        lines.append(f"met within {seconds} s: simulated {texts[0]}, real {texts[1]}")
    return "\n".join(lines) + "\n"


def chosen(samples: Sequence[Sample]) -> list[Sample]:
    """Return some of the samples: dense in the beginning, where most happens, and the last one."""
    step = 1
    while len(samples) > ROWS:
        # Of the second half, every other one.
        half = max(1, ROWS // 2 - step)
        samples = [*samples[:half], *samples[half:-1:2], samples[-1]]
        step += 1
    return list(samples)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines, the columns aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def rates(samples: Sequence[Sample]) -> tuple[float, float]:
    """Return the greatest and the last number of handshakes a second."""
    found = [(new.connected - old.connected) / (new.seconds - old.seconds) for old, new in pairwise(samples)]
    first = samples[0].connected / samples[0].seconds
    return max([first, *found]), found[-1] if found else first


def _extent(numbers: Iterable[float]) -> str:
    return "/".join(f"{number:.0f}" for number in numbers)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in counts.items() if number) or "none"
