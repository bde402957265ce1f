"""A short run of each fuzz target, always the same one; `make fuzz` runs them for long."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import unavailable
from tests.fuzz.runner import run
from tests.fuzz.target import NAMES, load


@pytest.mark.parametrize("name", NAMES)
def test_a_short_run_finds_nothing(name: str, tmp_path: Path) -> None:
    if find_spec("atheris") is None:
        unavailable("atheris")
    runs = load(name).runs
    report = run(name, tmp_path, f"-runs={runs}", "-seed=1")
    assert report.find is None, report.output
    assert report.executions >= runs
    # The fuzzer sees the code: more of it is reached than by an empty input.
    assert report.coverage > 10
