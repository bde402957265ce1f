"""Run this tracker and observe it from inside: `python -m benchmarks.observed serve ...`.

Two environment variables name files, to which lines are added. GC_PAUSES: each pause of the garbage collector, with its
start (Unix time) and its seconds. PROBES: the state of the process as JSON, whenever it gets the signal SIGUSR1.
"""

import asyncio
import ctypes
import gc
import json
import os
import signal
import time
from collections import Counter
from types import FrameType
from typing import Final

from tracker.cli import main

_TYPES: Final = 30
"""Types of objects in the state, those with most objects."""


class _Mallinfo2(ctypes.Structure):
    """The `struct mallinfo2` of glibc (mallinfo(3))."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


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


def answer_probes(file: int) -> None:
    """Write the state to an open file descriptor at each SIGUSR1 from now on."""

    def probe(_number: int, _frame: FrameType | None) -> None:
        os.write(file, json.dumps(state()).encode() + b"\n")

    signal.signal(signal.SIGUSR1, probe)


def state() -> dict[str, object]:
    """Return the numbers of tasks by name, of objects by type, and the bytes that malloc has, if it is glibc's.

    `mapped` are the bytes of large blocks, `heap` those of all others; of these, `used` are in use and `free` are not.
    """
    objects = gc.get_objects()
    types = Counter(type(one).__qualname__ for one in objects)
    found: dict[str, object] = {
        "tasks": Counter(_name(task) for task in asyncio.all_tasks(asyncio.get_running_loop())),
        "objects": len(objects),
        "types": dict(types.most_common(_TYPES)),
    }
    library = ctypes.CDLL(None)
    if hasattr(library, "mallinfo2"):
        library.mallinfo2.restype = _Mallinfo2
        info = library.mallinfo2()
        found |= {"heap": info.arena, "used": info.uordblks, "free": info.fordblks, "mapped": info.hblkhd}
    return found


def _name(task: "asyncio.Task[object]") -> str:
    coroutine = task.get_coro()
    return getattr(coroutine, "__qualname__", type(coroutine).__name__)


def _file(variable: str) -> int | None:
    path = os.environ.get(variable)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if path else None


if __name__ == "__main__":
    if (pauses := _file("GC_PAUSES")) is not None:
        observe(pauses)
    if (probes := _file("PROBES")) is not None:
        answer_probes(probes)
    main()
