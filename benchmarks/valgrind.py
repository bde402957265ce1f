"""Count the instructions of an operation with valgrind: unlike times, they hardly change from run to run."""

import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.servers import ServerFailed

_ROOT: Final = Path(__file__).parent.parent
_COUNT: Final = re.compile(r"I\s+refs:\s+([\d,]+)")


def instructions(module: str, name: str, seldom: int, often: int) -> float:
    """Return the instructions of one operation: the difference between two processes that repeat it, per repetition.

    `python -m module NUMBER NAME` repeats the operation.

    Raises:
        ServerFailed: if valgrind or the operation fails.
    """
    few, many = (_counted(module, str(number), name) for number in (seldom, often))
    return (many - few) / (often - seldom)


def _counted(*arguments: str) -> float:
    with TemporaryDirectory() as directory:
        command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={directory}/out"]
        command += [sys.executable, "-m", *arguments]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True)
    found = _COUNT.search(done.stderr)
    if done.returncode or not found:
        raise ServerFailed(f"valgrind: {done.stderr.strip().splitlines()[-1]}")
    return float(found[1].replace(",", ""))
