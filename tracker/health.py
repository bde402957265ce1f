"""`peerservers health`: asks the tracker that runs with the same settings whether it is healthy."""

import socket
import ssl
from typing import Final

from tracker.checks import WILDCARDS
from tracker.settings import Settings

_TIMEOUT: Final = 4.0
"""Seconds for each step."""

_REQUEST: Final = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def check_health(settings: Settings) -> str:
    """Return the reason why the tracker is not healthy: `/health` has not the status 200. Return "" if it is."""
    server = settings.server
    where = f"{server.hosts[0]} port {server.port}" if server.hosts else f"unix:{server.unix_sockets[0]}"
    if server.hosts and not server.port:
        return "server.port is 0, so the port is not known; name it with --port"
    try:
        with _connect(settings) as connection:
            connection.sendall(_REQUEST)
            words = connection.makefile("rb").readline().split()
    except OSError as error:
        return f"no healthy tracker at {where}: {error.strerror or error}"
    if words[1:2] == [b"200"]:
        return ""
    answer = b" ".join(words).decode(errors="replace") or "no answer"
    return f"no healthy tracker at {where}: {answer}"


def _connect(settings: Settings) -> socket.socket:
    """Connect to the first address that the tracker listens on. Raises `OSError`."""
    server = settings.server
    if server.hosts:
        host = server.hosts[0]
        connection = socket.create_connection((WILDCARDS.get(host, host), server.port), _TIMEOUT)
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
