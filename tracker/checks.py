"""Checks of single values of settings. They raise `ValueError`, whose text an operator reads."""

import os
import re
from ipaddress import ip_network
from typing import Final

UNIX: Final = "unix:"
"""Precedes the path of a Unix-domain socket."""

WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""The addresses that stand for all addresses of a machine, each with one at which the machine reaches itself."""

_MAX_UNIX_PATH: Final = 107
"""Bytes of the longest path of a Unix-domain socket (`sun_path` of Linux, without the final NUL)."""

_ORIGIN: Final = re.compile(r"null|\*\S*|[a-z][-+.a-z0-9]*://[^/?#\s]+/?", re.IGNORECASE)
"""An origin (RFC 6454), in which * stands for any text."""

_SECURE: Final = {"https": "wss", "http": "ws"}
"""The schemes of WebSocket URLs that operators mean by those of HTTP."""


def check_networks(value: list[str]) -> list[str]:
    """Return a list of addresses and networks."""
    for text in value:
        try:
            ip_network(text, strict=False)
        except ValueError:
            raise ValueError(f"not an address or network: {text}") from None
    return value


def check_origins(value: list[str]) -> list[str]:
    """Return a list of origins, which may contain *."""
    for text in value:
        if not _ORIGIN.fullmatch(text):
            host = re.fullmatch(r"(?:[a-z]+://)?([-.*:\[\]\w]*\w)(?:/.*)?", text.strip(), re.IGNORECASE)
            hint = f'; did you mean "https://{host[1]}"?' if host else ""
            raise ValueError(f"not an origin, which is a scheme and a host: {text!r}{hint}")
    return value


def check_websocket_url(value: str) -> str:
    """Return a URL with the scheme ws or wss."""
    scheme, _, rest = value.partition("://")
    if re.search(r"\s", value):
        raise ValueError(f"contains a space: {value!r}")
    if scheme in _SECURE:
        raise ValueError(f"must start with ws:// or wss://; did you mean {_SECURE[scheme]}://{rest}?")
    if scheme not in ("ws", "wss") or not rest:
        raise ValueError(f"must start with ws:// or wss://, not {value!r}")
    return value


def check_unix_socket(host: str) -> None:
    """Check the path of a Unix-domain socket, if the host is one."""
    path = host.removeprefix(UNIX)
    if path == host:
        return
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise ValueError(f"not the absolute path of a Unix-domain socket: {host!r}")
    if len(os.fsencode(path)) > _MAX_UNIX_PATH:
        raise ValueError(f"the path of a Unix-domain socket has more than {_MAX_UNIX_PATH} bytes: {host}")
