"""The core's operations, timed by pytest-benchmark: `pytest benchmarks/test_operations.py`."""

from typing import Any

import pytest

from benchmarks.operations import NAMES, operation


@pytest.mark.parametrize("name", NAMES)
def test_operation(benchmark: Any, name: str) -> None:
    assert benchmark(operation(name))
