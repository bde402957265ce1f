"""The number of CPUs that this process may use."""

import os
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import Final

_LIMIT: Final = Path("/sys/fs/cgroup/cpu.max")
"""The limit of a container: microseconds of CPU time in a period, or `max`, and the period (cgroups, version 2)."""


def usable_cpus(limit: Path = _LIMIT) -> int:
    """Return the number of CPUs that this process may use, according to its affinity and the limit of its container."""
    # macOS does not tell the affinity.
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = limit.read_text().split()
        # Without a limit, `max` is no number.
        usable = min(usable, max(1, ceil(int(quota) / int(period))))
    return usable
