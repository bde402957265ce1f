"""Fixtures that several modules of unit tests need."""

from collections.abc import AsyncIterator

import pytest

from tests.unit.dht.directory import Setting, running


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    """Return a directory whose schedule runs."""
    async with running(Setting()) as one:
        yield one
