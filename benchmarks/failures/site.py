"""A cluster under load, and the figures of one failure."""

import asyncio
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from time import monotonic
from typing import Final

from benchmarks.failures.clients import Crowd, Probes
from benchmarks.failures.processes import START_TIMEOUT, BadLink, Nats, Process, Tracker, free_port, summary
from extensions.identity import load_or_create

BEFORE: Final = 4.0
"""Seconds of load before the failure."""
WATCHED: Final = (
    "peerservers_cluster_resyncs_total",
    "peerservers_cluster_refused_total",
    "peerservers_cluster_dropped_total",
    "peerservers_cluster_left_total",
    "peerservers_dropped_total",
)


@dataclass
class Site:
    """Nodes, NATS servers, and clients.

    Attributes:
        settle: Seconds from the end of the failure until its figures are complete.
        sick: Names of the nodes whose clients are meant to notice it.
        notes: What a failure itself has found.
        broke: The time at which the failure began.
        healed: The time at which it ended.
    """

    clients: int
    swarm_size: int
    settle: float
    directory: Path = field(default_factory=lambda: Path(mkdtemp(prefix="failures-")))
    nats: list[Nats] = field(default_factory=list)
    trackers: list[Tracker] = field(default_factory=list)
    links: dict[str, BadLink] = field(default_factory=dict)
    sick: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    ending: AsyncExitStack = field(default_factory=AsyncExitStack)
    broke: float = 0.0
    healed: float = 0.0

    def __post_init__(self) -> None:
        self._random = Random(4)
        self.crowd = Crowd(self.clients, self.swarm_size, self._choose)
        self.probes = Probes(lambda: [port for port in self._up() for _ in range(1 if len(self._up()) > 1 else 2)])
        load_or_create(self.directory / "key")

    def add(self, process: Process) -> None:
        """Start a process, and end it with this site."""
        process.start()
        self.ending.callback(process.end)

    def start_nats(self, count: int = 1) -> None:
        """Start the NATS servers."""
        routes = [free_port() for _ in range(count)] if count > 1 else []
        for number in range(count):
            server = Nats(self.directory, number, routes, routes[number] if routes else 0)
            self.nats.append(server)
            self.add(server)

    async def add_node(
        self, name: str, settings: Mapping[str, object], code: str = "", bad_link: bool = False
    ) -> Tracker:
        """Start a node with the key of the cluster, unless it has one."""
        servers = [server.url for server in self.nats]
        if bad_link:
            link = self.links[name] = BadLink(self.nats[0].port)
            await link.start()
            servers = [f"nats://127.0.0.1:{link.port}"]
        cluster = {"extensions.cluster.servers": servers, "extensions.cluster.key": "file"}
        tracker = Tracker(self.directory, name, {**cluster, **settings}, code)
        place = self.directory / name
        if not (place / "identity.pem").exists():
            shutil.copytree(self.directory / "key", place, dirs_exist_ok=True)
        self.trackers.append(tracker)
        self.add(tracker)
        return tracker

    def node(self, name: str) -> Tracker:
        """Return a node."""
        return next(tracker for tracker in self.trackers if tracker.name == name)

    async def until(self, condition: Callable[[], object], timeout: float = START_TIMEOUT) -> None:  # noqa: ASYNC109
        """Wait until a condition is true. `condition` may return an awaitable."""
        async with asyncio.timeout(timeout):
            while True:
                result = condition()
                if await result if hasattr(result, "__await__") else result:
                    return
                await asyncio.sleep(0.05)

    async def ready(self, nodes: int | None = None) -> None:
        """Wait until all nodes serve, and know each other."""
        for tracker in self.trackers:
            await self.until(tracker.is_ready)

            async def knows_all(tracker: Tracker = tracker) -> bool:
                return await tracker.nodes() == (nodes or len(self.trackers))

            await self.until(knows_all)

    async def measure(self, fail: Callable[["Site"], object]) -> dict[str, object]:
        """Let something fail; return what clients and operators see."""
        await self.crowd.start()
        await asyncio.sleep(BEFORE)
        before = [tracker.resident() for tracker in self.trackers]
        metrics = {tracker.name: await tracker.metrics() for tracker in self.trackers}
        for tracker in self.trackers:
            tracker.mark()
        self.crowd.reset()
        self.probes.start()
        await asyncio.sleep(1)
        start = self.broke = monotonic()
        await fail(self)  # type: ignore[misc]
        self.healed = self.healed or monotonic()
        await asyncio.sleep(self.settle)
        end = monotonic()
        self.crowd.settle_waits()
        ghosts = self._ghosts()
        await self.probes.stop()
        counts = self.crowd.counts
        healthy = [tracker.port for tracker in self.trackers if tracker.name not in self.sick]
        waits = self.crowd.waits
        figures: dict[str, object] = {
            "connections lost": counts["lost"],
            "connections refused": counts["refused"] + counts["connect_timeout"],
            "announces": counts["announces"],
            "slow replies": counts["slow"],
            "longest wait, healthy nodes": round(max((waits.get(port, 0.0) for port in healthy), default=0.0), 2),
            "longest wait": round(max(waits.values(), default=0.0), 2),
            "offers lost": self.crowd.lost_offers(start - 1, end - 2),
            "offers lost by second": self.crowd.lost_by_second(start, end - 2),
            "offers": counts["offers"],
            "offers twice": counts["offers_twice"],
            "failures": counts["failures"],
            "answers lost": counts["offers"] - counts["answers"],
            "meet again, from the begin": _round(self.probes.seconds_until_meeting(self.broke + 0.05)),
            "meet again, from the end": _round(self.probes.seconds_until_meeting(self.healed)),
            "longest meeting of a pair of that time": _round(self.probes.longest(self.broke, self.healed)),
            "pairs that never met": self.probes.never(start - 1, end - 3),
            "ghosts": ghosts,
            "close codes": {key: value for key, value in counts.items() if key.startswith("code_")},
            "own lag": round(self.crowd.lag, 2),
        }
        figures["memory growth"] = [
            round(tracker.resident() - was, 1) for tracker, was in zip(self.trackers, before, strict=False)
        ]
        figures["log"], figures["tracebacks"] = {}, 0
        changes: dict[str, Counter[str]] = {}
        for tracker in self.trackers:
            events, tracebacks = summary(tracker.lines())
            figures["log"][tracker.name] = dict(events)  # type: ignore[index]
            figures["tracebacks"] += tracebacks  # type: ignore[operator]
            now = await tracker.metrics()
            changes[tracker.name] = Counter(
                {
                    key.removeprefix("peerservers_"): int(value - metrics.get(tracker.name, Counter())[key])
                    for key, value in now.items()
                    if key.startswith(WATCHED) and value > metrics.get(tracker.name, Counter())[key]
                }
            )
        figures["metrics"] = {name: dict(change) for name, change in changes.items() if change}
        figures["notes"] = self.notes
        await self.crowd.stop()
        return figures

    async def close(self) -> None:
        """End everything."""
        await self.crowd.stop()
        await self.probes.stop()
        await self.ending.aclose()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _choose(self) -> int:
        return self._random.choice(self._up())

    def _up(self) -> Sequence[int]:
        return [tracker.port for tracker in self.trackers if tracker.is_up]

    def _ghosts(self) -> dict[str, list[int]]:
        """Return for each node the differences of the counts in the newest replies from the truth, if there are any."""
        truth = self.crowd.truth()
        found: dict[str, list[int]] = {}
        for tracker in self.trackers:
            wrong = {
                client.info_hash: client.total - truth[client.info_hash]
                for client in self.crowd.clients
                if client.port == tracker.port and client.transport and client.total != truth[client.info_hash]
            }
            if wrong:
                found[tracker.name] = list(wrong.values())
        return found


def _round(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
