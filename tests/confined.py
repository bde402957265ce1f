"""Run a command with the system calls that a systemd unit allows: python -m tests.confined UNIT COMMAND...

It applies SystemCallFilter, MemoryDenyWriteExecute and RestrictAddressFamilies, because a program may break these long
after its start. It builds the filters with libseccomp, as systemd does.
"""

import errno
import os
import socket
import subprocess
import sys
from ctypes import CDLL, POINTER, Structure, c_char_p, c_int, c_uint, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Final

from tests.shipping import keys_of_unit

ALLOW: Final = 0x7FFF0000
ERRNO: Final = 0x00050000
EQUAL: Final = 4
MASKED_EQUAL: Final = 7
WRITE, EXEC, SHM_EXEC = 2, 4, 0o100000


class Argument(Structure):
    """A condition on a system call's argument."""

    _fields_ = (("number", c_uint), ("operator", c_int), ("a", c_uint64), ("b", c_uint64))


library = CDLL("libseccomp.so.2")
library.seccomp_init.restype = c_void_p
library.seccomp_init.argtypes = [c_uint32]
library.seccomp_load.argtypes = [c_void_p]
library.seccomp_syscall_resolve_name.argtypes = [c_char_p]
library.seccomp_rule_add_array.argtypes = [c_void_p, c_uint32, c_int, c_uint, POINTER(Argument)]


class Filter:
    """A seccomp filter. `default` is the action for system calls without a rule."""

    def __init__(self, default: int) -> None:
        self._context = library.seccomp_init(default)

    def add(self, action: int, call: str, *conditions: tuple[int, int, int, int]) -> None:
        """Add a rule for a system call, optionally under conditions. Ignore a call that this machine does not have."""
        number = library.seccomp_syscall_resolve_name(call.encode())
        if number >= 0:
            arguments = (Argument * len(conditions))(*(Argument(*condition) for condition in conditions))
            failed = library.seccomp_rule_add_array(self._context, action, number, len(conditions), arguments)
            assert not failed, (call, failed)

    def load(self) -> None:
        """Apply the filter to this process and its children, from now on."""
        assert not library.seccomp_load(self._context)


def group(name: str) -> set[str]:
    """Return the system calls of a set such as `@system-service`, or the single call of that name."""
    if not name.startswith("@"):
        return {name}
    listed = subprocess.run(["systemd-analyze", "syscall-filter", name], check=True, capture_output=True, text=True)
    lines = [line.strip() for line in listed.stdout.splitlines()[1:]]
    members = [group(line) for line in lines if line and not line.startswith("#")]
    return set().union(*members)


def confine(unit: dict[str, list[str]]) -> None:
    """Apply the restrictions of a unit to this process."""
    allowed: set[str] = set()
    for value in unit["SystemCallFilter"]:
        members = set().union(*map(group, value.removeprefix("~").split()))
        allowed = allowed - members if value.startswith("~") else allowed | members
    families = {getattr(socket, name) for name in unit["RestrictAddressFamilies"][0].split()}

    narrow = Filter(ALLOW)
    for family in set(range(46)) - {int(family) for family in families}:
        narrow.add(ERRNO | errno.EAFNOSUPPORT, "socket", (0, EQUAL, family, 0))
    if unit["MemoryDenyWriteExecute"] == ["yes"]:
        narrow.add(ERRNO | errno.EPERM, "mmap", (2, MASKED_EQUAL, WRITE | EXEC, WRITE | EXEC))
        narrow.add(ERRNO | errno.EPERM, "mprotect", (2, MASKED_EQUAL, EXEC, EXEC))
        narrow.add(ERRNO | errno.EPERM, "pkey_mprotect", (2, MASKED_EQUAL, EXEC, EXEC))
        narrow.add(ERRNO | errno.EPERM, "shmat", (2, MASKED_EQUAL, SHM_EXEC, SHM_EXEC))
    calls = Filter(ERRNO | getattr(errno, unit["SystemCallErrorNumber"][0]))
    for call in allowed | {"seccomp"}:
        calls.add(ALLOW, call)
    narrow.load()
    calls.load()


if __name__ == "__main__":
    confine(keys_of_unit(Path(sys.argv[1])))
    os.execv(sys.argv[2], sys.argv[2:])
