"""The DHT in this process: the node, what is looked up and published, and what is kept over restarts."""

import asyncio
import os
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht import descriptor
from extensions.dht.cache import Cache, Known
from extensions.dht.client import Client
from extensions.dht.directory import Directory
from extensions.dht.node import Node
from extensions.dht.pace import NODE_RATE
from extensions.dht.second_path import SecondPath
from extensions.dht.settings import DhtSettings

STATE_FILE: Final = "dht.state"
CACHE_FILE: Final = "dht.sqlite"
LOOK_PERIOD: Final = 10.0
HASTY_PERIOD: Final = 0.25
"""Seconds between two looks at the node, and while it knows nobody."""

HASTE: Final = 10.0
"""Seconds after the start during which the node is looked at often."""

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


class Service:
    """A member of the DHT with a directory. `url` is what is published, if anything is.

    Without `state_dir` nothing is kept.
    """

    def __init__(
        self,
        settings: DhtSettings,
        key: Ed25519PrivateKey,
        url: str,
        state_dir: Path | None,
        clock: Callable[[], float] = time.time,
        node_rate: int = NODE_RATE,
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
        self._walks: list[asyncio.Task[Any]] = []
        self._log = structlog.get_logger().bind(extension="dht")
        # Its own: what blocks must not be waited for by those who use the loop's executor.
        self._executor = ThreadPoolExecutor(1, "dht-files")
        self.directory = Directory(
            self.client,
            SecondPath(self.client, descriptor.fetch, port, settings.private, clock, Counter()),
            key,
            url,
            settings.publish,
            (bytes.fromhex(text) for text in settings.listed),
            settings.max_published,
            self._known,
            self.reachable.is_set,
            clock,
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
        for task in (*self._tasks, *self._walks):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._walks, return_exceptions=True)
        await self.directory.close()
        self.client.close()
        if self._tasks:
            await self._save()
        await self.node.close()
        if self._cache:
            await self._in_executor(self._cache.close)
        self._executor.shutdown()

    async def _tend(self) -> None:
        """Look after the node, until cancelled."""
        loop = asyncio.get_running_loop()
        await self.node.state()
        # Saved for the first time as soon as there is something to save: not every end is announced.
        joined, saved, reached = -JOIN_PERIOD, -SAVE_PERIOD, loop.time()
        hasty_until, warned = loop.time() + HASTE, False
        while True:
            await self.node.refresh()
            now = loop.time()
            if self.node.size and not self.node.has_contacts:
                # Its ids have changed with its address.
                await self.node.state()
                await self.node.refresh()
            if self.node.has_contacts:
                if not self.reachable.is_set():
                    self._walks = [loop.create_task(self.client.find_nodes(one)) for one in self.node.ids]
                reached = now
                if warned:
                    self._log.info("dht_reachable", nodes=self.node.size)
                    warned = False
                self.reachable.set()
                if self.node.size >= SETTLED:
                    self.settled.set()
            else:
                self.reachable.clear()
                if now - joined > JOIN_PERIOD:
                    joined = now
                    await self.node.join()
                if now - reached > UNREACHABLE_AFTER and not warned:
                    warned = True
                    self._log.warning("dht_unreachable", seconds=int(now - reached))
            for address in self.client.take_heard() if self.node.size < WELL_KNOWN else []:
                self.node.add(address)
            if now - saved > SAVE_PERIOD and self.node.has_contacts:
                saved = now
                await self._save()
            # While the table fills, each node found makes lookups better.
            await asyncio.sleep(HASTY_PERIOD if now < hasty_until or not self.node.has_contacts else LOOK_PERIOD)

    async def _load(self) -> bytes | None:
        """Open the cache; the node's saved state."""
        if self._state_dir is None:
            return None
        cache = Cache(self._state_dir / CACHE_FILE)
        try:
            self._known.update(await self._in_executor(cache.open, self._clock()))
            self._cache = cache
        except (OSError, sqlite3.Error) as error:
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
