"""Runs targets in processes of their own, with the plain sources, and reads what libFuzzer prints."""

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DIRECTORY = ROOT / "build" / "fuzz"
"""The corpora, which grow from run to run, and the finds."""


@dataclass(frozen=True)
class Report:
    """The result of one run.

    Attributes:
        executions: Inputs that were tried.
        per_second: Of these, each second on average, with the start of the process.
        coverage: Edges of the instrumented code that were reached.
        corpus: Inputs that reached something new, with the seeds.
        find: The file with the input that broke a promise, or None.
        output: All that the process has printed.
    """

    name: str
    executions: int
    per_second: int
    coverage: int
    corpus: int
    find: Path | None
    output: str

    @property
    def repeat(self) -> str:
        """The command that repeats the find."""
        return f"make fuzz ARGS='--target {self.name} --repeat {self.find}'"

    @property
    def line(self) -> str:
        """The figures in one line."""
        return (
            f"{self.name:13} {self.executions:9} executions, {self.per_second:6} a second, coverage {self.coverage:5},"
            f" corpus {self.corpus:4}, {'FOUND ' + str(self.find) if self.find else 'nothing found'}"
        )


def run(name: str, directory: Path, *arguments: str) -> Report:
    """Fuzz one target until a find, or as long as libFuzzer's `arguments` say."""
    # Not the compiled modules of `make test`.
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    started = time.monotonic()
    before = set((directory / "finds").glob("*"))
    finished = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.child", name, str(directory), *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    output = finished.stdout.decode(errors="replace")
    finds = sorted(set((directory / "finds").glob("*")) - before)
    if finished.returncode != 0 and not finds:
        raise RuntimeError(f"the fuzzer of {name} does not run:\n{output}")
    executions = _last(r"stat::number_of_executed_units: *(\d+)", output)
    return Report(
        name,
        executions,
        round(executions / (time.monotonic() - started)),
        _last(r" cov: (\d+)", output),
        _last(r" corp: (\d+)/", output),
        finds[0] if finds else None,
        output,
    )


def _last(pattern: str, output: str) -> int:
    """Return the last number that the pattern finds, or 0."""
    return int((re.findall(pattern, output) or ["0"])[-1])
