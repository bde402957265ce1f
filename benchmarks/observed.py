"""Run this tracker and record the pauses of its garbage collector: `python -m benchmarks.observed serve ...`.

Each pause is a line in the file that the environment variable GC_PAUSES names: its start (Unix time) and its seconds.
"""

import gc
import os
import time

from tracker.cli import main


def observe(file: int) -> None:
    """Write the pauses from now on to an open file descriptor."""
    began = 0.0

    def collect(phase: str, _info: dict[str, int]) -> None:
        nonlocal began
        if phase == "start":
            began = time.perf_counter()
        else:
            seconds = time.perf_counter() - began
            os.write(file, b"%.6f %.6f\n" % (time.time() - seconds, seconds))

    gc.callbacks.append(collect)


if __name__ == "__main__":
    if "GC_PAUSES" in os.environ:
        observe(os.open(os.environ["GC_PAUSES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    main()
