"""Nodes that come and go."""

import asyncio
import random
import time
from collections import deque
from math import log
from typing import Final

from tests.simulation.dht.mainline import Mainline

REMEMBERED: Final = 15 * 60.0
"""Seconds for which a dead node stays in the tables of others."""


class Churn:
    """Replaces nodes of a network at random moments, so that half of them live for `half_life` seconds or longer.

    A newcomer has another id and address, and stores nothing.
    """

    def __init__(self, network: Mainline, family: int, half_life: float) -> None:
        self._network = network
        self._family = family
        population = network.populations[family]
        self._live = [population.number_at(place) for place in range(len(population))]
        self._rate = log(2) / half_life
        self._forgotten: deque[tuple[float, int]] = deque()

    async def run(self) -> None:
        """Replace nodes, until cancelled."""
        while True:
            await asyncio.sleep(random.expovariate(self._rate * len(self._live)))
            self._replace()

    def _replace(self) -> None:
        population, now = self._network.populations[self._family], time.monotonic()
        place = random.randrange(len(self._live))
        number = self._live[place]
        self._network.died[self._family, number] = now
        self._forgotten.append((now + REMEMBERED, number))
        (self._live[place],) = population.grow(1)
        while self._forgotten and self._forgotten[0][0] <= now:
            number = self._forgotten.popleft()[1]
            population.remove(number)
            self._network.nodes.pop((self._family, number), None)
