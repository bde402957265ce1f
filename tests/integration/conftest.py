"""Trackers in this process, with extensions; members of a private DHT; and a tracker for hostile ones to link with."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from extensions.federation.extension import Federation
from tests.client import PATIENCE, RawClient, eventually
from tests.conftest import StartTracker, TrackerProcess
from tests.integration.dht import Members, members_of
from tests.integration.hostile import local_peer, start_target
from tests.integration.workers import StartWorkers, with_joined
from tests.private_dht import PrivateDht
from tests.unit.fakes import peer_id
from tracker.config import load
from tracker.extension.api import Extension
from tracker.reasons import CloseReason, DropReason, RejectReason
from tracker.server import Server

FRIEND = peer_id(99)


class Running:
    """A tracker in this process, with extensions."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.url = f"ws://127.0.0.1:{server.addresses[0][1]}/"

    def extension(self, name: str) -> Any:
        """The extension object of that name."""
        return self.server.extensions.extensions[name]


@pytest.fixture
async def serve() -> AsyncIterator[Any]:
    """Starts trackers with given extension classes, their sections, and other settings."""
    running: list[Running] = []

    async def start(
        classes: dict[str, type[Extension]], settings: dict[str, Any] | None = None, **sections: dict[str, Any]
    ) -> Running:
        chosen = {"server": {}, **(settings or {}), "extensions": sections}
        # Some extensions never come back, and need not be waited for long.
        chosen["server"] = {"host": "127.0.0.1", "port": 0, "shutdown_timeout": 0.5, **chosen["server"]}
        server = Server(load(None, chosen), classes)
        await server.start()
        running.append(Running(server))
        return running[-1]

    yield start
    for tracker in running:
        await asyncio.wait_for(tracker.server.stop(), PATIENCE)
        endpoint = tracker.server.endpoint
        assert endpoint.closed.keys() <= set(CloseReason)
        assert endpoint.rejected.keys() <= set(RejectReason)
        assert tracker.server.hub.counters.dropped.keys() <= set(DropReason)


StartServer = Callable[..., Awaitable[Server]]


@pytest.fixture
async def start_server() -> AsyncIterator[StartServer]:
    """Starts trackers in this process, whose counters can be looked into."""
    servers: list[Server] = []

    async def start(**sections: dict[str, Any]) -> Server:
        sections["server"] = {"host": "127.0.0.1", "port": 0, **sections.get("server", {})}
        server = Server(load(None, sections), {})
        servers.append(server)
        await server.start()
        return server

    yield start
    for server in servers:
        await asyncio.wait_for(server.stop(), PATIENCE)


Federate = Callable[..., Awaitable[Running]]


@pytest.fixture
def federate(serve: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Federate:
    """Starts a tracker with the extension `federation`, and settings of that."""

    async def start(name: str = "", **settings: Any) -> Running:
        """By another name it has another key."""
        monkeypatch.setenv("PEERSERVERS_SERVER__STATE_DIR", str(tmp_path / name))
        tracker: Running = await serve({"federation": Federation}, federation=settings)
        await eventually(lambda: tracker.extension("federation").mesh is not None)
        return tracker

    return start


@pytest.fixture
async def members(dht: PrivateDht) -> AsyncIterator[Members]:
    """Starts members of the DHT of a file's tests, and stops them."""
    async with members_of(dht) as members:
        yield members


@pytest.fixture
def start_workers(start_tracker: StartTracker, tmp_path: Path) -> StartWorkers:
    """Starts trackers with two workers."""

    async def start(*arguments: str, env: dict[str, str] | None = None, **options: Any) -> TrackerProcess:
        env = with_joined(tmp_path) | (env or {})
        return await start_tracker("--workers", "2", *arguments, env=env, **options)

    return start


@pytest.fixture
async def target(start_tracker: StartTracker, tmp_path: Path) -> TrackerProcess:
    """A tracker in its own process that others may link with."""
    return await start_target(start_tracker, tmp_path)


@pytest.fixture
async def local(target: TrackerProcess) -> AsyncIterator[RawClient]:
    """A peer of that tracker, which is served as ever when all is over."""
    async with local_peer(target) as client:
        yield client


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Reference cycles are not collected. In a tracker that has little to do, they stay for hours."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
