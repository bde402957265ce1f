"""The health check of the image: `python -m tracker.health` asks the tracker that runs with the same settings.

It is no command of `peerservers`, because to start that takes several times as much CPU time.
"""

import os
import socket
import ssl
import sys
from pathlib import Path
from typing import Final

from tracker.config import load
from tracker.settings import Settings

_TIMEOUT: Final = 4.0
"""Seconds for each step."""

_REQUEST: Final = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def is_healthy(settings: Settings) -> bool:
    """Return whether `/health` has the status 200."""
    try:
        with _connect(settings) as connection:
            connection.sendall(_REQUEST)
            return connection.makefile("rb").readline().split()[1:2] == [b"200"]
    except OSError:
        return False


def _connect(settings: Settings) -> socket.socket:
    """Connect to the first address that the tracker listens on. Raises `OSError`."""
    server = settings.server
    if server.hosts:
        host = server.hosts[0]
        connection = socket.create_connection((_WILDCARDS.get(host, host), server.port), _TIMEOUT)
    else:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(_TIMEOUT)
        connection.connect(server.unix_sockets[0])
    if not settings.tls.certificate:
        return connection
    # The certificate is that of the public name.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(connection)


if __name__ == "__main__":
    file = os.environ.get("PEERSERVERS_CONFIG")
    sys.exit(0 if is_healthy(load(Path(file) if file else None)) else 1)
