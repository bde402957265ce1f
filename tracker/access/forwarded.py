"""The address of a client behind proxies (sans I/O).

It is in `X-Forwarded-For`, in `Forwarded` (RFC 7239), or in a header of the PROXY protocol, version 2 (haproxy's
doc/proxy-protocol.txt). Only trusted proxies are believed. Of a list, only the right end counts, because the proxies
wrote it themselves.
"""

import re
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import Final

from tracker.access.addresses import Networks, contains

PROXY_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
"""The signature at the start of a PROXY header."""

MAX_PROXY_HEADER: Final = 16 + 4096
"""Bytes of the longest PROXY header that is read."""

_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*("(?:[^"\\]|\\.)*"|[^;\s"]*)', re.IGNORECASE)


def numeric(text: str) -> str | None:
    """Return a numeric address in its usual form, or None if `text` is none.

    A port, brackets and a scope are removed. An IPv4-mapped IPv6 address becomes IPv4.
    """
    host = text.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        parsed = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)


def client_address(peer: str, trusted: Networks, forwarded_for: Sequence[str], forwarded: Sequence[str]) -> str:
    """Return the rightmost address that is not one of a trusted proxy.

    If a member of the list is no address, the search ends with the proxy that wrote it.

    Args:
        peer: The numeric address that has connected.
        trusted: The networks of the trusted proxies.
        forwarded_for: The values of all field lines `X-Forwarded-For`. If there are any, `forwarded` is ignored.
        forwarded: The values of all field lines `Forwarded`.
    """
    if not contains(trusted, peer):
        return peer
    if forwarded_for:
        hops = iter(reversed(",".join(forwarded_for).split(",")))
    else:
        hops = map(_for, elements_from_right(",".join(forwarded)))
    address = peer
    for hop in hops:
        found = numeric(hop)
        if found is None:
            break
        address = found
        if not contains(trusted, address):
            break
    return address


class ProxyError(ValueError):
    """The data is not a valid header of the PROXY protocol, version 2."""


def header_size(data: bytes) -> int:
    """Return the size in bytes of the header at the start of `data`, or of its fixed part while that is incomplete."""
    return 16 + int.from_bytes(data[14:16], "big") if len(data) >= 16 else 16


def proxy_header(data: bytes) -> tuple[str | None, int] | None:
    """Return the client's address in the header at the start of `data`, and the size of the header in bytes.

    The address is None if the connection is the proxy's own (a health check) or the client has no IP address. Return
    None if the header is incomplete.

    Raises:
        ProxyError: The data does not begin with a header.
    """
    if len(data) < 16:
        return None
    command, family, length = data[12], data[13], int.from_bytes(data[14:16], "big")
    if not data.startswith(PROXY_V2) or command >> 4 != 2 or command & 15 > 1 or 16 + length > MAX_PROXY_HEADER:
        raise ProxyError("not a PROXY header of version 2")
    if len(data) < 16 + length:
        return None
    size = {1: 4, 2: 16}.get(family >> 4, 0)
    if command & 15 == 0 or not size:
        return None, 16 + length
    if length < 2 * size + 4:
        raise ProxyError("a PROXY header that is too short")
    return numeric(str(ip_address(data[16 : 16 + size]))), 16 + length


def elements_from_right(text: str) -> Iterator[str]:
    """Yield the elements of a comma-separated list with quoted strings, the last one first.

    If it were read from the left, a client could open a quoted string and so hide the elements that the proxy appended.
    """
    end, quoted = len(text), False
    for index in range(len(text) - 1, -1, -1):
        if text[index] == '"':
            quoted = not quoted
        elif text[index] == "," and not quoted:
            yield text[index + 1 : end]
            end = index
    yield text[:end]


def _for(element: str) -> str:
    match = _FOR.search(element)
    return match.group(1).strip('"') if match else ""
