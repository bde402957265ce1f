"""Node ids that fit an address (BEP 42). Sans I/O.

The first 21 bits of such an id follow from the node's address and three bits of the id itself. So a host cannot choose
an id near a target: of all IPv4 addresses, one in 2^18 has an id with the same first 21 bits.
"""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from extensions.dialing import is_public

_IPV4_MASK: Final = 0x030F3FFF
_IPV6_MASK: Final = 0x0103070F1F3F7FFF

_POLYNOMIAL: Final = 0x82F63B78
"""CRC-32C (Castagnoli), reflected."""


def fits(node_id: bytes, host: str) -> bool:
    """Return whether a node id (20 bytes) is one that BEP 42 allows at a numeric IP address.

    Every id fits an address that is not global, because BEP 42 exempts local networks.
    """
    prefix = _prefix(host, node_id[19] & 7)
    return prefix is None or prefix == int.from_bytes(node_id[:3], "big") >> 3


@lru_cache(16384)
def _prefix(host: str, seed: int) -> int | None:
    """Return the 21 bits with which ids at an address begin if they end in the three bits `seed`.

    None if the ids may begin with any bits.
    """
    if not is_public(host):
        return None
    address = ip_address(host)
    match address:
        case IPv4Address():
            masked = (int(address) & _IPV4_MASK | seed << 29).to_bytes(4, "big")
        case IPv6Address():
            masked = (int(address) >> 64 & _IPV6_MASK | seed << 61).to_bytes(8, "big")
    return crc32c(masked) >> 11


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
