"""What is installed: compiled where it can be, and the same without."""

import importlib
import inspect
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.conftest import unavailable
from tests.integration.test_life import peerservers
from tracker import COMPILED

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPILED_MODULES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["modules"]


def files(directory: Path) -> set[str]:
    """What is in it, but for what Python makes there."""
    return {
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }


def test_what_the_tests_run_is_compiled() -> None:
    """`make test` builds it and puts it first on the path, for the trackers in their own processes, too."""
    if not COMPILED:
        unavailable("a compiled tracker, which make test makes,")
    assert peerservers("--version").stdout.rstrip().endswith(" (compiled)")


def test_the_core_is_compiled_but_for_modules_that_seldom_run() -> None:
    """A module that is split off another one is compiled like it."""
    core = {path.stem for path in (ROOT / "tracker" / "core").glob("*.py")}
    compiled = {Path(module).stem for module in COMPILED_MODULES if module.startswith("tracker/core/")}
    assert core - compiled == {"__init__", "observers", "overlap", "pending", "remote", "rules", "several"}


@pytest.mark.parametrize("path", COMPILED_MODULES)
def test_no_exception_is_compiled(path: str) -> None:
    """Their attributes would never be freed by mypyc before 2.4: of bad messages, anybody can send any number."""
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    own = [value for _, value in inspect.getmembers(module, inspect.isclass) if value.__module__ == module.__name__]
    assert not [value for value in own if issubclass(value, BaseException)]


def test_without_a_compiler_it_is_the_same_not_compiled(tmp_path: Path) -> None:
    """The build says so and goes on; the wheel is for any Python, and all files are in it."""
    build = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"CC": "/bin/false"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "the tracker is not compiled" in build.stdout + build.stderr
    (wheel,) = tmp_path.glob("*-py3-none-any.whl")
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    for package in ("tracker", "extensions"):
        assert files(installed / package) == files(ROOT / package)
    alone = {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(installed)}
    assert peerservers("--version", **alone).stdout.rstrip().endswith(" (not compiled)")
