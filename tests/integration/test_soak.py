"""The soak (`make soak`): a run of some seconds, and its verdicts about series of measurements."""

import asyncio
import json
import sys
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("picows", reason="`make soak` installs it")

from benchmarks.soak.cases import CASES, Outcome, Plan, judge
from benchmarks.soak.trend import trend
from tests.client import Json

PLAN = Plan()


async def test_a_short_soak(tmp_path: Path) -> None:
    file = tmp_path / "soak.json"
    # Of so short a run, no growth is a fault.
    options = ["--minutes", "0.12", "--clients", "20", "--lives", "2.5", "--limit", "1e6", "--json", str(file)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.soak", *options, stdout=asyncio.subprocess.PIPE
    )
    text = (await process.communicate())[0].decode()
    assert process.returncode == 0, text
    outcomes: list[Json] = json.loads(file.read_text())
    assert [one["case"] for one in outcomes] == list(CASES)
    for one in outcomes:
        last = one["rows"][-1]
        assert one["faults"] == []
        assert one["trend"]["low"] <= one["trend"]["slope"] <= one["trend"]["high"]
        assert last["came"] > 10
        assert last["resident"] > last["anonymous"] > 10
        assert last["received"] > last["came"]
        assert bool(last["deaths"]) is (one["case"] == "linked")
        assert f"{one['case']}: " in text


def hour(slope: float, noise: float, steps: int = 60) -> Outcome:
    """Return the outcome of an hour in which the memory grows by `slope` MiB. Its noise lasts for some minutes."""
    random = Random(5)
    rows = []
    deviation = 0.0
    for step in range(1, steps + 1):
        deviation = 0.7 * deviation + random.gauss(0, noise)
        # Until the caches are full, the memory grows anyway.
        resident = 60 + min(step, 10) + slope * step / steps + deviation
        rows.append({"hours": step / steps, "resident": resident})
    return Outcome("plain", rows)


@pytest.mark.parametrize(
    ("slope", "noise", "fault"),
    [
        (0.0, 0.05, ""),
        (0.8, 0.05, ""),
        (1.5, 0.05, "grows by 1."),
        (15.0, 0.05, "grows by 1"),
        (15.0, 2.0, "grows by 1"),
        (0.0, 10.0, "varies too much"),
    ],
)
def test_the_verdict_is_about_growth_beyond_the_noise(slope: float, noise: float, fault: str) -> None:
    outcome = hour(slope, noise)
    judge(outcome, PLAN)
    assert outcome.trend
    assert [fault in text for text in outcome.faults] == [True] * bool(fault)


def test_a_run_that_is_too_short_has_no_verdict() -> None:
    outcome = Outcome("plain", hour(0.0, 0.0).rows[:11])
    judge(outcome, PLAN)
    assert outcome.trend is None
    assert outcome.faults == ["the run was too short for a trend"]


def test_a_few_outliers_do_not_change_the_slope() -> None:
    points = [(step / 60, 50 + 0.5 * step / 60) for step in range(60)]
    points[10] = (points[10][0], 90)
    points[40] = (points[40][0], 20)
    assert trend(points).slope == pytest.approx(0.5)
