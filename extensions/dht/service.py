"""The DHT in this process: the node, the client, the directory, and the files that survive restarts."""

import asyncio
import os
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Final, ParamSpec, Protocol, TypeVar
from urllib.parse import urlsplit

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.cache import Cache, Known
from extensions.dht.directory import Directory
from extensions.dht.krpc.client import Client
from extensions.dht.krpc.messages import Address, Contact
from extensions.dht.krpc.pacing import NODE_RATE
from extensions.dht.krpc.schedule import LookupLimits
from extensions.dht.krpc.scheduler import Scheduler
from extensions.dht.lock import FileLock
from extensions.dht.node import Node, families_of
from extensions.dht.reachability import WATCH_PERIOD, Reachability, Watch
from extensions.dht.records import descriptor
from extensions.dht.records.bep5 import Bep5Fallback, Fetch
from extensions.dht.settings import DhtSettings
from tracker.extension import BackgroundTasks, parse_info_hash, swarm_key

STATE_FILE: Final = "dht.state"
CACHE_FILE: Final = "dht.sqlite"
REFRESH_PERIOD: Final = 10.0
WAIT_PERIOD: Final = 1.0
HASTY_PERIOD: Final = 0.1
"""Seconds between two refreshes of the node: normally, while no other node answers, and soon after the start."""

HASTE: Final = 10.0
"""Seconds after the start with frequent refreshes, because each node found makes lookups better."""

SETTLED: Final = 8
"""With this many nodes in the routing table, lookups get no better by more of them."""

WELL_KNOWN: Final = 100
"""Nodes met in lookups are added to the routing table until it has this many."""

KNOWN_AGAIN: Final = 16
"""Nodes of each address family that are added to an empty routing table when an outage ends."""

MEASURES: Final = 8
MEASURE_PERIOD: Final = 600.0
"""Measurements of the DHT's size as soon as it is reachable, and seconds between two later ones."""

JOIN_PERIOD: Final = 30.0
"""Seconds between two attempts to reach the bootstrap nodes."""

SAVE_PERIOD: Final = 300.0
"""Seconds between two saves."""

CLOCK_STEP: Final = 60.0
"""Seconds by which the clock must be set before all records are visited again."""

NEIGHBOURS_PERIOD: Final = 600.0
"""Seconds between two lookups of our own node id, at least: a network that comes and goes must not cause more."""

P = ParamSpec("P")
T = TypeVar("T")


class DhtNode(Protocol):
    """The part of `Node` that the service uses."""

    stats: dict[str, int]

    @property
    def addresses(self) -> list[Address]: ...
    @property
    def size(self) -> int: ...
    @property
    def ids(self) -> list[bytes]: ...
    @property
    def is_running(self) -> bool: ...
    @property
    def has_contacts(self) -> bool: ...

    def contacts(self, family: int) -> list[Contact]: ...
    def join(self) -> None: ...
    def add(self, address: Address) -> None: ...
    async def start(self, state: bytes | None) -> None: ...
    async def refresh(self) -> None: ...
    async def state(self) -> bytes: ...
    async def close(self) -> None: ...


@dataclass(slots=True)
class _Upkeep:
    """The state between two refreshes of the node. Times are the loop's."""

    joined: float = -inf
    """When the bootstrap nodes were last added."""
    saved: float = -inf
    """When files were last saved. The first save comes as soon as a node is known, as the process may be killed."""


class Service:
    """A member of the DHT with a directory that publishes `url`, unless that is empty.

    Without `state_dir` nothing survives a restart. `clock` gives Unix seconds, which may be set back; `monotonic` gives
    seconds that never go back. At most `node_rate` packets per second go to one node. `task_failures` counts the
    background tasks that fail, by name. `make_node` makes the node from the arguments of `Node`. `fetch` fetches the
    descriptor of the tracker at an address.
    """

    def __init__(
        self,
        settings: DhtSettings,
        key: Ed25519PrivateKey,
        url: str,
        state_dir: Path | None,
        clock: Callable[[], float] = time.time,
        node_rate: int = NODE_RATE,
        monotonic: Callable[[], float] = time.monotonic,
        limits: LookupLimits = LookupLimits(),  # noqa: B008  (frozen)
        task_failures: Counter[str] | None = None,
        make_node: Callable[[list[str], list[str], bool, Counter[str] | None], DhtNode] = Node,
        fetch: Fetch = descriptor.fetch,
    ) -> None:
        self.node = make_node(settings.addresses, settings.bootstrap, settings.private, task_failures)
        self._reachability = Reachability()
        self.reachable = self._reachability.event
        """Set while other nodes are known, and answer."""
        self.settled = asyncio.Event()
        """Set once `SETTLED` other nodes have been known."""
        scheduler = Scheduler(limits, self.reachable.is_set, monotonic)
        self.client = Client(self._contacts, settings.private, node_rate, scheduler)
        self._watch = Watch(self.client.messenger, self.node.contacts)
        self._outage_began = inf
        """When the last reply came before the outage (monotonic seconds)."""
        self._neighbours_sought = -inf
        parts = urlsplit(url)
        port = settings.announce_port or parts.port or (80 if parts.scheme == "ws" else 443)
        self._clock = clock
        self._monotonic = monotonic
        self._boot = clock() - monotonic()
        """The clock when the monotonic one was 0. It changes only if the clock is set."""
        self._hosts = settings.hosts
        self._is_private = settings.private
        self._state_dir = state_dir
        self._known: dict[bytes, Known] = {}
        self._cache: Cache | None = None
        self._lock: FileLock | None = None
        self._start_task = BackgroundTasks(task_failures).start
        self._upkeep: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._measuring: asyncio.Task[None] | None = None
        self._walks: set[asyncio.Task[Any]] = set()
        self._is_stopping = False
        self._log = structlog.get_logger().bind(extension="dht")
        # Its own executor: slow files must not delay other users of the loop's executor.
        self._executor = _FilesExecutor()
        self.directory = Directory(
            self.client,
            Bep5Fallback(self.client, fetch, port, settings.private, clock, monotonic, Counter()),
            scheduler,
            key,
            url,
            settings.publish,
            (swarm_key(parse_info_hash(text)) for text in settings.listed),
            settings.max_published,
            self._known,
            self.reachable.is_set,
            self._start_task,
            clock,
            monotonic,
            random.uniform,
        )

    async def start(self) -> None:
        """Start. Raises `OSError` if no socket can be opened."""
        self._loop = asyncio.get_running_loop()
        # Soon, because the messenger must go on if this fails.
        self.client.messenger.on_cut_off = lambda is_cut_off: self._loop.call_soon(self._on_cut_off, is_cut_off)
        await self.client.start(self._hosts)
        await self.node.start(await self._load())
        self._reachability.start(self._loop.time())
        self._upkeep = self._start_task("dht_upkeep", self._keep_up(), endless=True)
        self._watching = self._start_task("dht_watch", self._keep_watching(), endless=True)
        self._measuring = self._start_task("dht_measure", self._keep_measuring(), endless=True)

    async def stop(self) -> None:
        """Stop, and save the node's state and the cache."""
        self._is_stopping = True
        async with AsyncExitStack() as ending:
            # They run in reverse order; each runs even if one before it fails.
            ending.callback(self._shut_down_executor)
            if self._lock:
                # The port of the node is free by then, too.
                ending.push_async_callback(self._in_executor, self._lock.release)
            # In the executor, because a cancelled start may have left its thread at work on the cache.
            ending.push_async_callback(self._in_executor, self._cache.close if self._cache else bool)
            ending.push_async_callback(self.node.close)
            if self._upkeep:
                ending.push_async_callback(self._save)
            ending.callback(self.client.close)
            ending.push_async_callback(self.directory.close)
            tasks = [*self._walks, *(task for task in (self._upkeep, self._watching, self._measuring) if task)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_up(self) -> None:
        """Refresh the node from time to time, until cancelled."""
        loop = self._loop
        upkeep, hasty_until = _Upkeep(), loop.time() + HASTE
        while True:
            self._look_at_clock()
            self.directory.alarms.flush()
            try:
                await self._refresh_node(upkeep, loop.time())
            except Exception:
                self._log.exception("dht_node_failed")
            if loop.time() < hasty_until:
                await asyncio.sleep(HASTY_PERIOD)
            else:
                await asyncio.sleep(REFRESH_PERIOD if self.reachable.is_set() else WAIT_PERIOD)

    async def _keep_watching(self) -> None:
        """Ping nodes from time to time, until cancelled."""
        while True:
            await asyncio.sleep(WATCH_PERIOD)
            try:
                self._watch.look(self._loop.time())
                self._update_reachable()
            except Exception:
                self._log.exception("dht_watch_failed")

    async def _keep_measuring(self) -> None:
        """Measure the size of the DHT from time to time, until cancelled."""
        done = 0
        while True:
            await self.reachable.wait()
            try:
                await self.client.measure()
            except Exception:
                self._log.exception("dht_measure_failed")
            done += 1
            # A network that comes and goes must not cause more.
            await asyncio.sleep(MEASURE_PERIOD if done >= MEASURES else 0)

    def _contacts(self, family: int) -> list[Contact]:
        return self._watch.contacts(family)

    def _on_cut_off(self, is_cut_off: bool) -> None:
        if self._is_stopping:
            # Nothing would end a lookup that begins now.
            return
        if is_cut_off:
            self._outage_began = self._monotonic() - (self._loop.time() - self._heard())
        else:
            self.directory.on_outage_ended(self._outage_began)
            if not self.node.has_contacts:
                # All of its nodes are gone, as none has answered for minutes.
                for family in self.client.messenger.families:
                    for contact in self._watch.contacts(family)[:KNOWN_AGAIN]:
                        self.node.add(contact.address)
        self._update_reachable()

    def _heard(self) -> float:
        """Return when the last reply came, by the loop's clock."""
        messenger = self.client.messenger
        return max(messenger.reception(family).heard for family in messenger.families)

    def _update_reachable(self) -> None:
        messenger, now = self.client.messenger, self._loop.time()
        is_reachable = self._watch.knows_any and not messenger.is_cut_off
        families = sorted(families_of(self.node.addresses, self._is_private) or messenger.families)
        if self._reachability.update(is_reachable, self._heard(), now, self.node.size, families):
            self.client.scheduler.wake()
            if now - self._neighbours_sought > NEIGHBOURS_PERIOD:
                self._neighbours_sought = now
                self._find_neighbours()

    def _look_at_clock(self) -> None:
        boot = self._clock() - self._monotonic()
        if abs(boot - self._boot) > CLOCK_STEP:
            self._log.warning("clock_set", seconds=int(boot - self._boot))
            self._boot = boot
            self.directory.on_clock_set()

    async def _refresh_node(self, upkeep: _Upkeep, now: float) -> None:
        if not self.node.ids:
            await self.node.state()
        await self.node.refresh()
        if self.node.size and not self.node.has_contacts:
            # Its ids have changed with its address.
            await self.node.state()
            await self.node.refresh()
        self._update_reachable()
        if self.reachable.is_set() and self.node.size >= SETTLED:
            self.settled.set()
        if not (self.reachable.is_set() and self.node.has_contacts) and now - upkeep.joined > JOIN_PERIOD:
            upkeep.joined = now
            self.node.join()
        for address in self.client.take_responders() if self.node.size < WELL_KNOWN else []:
            self.node.add(address)
        if now - upkeep.saved > SAVE_PERIOD and self.node.has_contacts:
            upkeep.saved = now
            await self._save()

    def _find_neighbours(self) -> None:
        """Look up the nodes closest to ours: they and our node should know each other."""
        for node_id in self.node.ids:
            walk = self._start_task("dht_neighbours", self.client.find_nodes(node_id))
            self._walks.add(walk)
            walk.add_done_callback(self._walks.discard)

    async def _load(self) -> bytes | None:
        """Open the cache. Return the node's saved state, if there is one."""
        if self._state_dir is None:
            return None
        lock = self._lock = FileLock(self._state_dir, self._in_executor)
        if not await lock.acquire():
            self._log.warning("dht_files_in_use", directory=str(self._state_dir))
            self._state_dir = None
            return None
        self._cache = Cache(self._state_dir / CACHE_FILE)
        try:
            self._known.update(await self._in_executor(self._cache.open, self._clock()))
        except (OSError, sqlite3.Error) as error:
            self._cache = None
            self._log.warning("dht_cache_off", error=str(error))
        try:
            return await self._in_executor((self._state_dir / STATE_FILE).read_bytes)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._log.warning("dht_state_not_read", error=error.strerror)
            return None

    async def _save(self) -> None:
        """Write the files that survive restarts. Whatever cannot be written now is written the next time."""
        state = await self.node.state()
        if self._state_dir is None:
            return
        try:
            await self._in_executor(_replace, self._state_dir / STATE_FILE, state)
        except OSError as error:
            self._log.warning("dht_state_not_saved", error=error.strerror)
        knowledge = self.directory.knowledge
        changed, knowledge.changed = knowledge.changed, {}
        if self._cache and changed:
            try:
                await self._in_executor(self._cache.save, list(changed.items()), self._clock())
            except sqlite3.Error as error:
                self._log.warning("dht_cache_not_saved", error=str(error))
                knowledge.changed = {**changed, **knowledge.changed}

    async def _in_executor(self, function: Callable[..., T], *arguments: Any) -> T:
        # By the loop, because a simulation's loop has no threads.
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    def _shut_down_executor(self) -> None:
        # Do not wait for a disk that hangs.
        self._executor.shutdown(wait=not self._executor.is_busy)


class _FilesExecutor(ThreadPoolExecutor):
    """One thread for files, which knows whether a call has not ended."""

    def __init__(self) -> None:
        super().__init__(1, "dht-files")
        self._calls: set[Future[Any]] = set()

    @property
    def is_busy(self) -> bool:
        return bool(self._calls)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        call = super().submit(fn, *args, **kwargs)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return call


def _replace(file: Path, content: bytes) -> None:
    draft = file.with_suffix(".new")
    try:
        with open(draft, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
