"""The sans-I/O core alone: the time of each operation and, if valgrind is installed, its instructions."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.operations import NAMES
from benchmarks.servers import OURS, ServerFailed
from benchmarks.suite import Result, Suite
from benchmarks.valgrind import instructions

SELDOM: Final = 100
OFTEN: Final = 300
_ROOT: Final = Path(__file__).parent.parent


def core(suite: Suite) -> Iterator[Result]:
    """Decode, place, encode: microseconds by pytest-benchmark, instructions by valgrind."""
    times = _times(suite)
    counts = shutil.which("valgrind") and not suite.quick
    for name in NAMES:
        figures = {"each_us": times[name]}
        if counts:
            figures["instructions"] = instructions("benchmarks.instructions", name, SELDOM, OFTEN)
        yield Result("core", name, OURS, figures)


def _times(suite: Suite) -> dict[str, float]:
    """Return the median microseconds of each operation."""
    with TemporaryDirectory() as directory:
        file = Path(directory, "times.json")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "benchmarks/test_operations.py"]
        command += [f"--benchmark-json={file}", "--benchmark-warmup=on", "--benchmark-disable-gc"]
        command += [f"--benchmark-max-time={0.3 if suite.quick else 1.0}"]
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
        if done.returncode:
            raise ServerFailed(f"pytest-benchmark: {(done.stdout + done.stderr).strip().splitlines()[-1]}")
        benchmarks = json.loads(file.read_text())["benchmarks"]
    return {one["params"]["name"]: one["stats"]["median"] * 1e6 for one in benchmarks}
