"""The address of a client behind proxies, in the fields of its request (sans I/O).

It is in `X-Forwarded-For`, in `Forwarded` (RFC 7239), or in a field that the settings name. Only trusted proxies are
believed. Of a list, only the right end counts, because the proxies wrote it themselves.
"""

import re
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from tracker.access.addresses import Networks, contains

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


class InvalidAddress(ValueError):
    """The field that gives the client's address has no single address."""


def named_address(values: Sequence[str]) -> str | None:
    """Return the address in a field that a trusted proxy sets to the client's address alone, such as `X-Real-IP`.

    Return None if the field is absent or empty: then the request is the proxy's own.

    Args:
        values: The values of all field lines with that name.

    Raises:
        InvalidAddress: The value is no address; or there are several field lines, because then one may be the client's.
    """
    if not any(values):
        return None
    address = numeric(values[0]) if len(values) == 1 else None
    if address is None:
        raise InvalidAddress
    return address


def client_address(trusted: Networks, forwarded_for: Sequence[str], forwarded: Sequence[str]) -> str | None:
    """Return the rightmost address that is not one of a trusted proxy, in the request of a trusted proxy.

    If a member of the list is no address, the search ends with the proxy that wrote it. Return None if that is the one
    that has connected.

    Args:
        trusted: The networks of the trusted proxies.
        forwarded_for: The values of all field lines `X-Forwarded-For`. If there are any, `forwarded` is ignored.
        forwarded: The values of all field lines `Forwarded`.
    """
    if forwarded_for:
        hops = iter(reversed(",".join(forwarded_for).split(",")))
    else:
        hops = map(_for, elements_from_right(",".join(forwarded)))
    address = None
    for hop in hops:
        found = numeric(hop)
        if found is None:
            break
        address = found
        if not contains(trusted, address):
            break
    return address


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
