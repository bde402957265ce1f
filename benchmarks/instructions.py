"""Repeats one operation, for a counter of instructions around it: `python -m benchmarks.instructions NUMBER NAME`."""

import gc
import sys

from benchmarks.operations import operation


def main(number: int, name: str) -> None:
    """Do it so often."""
    do = operation(name)
    gc.disable()
    for _ in range(number):
        do()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
