"""Repeat one operation, so that valgrind can count it: `python -m benchmarks.instructions NUMBER NAME`."""

import gc
import sys
from collections.abc import Callable

from benchmarks.operations import operation


def repeat(do: Callable[[], object], number: int) -> None:
    """Repeat an operation `number` times, without garbage collection."""
    gc.disable()
    for _ in range(number):
        do()


if __name__ == "__main__":
    repeat(operation(sys.argv[2]), int(sys.argv[1]))
