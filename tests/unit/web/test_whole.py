"""The figures of all processes, for many requests."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tracker.access.gate import ConnectionGate, SocketBudget
from tracker.access.lists import AccessLists
from tracker.core.hub import Hub
from tracker.core.rules import Rules
from tracker.net.endpoint import Endpoint
from tracker.settings import Access, Settings
from tracker.web.gather import Others
from tracker.web.whole import Whole


class _Counted(Collector):
    def __init__(self) -> None:
        self.collected = 0

    def collect(self) -> Iterator[Metric]:
        self.collected += 1
        yield CounterMetricFamily("x", "x", 1)


class _Twin:
    """Another process, which answers as this one does."""

    label = "own"

    def __init__(self) -> None:
        self._answers: dict[str, Callable[[], Awaitable[bytes]]] = {}

    def others(self, everywhere: bool) -> int:
        return 1

    async def ask(self, kind: str, timeout: float, everywhere: bool) -> Mapping[str, bytes]:  # noqa: ASYNC109
        return {"twin": await self._answers[kind]()}

    def on_ask(self, kind: str, answer: Callable[[], Awaitable[bytes]]) -> None:
        self._answers[kind] = answer


def made() -> tuple[Whole, _Counted]:
    settings = Settings()
    gate = ConnectionGate(settings, AccessLists(Access()), SocketBudget.of(1000, 0))
    counted, registry, others = _Counted(), CollectorRegistry(), Others()
    registry.register(counted)
    whole = Whole(Hub(Rules(), random.Random(1).random), Endpoint(settings.connections, gate), registry, others, None)
    others.add(_Twin())
    return whole, counted


async def test_many_requests_for_the_metrics_of_all_merge_once() -> None:
    whole, counted = made()
    before = counted.collected
    found = await asyncio.gather(*(whole.metrics(everywhere=True) for _ in range(50)))
    for _ in range(50):
        found.append(await whole.metrics(everywhere=True))
    values = {metric.name: metric.samples[0].value for metric in found[-1]}
    assert values["x"] == 2
    # One for this process and one for the other. A busy machine may take longer than the age of the answers.
    assert counted.collected - before <= 10


async def test_many_requests_for_statistics_add_up_once() -> None:
    whole, _ = made()
    first = await whole.statistics()
    found = [await whole.statistics() for _ in range(50)]
    assert len({id(one) for one in [first, *found]}) <= 5
