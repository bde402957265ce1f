"""python -m tests.fuzz, or `make fuzz`: fuzz for minutes or hours, and repeat a find."""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.runner import DIRECTORY, Report, run
from tests.fuzz.target import NAMES, load


def main() -> int:
    """Run the command line. Return 1 if something was found."""
    parser = argparse.ArgumentParser(prog="make fuzz ARGS=...", description=__doc__)
    parser.add_argument("--target", action="append", choices=NAMES, help="by default, all of them one after the other")
    parser.add_argument("--minutes", type=float, default=1.0, help="for each target (default: 1)")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time (default: 1)")
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="check one input, such as a find, in this process")
    options = parser.parse_args()
    names = options.target or NAMES
    if options.repeat:
        for name in names:
            load(name).check(options.repeat.read_bytes())
        print("nothing is wrong with it")
        return 0
    with ThreadPoolExecutor(options.jobs) as pool:
        arguments = f"-max_total_time={round(60 * options.minutes)}"
        reports = list(pool.map(lambda name: fuzz(name, arguments), names))
    return any(report.find for report in reports)


def fuzz(name: str, *arguments: str) -> Report:
    """Fuzz one target, with its corpus from earlier runs. Print the result."""
    report = run(name, DIRECTORY / name, *arguments)
    if report.find:
        # libFuzzer's own lines are not needed to understand a find.
        start = report.output.find(" === Uncaught Python exception: ===")
        print(report.output[max(start, 0) :])
    print(report.line, flush=True)
    if report.find:
        print(f"{'':13} {report.repeat}", flush=True)
    return report


if __name__ == "__main__":
    sys.exit(main())
