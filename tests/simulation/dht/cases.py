"""The parts of scenarios: arguments, cases with their figures, and goals."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Final

from tests.simulation.dht.experiment import Experiment, Figures, experiment
from tests.simulation.dht.mainline import Conditions

LOOKUP_COST: Final = 26
PUBLICATION_COST: Final = 40
"""Queries of a lookup and of a publication in a calm network, at most, in the mean."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of the command line."""

    nodes: int = 2_000_000
    """Live nodes of the network."""
    infohashes: int = 0
    """0: the default of the scenario."""
    only: str = ""
    """Run only those cases whose names contain this text."""


@dataclass(slots=True)
class Goal:
    """A bound for a figure."""

    text: str
    measured: str
    is_reached: bool


@dataclass(slots=True)
class Case:
    """One row of a report."""

    name: str
    figures: Figures = field(default_factory=Figures)
    goals: list[Goal] = field(default_factory=list)
    notes: dict[str, float] = field(default_factory=dict)
    """Further figures."""
    digest: str = ""

    def expect_found(self, least: float) -> None:
        """Set the goal that this share was found."""
        found, of = self.figures.found, self.figures.of
        self.goals.append(Goal(f"at least {least:.1%} found", f"{found} of {of}", found >= least * of))

    def expect_at_most(self, text: str, measured: float, most: float) -> None:
        """Set the goal that a figure is not greater than this."""
        self.goals.append(Goal(f"{text} at most {most:g}", f"{measured:.1f}", measured <= most))

    def expect_at_least(self, text: str, measured: float, least: float) -> None:
        """Set the goal that a figure is not less than this."""
        self.goals.append(Goal(f"{text} at least {least:g}", f"{measured:.3g}", measured >= least))


Scenario = Callable[[Arguments, int], AsyncIterator[Case]]
"""Yields its cases, each as soon as it has ended, from the arguments and a seed."""

Prepare = Callable[[Experiment, list[bytes]], Awaitable[None] | None]
"""Changes the network for these infohashes."""

NOTHING: Final[Prepare] = lambda _experiment, _info_hashes: None  # noqa: E731


def chosen(arguments: Arguments, name: str) -> bool:
    """Return whether a case is to run."""
    return arguments.only in name


def draw_infohashes(seed: int, count: int) -> list[bytes]:
    """Return random infohashes: the same in all cases of a scenario."""
    draw = random.Random(seed)
    return [draw.randbytes(20) for _ in range(count)]


async def publish_and_find(
    name: str,
    conditions: Conditions,
    seed: int,
    count: int,
    before: Prepare = NOTHING,
    between: Prepare = NOTHING,
) -> Case:
    """Let one tracker publish some infohashes, and another one look them up.

    `before` prepares the network before the publication, `between` before the lookups.
    """
    case = Case(name)
    info_hashes = draw_infohashes(seed, count)
    async with experiment(conditions, seed) as run:
        await prepare(before, run, info_hashes)
        writer = await run.start()
        reader = await run.start(is_published=False)
        await run.publish(writer, info_hashes, case.figures)
        await prepare(between, run, info_hashes)
        run.count_copies(info_hashes, case.figures)
        await run.look_up(reader, info_hashes, writer, case.figures)
        case.digest = run.network.digest
    return case


async def prepare(change: Prepare, run: Experiment, info_hashes: list[bytes]) -> None:
    """Call `change`, whether it is a coroutine or not."""
    waiting = change(run, info_hashes)
    if waiting is not None:
        await waiting


def line(case: Case) -> str:
    """Return the figures of a case as a line of text. Of most figures it has the mean, and then the extreme."""
    figures = case.figures

    def with_most(numbers: Sequence[float]) -> str:
        return f"{mean(numbers):.1f}/{max(numbers):.4g}" if numbers else "-"

    cells = {
        "found": f"{figures.found} of {figures.of}" if figures.of else "-",
        "copies": f"{mean(figures.copies):.1f}/{min(figures.copies)}" if figures.copies else "-",
        "queries a lookup": with_most(figures.lookups),
        "a publication": with_most(figures.publications),
        "seconds": with_most(figures.seconds),
        "in": " ".join(f"{where}:{number}" for where, number in sorted(figures.where.items())),
        **{name: f"{number:.4g}" for name, number in case.notes.items()},
    }
    text = ", ".join(f"{name} {cell}" for name, cell in cells.items() if cell not in ("", "-"))
    missed = [f"{goal.text}: {goal.measured}" for goal in case.goals if not goal.is_reached]
    verdict = f"MISSED {'; '.join(missed)}" if missed else "reached" if case.goals else "no goal"
    return f"  {case.name:30} {text} -- {verdict}"
