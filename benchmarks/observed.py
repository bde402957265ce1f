"""Our tracker, whose garbage collector's pauses are written down: `python -m benchmarks.observed serve ...`.

Each is a line in the file that the environment's GC_PAUSES names: when it began (Unix time), and its seconds.
"""

import gc
import os
import time

from tracker.cli import main


def observe(file: int) -> None:
    """Write the pauses from now on to an open file."""
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
