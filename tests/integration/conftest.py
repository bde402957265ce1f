"""Trackers in this process, with extensions."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.client import PATIENCE
from tests.unit.fakes import peer_id
from tracker.config import load
from tracker.extension import Extension
from tracker.server import Server

FRIEND = peer_id(99)


class Running:
    """A tracker in this process, with extensions."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.url = f"ws://127.0.0.1:{server.addresses[0][1]}/"

    def extension(self, name: str) -> Any:
        """The extension object of that name."""
        return next(runner.extension for runner in self.server.extensions._runners if runner.name == name)


@pytest.fixture
async def serve() -> AsyncIterator[Any]:
    """Starts trackers with given extension classes."""
    running: list[Running] = []

    async def start(classes: dict[str, type[Extension]], **sections: dict[str, Any]) -> Running:
        settings = load(None, {"server": {"host": "127.0.0.1", "port": 0}, "extensions": sections})
        server = Server(settings, classes)
        await server.start()
        running.append(Running(server))
        return running[-1]

    yield start
    for tracker in running:
        await asyncio.wait_for(tracker.server.stop(), PATIENCE)
