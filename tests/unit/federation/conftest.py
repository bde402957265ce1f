"""Fixtures for the tests of links."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.unit.federation.here import Here
from tests.unit.federation.network import Network


@pytest.fixture
async def here() -> Here:
    return Here()


@pytest.fixture
async def network() -> AsyncIterator[Network]:
    network = Network()
    yield network
    await asyncio.gather(*(mesh.stop() for mesh in network.meshes.values()))
    for task in network.tasks:
        task.cancel()
    for result in await asyncio.gather(*network.tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result
    assert not network.failures.total()
