"""Which addresses strangers may have us connect to."""

from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final

_UNICAST: Final = IPv6Network("2000::/3")
"""All that is given out of IPv6. Addresses elsewhere may still lead to one in IPv4, by NAT64 for instance."""


@lru_cache(8192)
def is_public(host: str) -> bool:
    """Whether this is the numeric address of one host of the public network, and leads nowhere else by another name."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and (
        # The last two hold an IPv4 address, which a gateway may well connect to.
        address not in _UNICAST or address.sixtofour or address.teredo
    ):
        return False
    return address.is_global and not address.is_multicast


@lru_cache(8192)
def network_of(host: str, ipv4_bits: int) -> str:
    """The network of a numeric address: its first bits in IPv4, and in IPv6 64, as no customer has less."""
    address = ip_address(host)
    octets = 8 if isinstance(address, IPv6Address) else ipv4_bits // 8
    return address.packed[:octets].hex()
