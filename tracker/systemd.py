"""Tells systemd the state of the service (sd_notify(3), `Type=notify-reload`)."""

import os
import socket
from contextlib import suppress
from time import monotonic_ns


def notify(state: str) -> None:
    """Send a state, as `READY=1`, if systemd waits for it. Never block or fail: the tracker serves all the same."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith(("/", "@")):
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            # @ stands for the NUL of an abstract socket.
            channel.sendto(state.encode(), address.replace("@", "\0", 1))


def notify_reloading() -> None:
    """Tell that settings are being read again, until the next `READY=1`."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={monotonic_ns() // 1000}")
