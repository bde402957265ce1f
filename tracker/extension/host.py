"""Runs the extensions, and keeps them from harming the tracker and each other."""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from time import monotonic
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tracker.config import ConfigError
from tracker.core.hub import Hub
from tracker.core.remote import RemotePeers
from tracker.core.swarm import Peer, RemoteMember, Swarm
from tracker.extension.admission import FAILED, Admission, Admissions, Refusal
from tracker.extension.api import STOP_TIMEOUT, Extension, TrackerHandle
from tracker.extension.discovery import sections
from tracker.net.endpoint import Endpoint
from tracker.protocol.codec import detached
from tracker.protocol.messages import Answer, Offer
from tracker.reasons import DropReason
from tracker.settings import Settings
from tracker.web.stats import Tables

TURN: Final = 0.002
"""Seconds that an extension gets of the event loop before others have their turn."""

MAX_EVENTS: Final = 10_000
MAX_EVENT_BYTES: Final = 16 << 20
"""Offers and answers that may wait for a slow extension; what comes on top is dropped."""

_FAILED: Final = object()


class ExtensionHost:
    """Runs the extensions; the hub's observer."""

    def __init__(self) -> None:
        self.errors: Counter[str] = Counter()
        self._runners: list[_Runner] = []
        self._extensions: dict[str, Extension] = {}
        self._admissions: Admissions
        self.tables = Tables()
        """What extensions show on the page and in the statistics."""

    def load(
        self,
        classes: Mapping[str, type[Extension]],
        settings: Settings,
        hub: Hub,
        endpoint: Endpoint,
        registry: CollectorRegistry,
    ) -> None:
        """Make every enabled extension. Raises `ConfigError`."""
        foreign = RemotePeers(hub)
        for name, section in sections(classes, settings).items():
            if not section.enabled:
                continue
            own_registry = CollectorRegistry()
            tracker = TrackerHandle(name, settings, hub, foreign, endpoint, own_registry, self._extensions, self.tables)
            try:
                extension = classes[name](tracker, section)
            except ConfigError:
                raise
            except Exception as error:
                raise ConfigError(f"extensions.{name}: cannot be loaded: {error!r}") from error
            self._extensions[name] = extension
            self.errors[name] = 0
            registry.register(_Guarded(own_registry, name, self.errors))
            self._runners.append(_Runner(name, extension, tracker, self.errors, hub))
        if self._runners:
            hub.observer = self
        self._admissions = Admissions(hub, endpoint.send, settings.access.admission_timeout, registry)
        judges = [runner for runner in self._runners if runner.wants("admit")]
        if judges:
            self._admissions.begin(judges)

    def change(self, settings: Settings) -> None:
        """Use what can be changed of other settings while the tracker runs."""
        self._admissions.timeout = settings.access.admission_timeout

    def start(self) -> None:
        """Start all at once, in the background."""
        for runner in self._runners:
            runner.task = asyncio.get_running_loop().create_task(runner.run())

    async def stop(self, patience: float) -> None:
        """Stop all at once; those that take longer than `patience` seconds are left to themselves."""
        self._admissions.stop()
        await asyncio.gather(*(runner.stop(min(patience, STOP_TIMEOUT)) for runner in self._runners))

    def swarm_opened(self, swarm: Swarm) -> None:
        for runner in self._runners:
            runner.mark(swarm)

    def swarm_changed(self, swarm: Swarm) -> None:
        for runner in self._runners:
            runner.mark(swarm)

    def swarm_closed(self, swarm: Swarm) -> None:
        for runner in self._runners:
            runner.tracker.forget(swarm)
            runner.mark(swarm, closed=True)

    def offers_placed(self, member: RemoteMember, peer: Peer, offers: list[Offer]) -> None:
        for runner in self._runners:
            if runner.tracker.owns(member) and runner.wants("offers_placed"):
                runner.post("offers_placed", member.swarm, member, peer.peer_id, detached(offers), size=_size(offers))

    def offers_unplaced(self, swarm: Swarm, peer: Peer, offers: list[Offer]) -> None:
        for runner in self._runners:
            if runner.wants("offers_unplaced"):
                runner.post("offers_unplaced", swarm, swarm, peer.peer_id, detached(offers), size=_size(offers))

    def answer_unplaced(self, answer: Answer) -> bool:
        kept: Answer | None = None
        for runner in self._runners:
            if runner.wants("answer_unplaced"):
                kept = kept or Answer(
                    answer.info_hash, answer.peer_id, answer.to_peer_id, answer.sdp.copy(), answer.offer_id.copy()
                )
                runner.post("answer_unplaced", None, kept, size=len(memoryview(kept.sdp)))
        return kept is not None


class _Runner:
    """One extension: its task, and what waits for it.

    Offers and answers wait in a bounded queue. Of a swarm it is only marked that there is something to tell; what that
    is shows when its turn comes, so that no opening or closing is ever lost, and many changes come as one.
    """

    def __init__(self, name: str, extension: Extension, tracker: TrackerHandle, errors: Counter[str], hub: Hub) -> None:
        self.name = name
        self.extension = extension
        self.tracker = tracker
        self.task: asyncio.Task[None] | None = None
        self._errors = errors
        self._hub = hub
        self._log = structlog.get_logger().bind(extension=name)
        self._events: deque[tuple[str, Swarm | None, tuple[Any, ...], int]] = deque()
        self._bytes = 0
        self._marked: dict[Swarm, None] = {}
        self._told: set[Swarm] = set()
        self._something = asyncio.Event()
        self._started = asyncio.Event()
        self._failed = False
        self._overridden = {
            key for key, method in vars(Extension).items() if getattr(type(extension), key) is not method
        }
        self._wants_swarms = not self._overridden.isdisjoint(("swarm_opened", "swarm_changed", "swarm_closed"))

    def wants(self, event: str) -> bool:
        """Whether the extension cares for an event, and still runs."""
        return event in self._overridden and not self._failed

    def mark(self, swarm: Swarm, closed: bool = False) -> None:
        """There is something to tell of a swarm; of one that closes before it was told of, there is nothing."""
        if not self._wants_swarms or self._failed:
            return
        if closed and swarm not in self._told:
            self._marked.pop(swarm, None)
        else:
            self._marked[swarm] = None
            self._something.set()

    def post(self, event: str, swarm: Swarm | None, *arguments: Any, size: int) -> None:
        """Queue an event of `size` bytes, unless the extension is too far behind; it hears of `swarm` before."""
        if len(self._events) >= MAX_EVENTS or self._bytes + size > MAX_EVENT_BYTES:
            self._hub.tally.dropped[DropReason.EXTENSION_QUEUE_FULL] += 1
            return
        self._events.append((event, swarm, arguments, size))
        self._bytes += size
        self._something.set()

    async def admit(self, request: Admission) -> Refusal | None:
        """The extension's verdict on a peer, once it has started; one that is of no use lets nobody in."""
        await self._started.wait()
        if self._failed:
            return FAILED
        verdict = await self._guarded("admit", self._verdict, request)
        if verdict is _FAILED:
            return FAILED
        return None if verdict is None else Refusal(DropReason.ADMISSION_DENIED, verdict or "not admitted")

    async def run(self) -> None:
        """Start the extension and tell it what happens, until cancelled."""
        self._failed = not await self._call("start")
        self._started.set()
        if self._failed:
            self._events.clear()
            self._marked.clear()
            self.tracker.release()
            return
        while True:
            await self._something.wait()
            self._something.clear()
            turn_ends = monotonic() + TURN
            while self._marked or self._events:
                # In turns: neither may keep the other waiting for ever.
                if self._marked:
                    await self._tell(next(iter(self._marked)))
                if self._events:
                    event, swarm, arguments, size = self._events.popleft()
                    self._bytes -= size
                    if swarm in self._marked:
                        await self._tell(swarm)
                    await self._call(event, *arguments)
                if monotonic() > turn_ends:
                    # A long queue must not keep the tracker's own peers waiting.
                    await asyncio.sleep(0)
                    turn_ends = monotonic() + TURN

    async def stop(self, patience: float) -> None:
        """Stop telling and stop the extension."""
        if self.task is None or self._failed:
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        self.task.cancel()
        # Half of the time, so that one whose task does not end still gets its `stop`. Not `wait_for`, which waits for
        # the end of what it has cancelled, however long that takes.
        await asyncio.wait([self.task], timeout=patience / 2)
        stopping = loop.create_task(self._call("stop"))
        if not (await asyncio.wait([stopping], timeout=max(0.0, deadline - loop.time())))[0]:
            stopping.cancel()
            self._log.error("extension_stop_timed_out", seconds=patience)
        self.tracker.release()

    async def _tell(self, swarm: Swarm) -> None:
        del self._marked[swarm]
        is_open = self._hub.swarms.get(swarm.info_hash) is swarm
        if not is_open:
            self._told.discard(swarm)
            await self._call("swarm_closed", swarm)
            return
        if swarm not in self._told:
            self._told.add(swarm)
            await self._call("swarm_opened", swarm)
        await self._call("swarm_changed", swarm)

    async def _call(self, method: str, *arguments: Any) -> bool:
        """Call one of the extension's methods; whether it came back without an error."""
        if method not in self._overridden:
            return True
        return await self._guarded(method, getattr(self.extension, method), *arguments) is not _FAILED

    async def _verdict(self, request: Admission) -> str | None:
        verdict = await self.extension.admit(request)
        if verdict is not None:
            if not isinstance(verdict, str):
                raise TypeError(f"admit must return None or a text, not {verdict!r}")
            verdict.encode()  # what is not valid Unicode cannot be sent
        return verdict

    async def _guarded(self, name: str, method: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """What a method returns; `_FAILED` if it raised."""
        try:
            return await method(*arguments)
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            # Something that the extension awaited may have been cancelled, and not this task.
            if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                raise
            self._errors[self.name] += 1
            self._log.exception("extension_failed", on=name)
            return _FAILED


class _Guarded(Collector):
    """An extension's metrics: if they fail, the tracker's own are still to be had."""

    def __init__(self, registry: CollectorRegistry, name: str, errors: Counter[str]) -> None:
        self._registry = registry
        self._name = name
        self._errors = errors

    def collect(self) -> Iterable[Metric]:
        try:
            return list(self._registry.collect())
        except Exception:
            self._errors[self._name] += 1
            structlog.get_logger().exception("extension_failed", extension=self._name, on="metrics")
            return []


def _size(offers: list[Offer]) -> int:
    return sum(memoryview(offer.description.sdp).nbytes for offer in offers)
