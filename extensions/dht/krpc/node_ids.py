"""Node ids that fit an address (BEP 42). Sans I/O.

The first 21 bits of such an id follow from the node's address and three bits of the id itself. So a host cannot choose
an id near a target: of all IPv4 addresses, one in 2^18 has an id with the same first 21 bits.
"""

from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_pton
from typing import Final

_IPV4_MASK: Final = 0x030F3FFF
_IPV6_MASK: Final = 0x0103070F1F3F7FFF

_POLYNOMIAL: Final = 0x82F63B78
"""CRC-32C (Castagnoli), reflected."""


_LOCAL: Final = tuple(
    (int.from_bytes(inet_pton(AF_INET, network), "big") >> 32 - bits, 32 - bits)
    for network, bits in (
        ("0.0.0.0", 8),
        ("10.0.0.0", 8),
        ("100.64.0.0", 10),
        ("127.0.0.0", 8),
        ("169.254.0.0", 16),
        ("172.16.0.0", 12),
        ("192.168.0.0", 16),
    )
)
"""The IPv4 networks that are local. They are compared as numbers, because a lookup checks a hundred addresses."""


def fits(node_id: bytes, host: str) -> bool:
    """Return whether a node id (20 bytes) is one that BEP 42 allows at a numeric IP address.

    Every id fits a local address (in IPv6, any outside of 2000::/3), because BEP 42 exempts local networks.
    """
    prefix = _prefix(host, node_id[19] & 7)
    return prefix is None or prefix == int.from_bytes(node_id[:3], "big") >> 3


@lru_cache(16384)
def _prefix(host: str, seed: int) -> int | None:
    """Return the 21 bits with which ids at an address begin if they end in the three bits `seed`.

    None if the ids may begin with any bits.
    """
    if ":" in host:
        # A link-local address may have a zone (RFC 4007).
        number = int.from_bytes(inet_pton(AF_INET6, host.partition("%")[0])[:8], "big")
        # All global addresses are in 2000::/3.
        return crc32c((number & _IPV6_MASK | seed << 61).to_bytes(8, "big")) >> 11 if number >> 61 == 1 else None
    number = int.from_bytes(inet_pton(AF_INET, host), "big")
    if any(number >> shift == network for network, shift in _LOCAL):
        return None
    return crc32c((number & _IPV4_MASK | seed << 29).to_bytes(4, "big")) >> 11


def crc32c(data: bytes) -> int:
    """Return the CRC-32C checksum (RFC 3720, appendix B.4)."""
    checksum = 0xFFFFFFFF
    for octet in data:
        checksum = checksum >> 8 ^ _TABLE[(checksum ^ octet) & 0xFF]
    return checksum ^ 0xFFFFFFFF


def _entry(octet: int) -> int:
    for _ in range(8):
        octet = octet >> 1 ^ (_POLYNOMIAL if octet & 1 else 0)
    return octet


_TABLE: Final = tuple(_entry(octet) for octet in range(256))
