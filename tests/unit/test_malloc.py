"""Freed memory goes back to the system: large blocks at once."""

import ctypes
import subprocess
import sys

import pytest

from tracker import malloc

SCRIPT = """
import ctypes
from tracker.malloc import LARGE, return_freed_memory

class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd".split()]
    _fields_ += [(name, ctypes.c_size_t) for name in "usmblks fsmblks uordblks fordblks keepcost".split()]

library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.free.argtypes = [ctypes.c_void_p]
library.mallinfo2.restype = Mallinfo2
done = return_freed_memory()
# After the first of them is freed, glibc by itself maps no more blocks of this size.
library.free(library.malloc(2 * LARGE))
before = library.mallinfo2().hblks
blocks = [library.malloc(2 * LARGE) for _ in range(20)]
print(done, library.mallinfo2().hblks - before)
"""

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="this is not glibc")


def mapped(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    """Return whether the parameters were set, and how many of 20 large blocks a new process maps."""
    for name in malloc.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout.strip()


def test_large_blocks_are_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mapped(monkeypatch) == "True 20"


def test_the_operator_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mapped(monkeypatch, MALLOC_MMAP_MAX_="0") == "False 0"
    # This tunable has no effect, so glibc has its own way.
    assert mapped(monkeypatch, GLIBC_TUNABLES="glibc.malloc.perturb=0") == "False 0"
