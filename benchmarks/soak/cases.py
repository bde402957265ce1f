"""The cases of a soak: clients come and go, plain, over TLS, and with a neighbour that is killed again and again."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks.servers import ServerFailed, free_port
from benchmarks.soak.churn import Churn
from benchmarks.soak.trend import Trend, trend
from benchmarks.soak.watched import POLL, Neighbour, Watched, watched
from tests.certificates import Pair

CASES: Final = ("plain", "tls", "linked")

NEIGHBOUR_LIVES: Final = 30.0
"""Seconds from a start of the neighbour until it is killed."""

SETTLE: Final = 60.0
"""Seconds in which everything must be gone after the last client and the neighbour."""


@dataclass(frozen=True)
class Plan:
    """The times of a soak in seconds, and its size.

    Args:
        seconds: The duration of the churn.
        warm_up: Seconds at the beginning that do not count.
        step: Seconds for each line of the report, and each point of the trend.
        samples: Samples of the memory in each step, whose median is the point.
        clients: Clients of each case at a time.
        lives: Seconds from a start of the neighbour until it is killed.
        limit: MiB an hour that the memory may grow.
    """

    seconds: float = 3600.0
    warm_up: float = 600.0
    step: float = 60.0
    samples: int = 12
    clients: int = 250
    lives: float = NEIGHBOUR_LIVES
    limit: float = 1.0


@dataclass
class Outcome:
    """The result of one case. `rows` has one dictionary for each step."""

    case: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    trend: Trend | None = None
    faults: list[str] = field(default_factory=list)
    """Why it has failed, in words."""

    def as_json(self) -> dict[str, Any]:
        """Return it for a JSON file."""
        return {**asdict(self), "trend": asdict(self.trend) if self.trend else None}


Report = Callable[[str, dict[str, Any]], None]
"""Takes the name of a case and the figures of a step."""


async def soak(case: str, plan: Plan, report: Report) -> Outcome:
    """Run one case. Raise `ServerFailed` if a tracker ends by itself."""
    outcome = Outcome(case)
    with TemporaryDirectory() as directory:
        place = Path(directory)
        pair = Pair(place, "127.0.0.1") if case == "tls" else None
        context = pair.client_context() if pair else None
        port = free_port()
        peers = [f"ws://127.0.0.1:{port}"] if case == "linked" else []
        async with watched(peers, pair.env if pair else {}) as tracker:
            await tracker.until_ready()
            before = tracker.descriptors(), (await tracker.probe())["tasks"]
            async with _neighbour(place, tracker, port, plan) if peers else _alone() as neighbour:
                await _churn(outcome, plan, tracker, neighbour, context, report)
            outcome.faults += await _left(tracker, before)
    judge(outcome, plan)
    return outcome


def judge(outcome: Outcome, plan: Plan) -> None:
    """Add the trend after the warm-up to an outcome, and a fault if the memory grows too fast or is too noisy.

    It grows too fast if all of the trend's interval is above the limit.
    """
    points = [(row["hours"], row["resident"]) for row in outcome.rows if row["hours"] * 3600 > plan.warm_up]
    if len(points) < 2:
        outcome.faults.append("the run was too short for a trend")
        return
    found = outcome.trend = trend(points)
    if found.low > plan.limit:
        outcome.faults.append(f"its memory grows by {found.slope:.2f} MiB an hour")
    elif found.high > plan.limit and found.margin > plan.limit:
        outcome.faults.append(f"its memory varies too much to tell: {found.slope:.2f} ± {found.margin:.2f} MiB an hour")


async def _churn(
    outcome: Outcome,
    plan: Plan,
    tracker: Watched,
    neighbour: Neighbour | None,
    context: ssl.SSLContext | None,
    report: Report,
) -> None:
    """Let clients come and go for the duration of the plan, and add a row for each step."""
    loop = asyncio.get_running_loop()
    churn = Churn([tracker.port, *([neighbour.port] if neighbour else [])], plan.clients, context)
    began = loop.time()
    try:
        for step in range(1, round(plan.seconds / plan.step) + 1):
            samples = []
            for sample in range(1, plan.samples + 1):
                due = began + plan.step * (step - 1 + sample / plan.samples)
                await asyncio.sleep(max(0.0, due - loop.time()))
                samples.append(tracker.memory())
            state = await tracker.probe()
            row = {
                "hours": (loop.time() - began) / 3600,
                "resident": median(one.resident for one in samples),
                "anonymous": median(one.anonymous for one in samples),
                "descriptors": tracker.descriptors(),
                "came": churn.came.total(),
                "ways": dict(churn.came),
                "received": churn.received,
                "deaths": neighbour.deaths if neighbour else 0,
                **state,
            }
            outcome.rows.append(row)
            report(outcome.case, row)
    finally:
        await churn.stop()


async def _left(tracker: Watched, before: tuple[int, dict[str, int]]) -> list[str]:
    """Wait until descriptors and tasks are those of the start and all counts are zero. Return the differences."""
    end = asyncio.get_running_loop().time() + SETTLE
    while True:
        descriptors, tasks = tracker.descriptors(), (await tracker.probe())["tasks"]
        counts = await tracker.counts()
        faults = [f"{name} is {number} in the end" for name, number in counts.items()]
        if descriptors > before[0]:
            faults.append(f"{descriptors} descriptors are open in the end, {before[0]} in the beginning")
        more = {name: number for name, number in tasks.items() if number > before[1].get(name, 0)}
        if more:
            faults.append(f"tasks are left: {more}")
        if not faults or asyncio.get_running_loop().time() > end:
            return faults
        await asyncio.sleep(POLL)


@asynccontextmanager
async def _alone() -> AsyncIterator[None]:
    yield None


@asynccontextmanager
async def _neighbour(place: Path, tracker: Watched, port: int, plan: Plan) -> AsyncIterator[Neighbour]:
    """Run a neighbour that is killed and started again. In the end it is dead."""
    neighbour = Neighbour(place, [f"ws://127.0.0.1:{tracker.port}"], port)

    async def live_and_die() -> None:
        while True:
            await neighbour.start()
            await asyncio.sleep(plan.lives)
            await neighbour.kill()

    lives = asyncio.ensure_future(live_and_die())
    try:
        yield neighbour
        if lives.done():
            raise ServerFailed(f"the neighbour: {lives.exception()}")
    finally:
        lives.cancel()
        with suppress(asyncio.CancelledError, ServerFailed):
            await lives
        await neighbour.kill()
