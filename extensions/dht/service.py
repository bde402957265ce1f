"""The DHT in this process: the node, what is looked up and published, and what is kept over restarts."""

import asyncio
import os
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.cache import Cache, Known
from extensions.dht.directory import Directory
from extensions.dht.krpc.client import Client
from extensions.dht.krpc.pacing import NODE_RATE
from extensions.dht.node import Node
from extensions.dht.records import descriptor
from extensions.dht.records.bep5 import Bep5Fallback
from extensions.dht.settings import DhtSettings

STATE_FILE: Final = "dht.state"
CACHE_FILE: Final = "dht.sqlite"
LOOK_PERIOD: Final = 10.0
WAIT_PERIOD: Final = 1.0
HASTY_PERIOD: Final = 0.1
"""Seconds between two looks at the node, while it knows nobody, and soon after the start."""

HASTE: Final = 10.0
"""Seconds after the start during which the node is looked at often: each node found makes lookups better."""

SETTLED: Final = 8
"""Nodes in the routing table with which a lookup is as good as with more."""

WELL_KNOWN: Final = 100
"""Nodes in the routing table up to which those met in lookups are added."""

JOIN_PERIOD: Final = 30.0
SAVE_PERIOD: Final = 300.0
"""Seconds between two attempts to reach the bootstrap nodes, and between two savings."""

UNREACHABLE_AFTER: Final = 20.0
"""Seconds without a single node until that is worth a warning."""

T = TypeVar("T")


@dataclass(slots=True)
class _Watch:
    """What is to be kept in mind from one look at the node to the next. Times are the loop's."""

    reached: float
    """When another node was known last, or the start."""
    warned: bool = False
    joined: float = -inf
    saved: float = -inf
    """Never: saved for the first time as soon as there is something to save, as not every end is announced."""


class Service:
    """A member of the DHT with a directory. `url` is what is published, if anything is.

    Without `state_dir` nothing is kept. `clock` gives Unix seconds, which may be set back, `monotonic` seconds that
    may not.
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
    ) -> None:
        self.node = Node(settings.addresses, settings.bootstrap, settings.private)
        self.client = Client(self.node.contacts, settings.private, node_rate)
        self.reachable = asyncio.Event()
        """Set while other nodes are known."""
        self.settled = asyncio.Event()
        """Set once so many are known that lookups get no better by more."""
        parts = urlsplit(url)
        port = settings.announce_port or parts.port or (80 if parts.scheme == "ws" else 443)
        self._clock = clock
        self._hosts = settings.hosts
        self._state_dir = state_dir
        self._known: dict[bytes, Known] = {}
        self._cache: Cache | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._walks: set[asyncio.Task[Any]] = set()
        self._log = structlog.get_logger().bind(extension="dht")
        # Its own: what blocks must not be waited for by those who use the loop's executor.
        self._executor = ThreadPoolExecutor(1, "dht-files")
        self.directory = Directory(
            self.client,
            Bep5Fallback(self.client, descriptor.fetch, port, settings.private, clock, monotonic, Counter()),
            key,
            url,
            settings.publish,
            (bytes.fromhex(text) for text in settings.listed),
            settings.max_published,
            self._known,
            self.reachable.is_set,
            clock,
            monotonic,
            random.uniform,
        )

    async def start(self) -> None:
        """Start. Raises `OSError` if no socket can be had."""
        loop = asyncio.get_running_loop()
        await self.client.start(self._hosts)
        await self.node.start(await self._load())
        self._tasks = [loop.create_task(self.directory.run()), loop.create_task(self._tend())]

    async def stop(self) -> None:
        """Stop, and keep what was learned."""
        async with AsyncExitStack() as ending:
            # In reverse; each whatever becomes of those before it.
            ending.callback(self._executor.shutdown)
            # Whoever has cancelled the start may have left its thread at work.
            ending.push_async_callback(self._in_executor, self._cache.close if self._cache else bool)
            ending.push_async_callback(self.node.close)
            if self._tasks:
                ending.push_async_callback(self._save)
            ending.callback(self.client.close)
            ending.push_async_callback(self.directory.close)
            for task in (*self._tasks, *self._walks):
                task.cancel()
            await asyncio.gather(*self._tasks, *self._walks, return_exceptions=True)

    async def _tend(self) -> None:
        """Look after the node, until cancelled."""
        loop = asyncio.get_running_loop()
        watch, hasty_until = _Watch(loop.time()), loop.time() + HASTE
        while True:
            try:
                await self._look_after_node(watch, loop.time())
            except Exception:
                self._log.exception("dht_node_failed")
            if loop.time() < hasty_until:
                await asyncio.sleep(HASTY_PERIOD)
            else:
                await asyncio.sleep(LOOK_PERIOD if self.node.has_contacts else WAIT_PERIOD)

    async def _look_after_node(self, watch: "_Watch", now: float) -> None:
        if not self.node.ids:
            await self.node.state()
        await self.node.refresh()
        if self.node.size and not self.node.has_contacts:
            # Its ids have changed with its address.
            await self.node.state()
            await self.node.refresh()
        if self.node.has_contacts:
            watch.reached = now
            if watch.warned:
                self._log.info("dht_reachable", nodes=self.node.size)
                watch.warned = False
            if not self.reachable.is_set():
                self.reachable.set()
                self.directory.wake()
                self._meet_neighbours()
            if self.node.size >= SETTLED:
                self.settled.set()
        else:
            self.reachable.clear()
            if now - watch.joined > JOIN_PERIOD:
                watch.joined = now
                self.node.join()
            if now - watch.reached > UNREACHABLE_AFTER and not watch.warned:
                watch.warned = True
                self._log.warning("dht_unreachable", seconds=int(now - watch.reached))
        for address in self.client.take_heard() if self.node.size < WELL_KNOWN else []:
            self.node.add(address)
        if now - watch.saved > SAVE_PERIOD and self.node.has_contacts:
            watch.saved = now
            await self._save()

    def _meet_neighbours(self) -> None:
        """Look up the nodes closest to ours, which it should know, and which should know it."""
        for node_id in self.node.ids:
            walk = asyncio.get_running_loop().create_task(self.client.find_nodes(node_id))
            self._walks.add(walk)
            walk.add_done_callback(self._walks.discard)

    async def _load(self) -> bytes | None:
        """Open the cache; the node's saved state."""
        if self._state_dir is None:
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
        """Write what is kept over restarts; what cannot be written now, may be the next time."""
        state = await self.node.state()
        if self._state_dir is None:
            return
        try:
            await self._in_executor(_replace, self._state_dir / STATE_FILE, state)
        except OSError as error:
            self._log.warning("dht_state_not_saved", error=error.strerror)
        changed, self.directory.changed = self.directory.changed, {}
        if self._cache and changed:
            try:
                await self._in_executor(self._cache.save, list(changed.items()), self._clock())
            except sqlite3.Error as error:
                self._log.warning("dht_cache_not_saved", error=str(error))
                self.directory.changed = {**changed, **self.directory.changed}

    async def _in_executor(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)


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
