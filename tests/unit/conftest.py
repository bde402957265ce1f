"""What more than one file of tests needs."""

from collections.abc import AsyncIterator

import pytest

from tests.unit.dht.directory import Setting, running


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    """A directory that does what is due."""
    async with running(Setting()) as one:
        yield one
