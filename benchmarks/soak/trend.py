"""The slope of a series of measurements of memory, and how sure it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random
from statistics import median, quantiles
from typing import Final

BLOCK: Final = 5
"""Neighbouring points that are drawn together: noise of memory lasts for minutes."""

DRAWS: Final = 200
SURE: Final = 0.9
"""The probability with which the true slope is in the interval."""

Point = tuple[float, float]
"""A time and a value."""


@dataclass(frozen=True)
class Trend:
    """A slope, and the interval that contains the true one with the probability `SURE`."""

    slope: float
    low: float
    high: float

    @property
    def margin(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2


def trend(points: Sequence[Point]) -> Trend:
    """Return the trend of at least two points, in units of the value for each unit of time.

    The slope is that of Theil and Sen: the median of the slopes between all pairs of points. Unlike least squares, it
    does not change if a garbage collection or a burst of connections moves a few of the points.

    The interval comes from a bootstrap: the points' deviations from the line are drawn anew, in blocks because
    neighbouring deviations are alike.
    """
    slope = _slope(points)
    middle = median(value - slope * time for time, value in points)
    deviations = [value - slope * time - middle for time, value in points]
    random = Random(1)
    length = min(BLOCK, len(points))
    drawn = []
    for _ in range(DRAWS):
        noise: list[float] = []
        while len(noise) < len(points):
            start = random.randrange(len(points))
            noise += [deviations[(start + number) % len(points)] for number in range(length)]
        drawn.append(_slope([(time, slope * time + one) for (time, _), one in zip(points, noise, strict=False)]))
    cuts = quantiles(drawn, n=round(2 / (1 - SURE)))
    return Trend(slope, cuts[0], cuts[-1])


def _slope(points: Sequence[Point]) -> float:
    pairs = combinations(points, 2)
    return median((later[1] - earlier[1]) / (later[0] - earlier[0]) for earlier, later in pairs)
