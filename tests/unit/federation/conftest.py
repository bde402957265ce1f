"""Fixtures for the tests of the exchange."""

import pytest

from tests.unit.federation.here import Here


@pytest.fixture
async def here() -> Here:
    return Here()
