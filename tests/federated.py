"""Trackers that federate, each in its own process, in a DHT of their own."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import combinations
from pathlib import Path
from typing import Self

from extensions.identity import load_or_create, tracker_id
from tests.client import Json, eventually, raw_client
from tests.conftest import TrackerProcess, environment, free_port
from tests.private_dht import PrivateDht

PATIENCE = 30.0


class Federation:
    """Starts trackers. Each has a port, and by it a URL and a state directory."""

    def __init__(self, directory: Path, dht: PrivateDht) -> None:
        self.directory = directory
        self.dht = dht
        self.started: list[TrackerProcess] = []

    async def start(
        self,
        port: int = 0,
        in_dht: bool = True,
        announce_port: int = 0,
        page: dict[str, object] | None = None,
        workers: int = 1,
        **settings: object,
    ) -> TrackerProcess:
        """Start a tracker; on the port of one that has ended, it is the same one. `settings` are of the extension.

        The peers of a swarm stay at the workers that accept their connections.
        """
        port = port or free_port()
        server = {"state_dir": str(self.directory / str(port)), "public_url": self.url_at(port), "group_swarms": False}
        env = {
            **environment("server", **server),
            **environment("extensions.dht", enabled=in_dht, announce_port=announce_port, **self.dht.settings),
            **environment("page", **(page or {})),
            **environment("extensions.federation", enabled=True, allow_private_addresses=True, **settings),
        }
        arguments = () if workers == 1 else ("--workers", str(workers))
        self.started.append(await TrackerProcess.start(*arguments, port=port, env=env))
        return self.started[-1]

    async def start_linked(self, count: int) -> list[TrackerProcess]:
        """Start some at once, and wait until they have found each other."""
        trackers = await asyncio.gather(*(self.start() for _ in range(count)))
        await self.linked(*trackers)
        return trackers

    async def linked(self, *trackers: TrackerProcess) -> None:
        """Wait until each two of these have a link."""

        async def are_linked() -> bool:
            tables = dict(zip(map(self.id_of, trackers), await asyncio.gather(*map(links, trackers)), strict=True))
            # Where both have dialed at once, one link of two goes.
            return all(
                {tables[one].get(other, {}).get("direction"), tables[other].get(one, {}).get("direction")}
                == {"dialed", "accepted"}
                for one, other in combinations(tables, 2)
            )

        await eventually(are_linked, PATIENCE)

    @staticmethod
    def url_at(port: int) -> str:
        """Return the URL of the tracker on a port."""
        return f"ws://127.0.0.1:{port}"

    def id_of(self, tracker: TrackerProcess) -> str:
        """Return a tracker's id."""
        return tracker_id(load_or_create(self.directory / str(tracker.port)))


@asynccontextmanager
async def federation(directory: Path, nodes: int = 8) -> AsyncIterator[Federation]:
    """Yield a DHT with trackers. In the end, each must stop with code 0 and have logged no complaint."""
    async with PrivateDht(nodes) as dht:
        federation = Federation(directory, dht)
        try:
            yield federation
        finally:
            codes = await asyncio.gather(*(tracker.stop() for tracker in federation.started))
        assert [line for tracker in federation.started for line in tracker.complaints()] == []
        assert all(code in (0, -signal.SIGKILL) for code in codes), codes


async def links(tracker: TrackerProcess) -> dict[str, Json]:
    """Return a tracker's open links with their counters, by the other's id."""
    return {link["tracker"]: link for link in (await tracker.stats())["federation"]}


async def counted(tracker: TrackerProcess, info_hash: str, *, complete: int, incomplete: int) -> None:
    """Wait until a tracker counts so many peers of a swarm, remote ones included."""
    expected = {"complete": complete, "incomplete": incomplete}
    counts: Json = {}
    async with raw_client(tracker.url) as client:

        async def is_so() -> bool:
            await client.send({"action": "scrape", "info_hash": info_hash})
            counts.update((await client.receive())["files"][info_hash])
            return expected.items() <= counts.items()

        with suppress(TimeoutError):
            await eventually(is_so, PATIENCE)
    assert expected.items() <= counts.items()


class Wire:
    """A TCP proxy to a port. It can hold back data, and cut connections."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._flows = asyncio.Event()
        self._flows.set()
        self._is_cut = False
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """The URL of this end."""
        return f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        """Hold back all data from now on."""
        self._flows.clear()

    def resume(self) -> None:
        """Forward data again."""
        self._flows.set()

    def cut(self) -> None:
        """End all connections, and those that come from now on."""
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        """Let connections come again."""
        self._is_cut = False

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        self.resume()
        await self._server.wait_closed()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, back}
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        self._writers -= {writer, back}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        writer.close()
