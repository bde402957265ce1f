"""The header of the PROXY protocol, versions 1 and 2 (haproxy's doc/proxy-protocol.txt; sans I/O).

A proxy sends it before all other bytes of a connection, also before those of TLS. It gives the client's address.
"""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from tracker.access.forwarded import numeric

SIGNATURE_V1: Final = b"PROXY "
"""The start of a header of version 1, which is one line of text."""

SIGNATURE_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
"""The start of a header of version 2."""

MAX_V1: Final = 107
"""Bytes of the longest header of version 1, with its CRLF."""

MAX_V2: Final = 16 + 4096
"""Bytes of the longest header of version 2 that is read."""

_FAMILIES: Final = {"TCP4": IPv4Address, "TCP6": IPv6Address}

_PORT: Final = re.compile(r"0|[1-9][0-9]{0,4}")
"""A port in version 1, which has no leading zeros."""


class ProxyError(ValueError):
    """The data is not a valid header of the PROXY protocol."""


def may_be_header(data: bytes) -> bool:
    """Return whether `data` begins with a signature, or with a part of one that is still incomplete."""
    return any(data.startswith(signature[: len(data)]) for signature in (SIGNATURE_V1, SIGNATURE_V2))


def proxy_header(data: bytes) -> tuple[str | None, int] | None:
    """Return the client's address in the header at the start of `data`, and the size of the header in bytes.

    The address is None if the connection is the proxy's own (a health check) or the client has no IP address. Return
    None if the header is incomplete: then all of `data` belongs to it.

    Raises:
        ProxyError: The data does not begin with a header.
    """
    if not may_be_header(data):
        raise ProxyError("no PROXY header")
    return _version_1(data) if data.startswith(SIGNATURE_V1[:1]) else _version_2(data)


def _version_1(data: bytes) -> tuple[str | None, int] | None:
    end = data.find(b"\r\n", 0, MAX_V1)
    if end < 0:
        if len(data) >= MAX_V1:
            raise ProxyError("a PROXY header of version 1 that is too long")
        return None
    size = end + 2
    fields = data[:end].decode("latin-1").split(" ")
    if fields[1] == "UNKNOWN":
        # The rest of the line has no meaning.
        return None, size
    parse = _FAMILIES.get(fields[1])
    if parse is None or len(fields) != 6 or "%" in fields[2] + fields[3]:
        raise ProxyError("not a PROXY header of version 1")
    if not all(_PORT.fullmatch(port) and int(port) < 1 << 16 for port in fields[4:]):
        raise ProxyError("a PROXY header with an invalid port")
    try:
        source, _ = map(parse, fields[2:4])
    except ValueError:
        raise ProxyError("a PROXY header with an invalid address") from None
    return numeric(str(source)), size


def _version_2(data: bytes) -> tuple[str | None, int] | None:
    if len(data) < 16:
        return None
    command, family, length = data[12], data[13], int.from_bytes(data[14:16], "big")
    if command >> 4 != 2 or command & 15 > 1 or 16 + length > MAX_V2:
        raise ProxyError("not a PROXY header of version 2")
    if len(data) < 16 + length:
        return None
    size = {1: 4, 2: 16}.get(family >> 4, 0)
    if command & 15 == 0 or not size:
        return None, 16 + length
    if length < 2 * size + 4:
        raise ProxyError("a PROXY header that is too short")
    return numeric(str(ip_address(data[16 : 16 + size]))), 16 + length
