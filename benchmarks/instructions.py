"""Repeat one operation, so that valgrind can count it: `python -m benchmarks.instructions NUMBER NAME`."""

import gc
import sys

from benchmarks.operations import operation


def main(number: int, name: str) -> None:
    """Repeat the operation `number` times, without garbage collection."""
    do = operation(name)
    gc.disable()
    for _ in range(number):
        do()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
