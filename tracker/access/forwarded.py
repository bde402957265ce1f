"""Who a client is that comes through proxies (sans I/O).

`X-Forwarded-For`, `Forwarded` (RFC 7239) and the PROXY protocol, version 2
(haproxy's doc/proxy-protocol.txt). Only what trusted proxies say is believed, and of a list only the part that they
wrote themselves: its right end.
"""

import re
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import Final

from tracker.access.addresses import Networks, contains

PROXY_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
"""What a connection with a header of the PROXY protocol begins with."""

MAX_PROXY_HEADER: Final = 16 + 4096
"""Bytes of the longest that is taken."""

_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*("(?:[^"\\]|\\.)*"|[^;\s"]*)', re.IGNORECASE)


def numeric(text: str) -> str | None:
    """A numeric address in its usual form, without port, brackets or scope; IPv4 that is written as IPv6 is IPv4."""
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
    """The rightmost address that no trusted proxy has.

    `peer` is who has connected, numeric. The other two are the values of all header lines `X-Forwarded-For` and
    `Forwarded`; if there are both, the first counts. What is no address ends the list: the proxy that wrote it counts.
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
    """What came is no header of the PROXY protocol that can be understood."""


def header_size(data: bytes) -> int:
    """Bytes of the header that `data` begins with, as far as it shows yet: of its fixed part, or of all."""
    return 16 + int.from_bytes(data[14:16], "big") if len(data) >= 16 else 16


def proxy_header(data: bytes) -> tuple[str | None, int] | None:
    """The client's address in a header of the PROXY protocol at the start of `data`, and the header's length.

    No address if the proxy speaks for itself (a health check), or of a client that has no IP address. None if the
    header is not complete yet. Raises `ProxyError`.
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
    """The elements of a list, the last one first.

    Read from its left end, a quotation mark that a client has left open would swallow what the proxy wrote behind it.
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
