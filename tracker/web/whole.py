"""The figures of the whole tracker: those of this process, and of the others of which an extension knows."""

import asyncio
from collections.abc import Mapping
from math import inf
from time import monotonic
from typing import Final, TypeVar

import msgspec
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from tracker.core.hub import Hub
from tracker.files import aside
from tracker.net.endpoint import Endpoint
from tracker.web.distinct import distinct
from tracker.web.gather import MAX_AGE, TIMEOUT, Others
from tracker.web.merging import Family, Merger, cumulative, pack, replaced
from tracker.web.past import PastCounters
from tracker.web.stats import Statistics, StatisticsCache
from tracker.worker import Inherited

T = TypeVar("T")

METRICS: Final = "metrics"
STATISTICS: Final = "statistics"
"""The kinds of questions to other processes."""

START: Final = "process_start_time_seconds"
SWARMS: Final = "peerservers_swarms"
"""Families that are no sums."""


class Numbers(msgspec.Struct, array_like=True):
    """The numbers of the page."""

    seeders: int
    leechers: int
    swarms: int
    connections: int


class _Metrics(msgspec.Struct, array_like=True):
    """The answer to `METRICS`. The worker is its place and number, or (-1, -1) for a process that is none."""

    worker: tuple[int, int]
    families: list[Family]
    swarms: bytes


class _Statistics(msgspec.Struct, array_like=True):
    """The answer to `STATISTICS`."""

    numbers: Numbers
    statistics: Statistics


_METRICS: Final = msgspec.msgpack.Decoder(_Metrics)
_STATISTICS: Final = msgspec.msgpack.Decoder(_Statistics)


class Whole:
    """The figures of the whole tracker, of which this process may be only a part.

    Swarms that several processes have are counted once, as `Distinct` does.
    """

    def __init__(
        self, hub: Hub, endpoint: Endpoint, registry: CollectorRegistry, others: Others, inherited: Inherited | None
    ) -> None:
        self._hub = hub
        self._endpoint = endpoint
        self._registry = registry
        self._others = others
        self._inherited = inherited
        self._past = PastCounters(inherited.worker.directory) if inherited else None
        self._statistics = StatisticsCache(hub)
        self._merged: tuple[float, list[Metric]] = (-inf, [])
        self._merging = asyncio.Lock()
        self._answers: tuple[Mapping[str, bytes], list[_Statistics]] = ({}, [])
        self._sum: tuple[Statistics, list[_Statistics], Statistics] | None = None
        others.on_ask(METRICS, self._answer_metrics)
        others.on_ask(STATISTICS, self._answer_statistics)

    async def metrics(self, everywhere: bool) -> list[Metric]:
        """Return the metrics of all workers of this machine, or of all processes everywhere.

        Those of everywhere are merged at most once in `MAX_AGE` seconds, however many requests there are. Those of the
        machine are not kept: of two workers, the second one asked must not answer with older counters.
        """
        if self._inherited is None and not (everywhere and self._others.count(everywhere)):
            return list(self._registry.collect())
        if not everywhere:
            return await self._merge(everywhere)
        async with self._merging:
            if monotonic() - self._merged[0] >= MAX_AGE:
                merged = await self._merge(everywhere)
                self._merged = monotonic(), merged
            return self._merged[1]

    async def _merge(self, everywhere: bool) -> list[Metric]:
        answers = {self._others.label: await self._own_metrics()}
        answers |= _decoded(await self._others.ask(METRICS, everywhere), _METRICS)
        past: list[list[Family]] = []
        if self._past and not everywhere:
            present = {answer.worker[1]: cumulative(answer.families) for answer in answers.values()}
            latest, past = await aside(self._past.exchange, present)
            answers = {label: answer for label, answer in answers.items() if answer.worker[1] in latest}
            for answer in answers.values():
                answer.families = replaced(answer.families, latest[answer.worker[1]])
        merger = Merger(self._others.rules)
        for label, answer in answers.items():
            merger.add(answer.families, label if everywhere else str(answer.worker[0]))
            await asyncio.sleep(0)
        for families in past:
            merger.add(families)
            await asyncio.sleep(0)
        return [*self._adjusted(merger.metrics(), answers, everywhere), *self._workers(answers, everywhere)]

    async def statistics(self) -> Statistics:
        """Return the statistics of all processes."""
        found = await self._other_statistics()
        return self._plus(await self._statistics.get(), found)

    async def numbers(self) -> Numbers:
        """Return the numbers of the page, of all processes."""
        found = await self._other_statistics()
        own = self._own_numbers()
        if not found:
            return own
        each = [own, *(answer.numbers for answer in found)]
        return Numbers(
            sum(one.seeders for one in each),
            sum(one.leechers for one in each),
            self._plus(await self._statistics_in_time(), found).torrents,
            sum(one.connections for one in each),
        )

    def save_counters(self) -> None:
        """Write the counters of this worker, because it ends. This may take long."""
        if self._past and self._inherited:
            families = cumulative(pack(self._registry.collect()))
            self._past.save(self._inherited.worker.number, families)

    def _own_numbers(self) -> Numbers:
        hub = self._hub
        return Numbers(hub.seeders, hub.leechers, len(hub.swarms) - hub.empty, len(self._endpoint.websockets))

    async def _statistics_in_time(self) -> Statistics:
        """Return statistics of this process: the latest ones if it takes too long to count anew."""
        try:
            return await asyncio.wait_for(self._statistics.get(), TIMEOUT / 4)
        except TimeoutError:
            return self._statistics.latest

    async def _own_metrics(self) -> _Metrics:
        worker = self._inherited.worker if self._inherited else None
        place = (worker.index, worker.number) if worker else (-1, -1)
        swarms = (await self._statistics_in_time()).swarms
        return _Metrics(place, pack(self._registry.collect()), swarms)

    async def _answer_metrics(self) -> bytes:
        return msgspec.msgpack.encode(await self._own_metrics())

    async def _answer_statistics(self) -> bytes:
        return msgspec.msgpack.encode(_Statistics(self._own_numbers(), await self._statistics_in_time()))

    async def _other_statistics(self) -> list[_Statistics]:
        answers = await self._others.ask(STATISTICS, everywhere=True)
        if answers is not self._answers[0]:
            self._answers = answers, list(_decoded(answers, _STATISTICS).values())
        return self._answers[1]

    def _plus(self, own: Statistics, found: list[_Statistics]) -> Statistics:
        """Return the sum, which takes milliseconds. With the same arguments, it is the one of the last time."""
        if not found:
            return own
        if self._sum is None or self._sum[0] is not own or self._sum[1] is not found:
            self._sum = own, found, own.plus([answer.statistics for answer in found])
        return self._sum[2]

    def _adjusted(self, metrics: list[Metric], answers: Mapping[str, _Metrics], everywhere: bool) -> list[Metric]:
        """Return merged metrics with the values that are no sums."""
        values = {}
        if len(answers) > 1:
            values[SWARMS] = float(distinct(answer.swarms for answer in answers.values()))
        if self._inherited and not everywhere:
            # That of the supervisor: a rolling restart is none of the tracker.
            values[START] = self._inherited.started
        for metric in metrics:
            if metric.name in values:
                metric.samples = [sample._replace(value=values[metric.name]) for sample in metric.samples]
        return metrics

    def _workers(self, answers: Mapping[str, _Metrics], everywhere: bool) -> list[Metric]:
        if self._inherited and not everywhere:
            count = self._inherited.worker.count
            present = len({answer.worker[0] for answer in answers.values()})
        else:
            count, present = 1 + self._others.count(everywhere), len(answers)
        return counts_of_workers(count, present)


def counts_of_workers(count: int, present: int) -> list[Metric]:
    """Return metrics of the number of processes, and of those that have answered."""
    return [
        GaugeMetricFamily("peerservers_workers", "Processes that should be in these metrics", count),
        GaugeMetricFamily(
            "peerservers_workers_missing",
            "Processes that did not answer within a second: their gauges are not in the sums",
            max(0, count - present),
        ),
    ]


def _decoded(answers: Mapping[str, bytes], decoder: msgspec.msgpack.Decoder[T]) -> dict[str, T]:
    """Return the valid answers by label. A process of another version may send others."""
    found = {}
    for label, answer in answers.items():
        try:
            found[label] = decoder.decode(answer)
        except msgspec.MsgspecError:
            structlog.get_logger().warning("gather_invalid", node=label)
    return found
