"""Addresses of emulated nodes, computed from their numbers, and the node ids that fit an address (BEP 42)."""

from ipaddress import IPv4Address, IPv6Address
from itertools import product
from typing import Final

from extensions.dht.krpc.messages import Address
from extensions.dht.krpc.node_ids import crc32c

TRACKERS: Final = 5
"""The first octet of the trackers' IPv4 addresses; no node has it."""

_OCTETS: Final = [one for one in range(1, 224) if one not in (TRACKERS, 10, 100, 127, 169, 172, 192, 198, 203)]
"""First octets of IPv4 addresses that are global, whatever the others are."""

_PLACES: Final = {octet: place for place, octet in enumerate(_OCTETS)}
_FIRST_48: Final = 0x2A00 << 32
"""The first /48 network of IPv6 nodes."""

MAX_NODES: Final = 1 << 24
"""Numbers of nodes are smaller."""

MAX_IPV4: Final = len(_OCTETS) << 16
"""Numbers of IPv4 nodes are smaller."""

_IPV4_MASK: Final = bytes.fromhex("030f3fff")
_IPV6_MASK: Final = bytes.fromhex("0103070f1f3f7fff")


def fitting_prefix(host: str, chance: int) -> int:
    """Return the first 21 bits of the ids that fit a numeric address (BEP 42).

    `chance` (0 to 7) is in the last byte of these ids.
    """
    packed = (IPv6Address(host) if ":" in host else IPv4Address(host)).packed[:8]
    mask = _IPV6_MASK if len(packed) == 8 else _IPV4_MASK
    masked = bytearray(byte & bit for byte, bit in zip(packed, mask, strict=True))
    masked[0] |= chance << 5
    return crc32c(bytes(masked)) >> 11


def fitting_addresses(prefix: int, chance: int, count: int) -> list[Address]:
    """Return IPv4 addresses in different /24 networks that fit the ids with these first 21 bits.

    `chance` (0 to 7) is in the last byte of the ids. An attacker needs such addresses for a place next to a target.
    """
    make = FittingPrefixes(4)
    lower = {make.of_octets(0, 0, third, last, 0): (third, last) for third in range(64) for last in range(1, 255)}
    zero = make.of_octets(0, 0, 0, 0, 0)
    found: list[Address] = []
    for first, second in product(range(4), range(16)):
        lowest = lower.get(prefix ^ make.of_octets(first, second, 0, 0, chance) ^ zero)
        if lowest is not None:
            third, last = lowest
            found += [
                (f"{one}.{two}.{three}.{last}", 6881)
                for one in _OCTETS
                if one & 3 == first
                for two in range(second, 256, 16)
                for three in range(third, 256, 64)
            ]
    return found[:count]


class FittingPrefixes:
    """The same as `fitting_prefix` by the numbers of nodes in an address family, fast enough for millions of them.

    A CRC of a fixed length is linear, so that each octet of an address contributes to it on its own.
    """

    def __init__(self, family: int) -> None:
        mask = _IPV4_MASK if family == 4 else _IPV6_MASK
        size = len(mask)
        zero = crc32c(bytes(size))
        self._family = family
        self._zero = zero
        self._parts = [
            [
                crc32c(bytes(place) + bytes([octet & mask[place]]) + bytes(size - 1 - place)) ^ zero
                for octet in range(256)
            ]
            for place in range(size)
        ]
        self._chances = [crc32c(bytes([chance << 5]) + bytes(size - 1)) ^ zero for chance in range(8)]

    def of(self, number: int, last: int, chance: int) -> int:
        """Return the prefix for a node; `last` tells the addresses in its network apart."""
        parts = self._parts
        if self._family == 4:
            return self.of_octets(_OCTETS[number >> 16], number >> 8 & 0xFF, number & 0xFF, last, chance)
        # The first three octets are 2a:00:00, of which the mask leaves nothing.
        crc = parts[3][number >> 16] ^ parts[4][number >> 8 & 0xFF] ^ parts[5][number & 0xFF] ^ parts[7][last]
        return (crc ^ self._chances[chance] ^ self._zero) >> 11

    def of_octets(self, first: int, second: int, third: int, last: int, chance: int) -> int:
        """Return the prefix for an IPv4 address."""
        parts = self._parts
        crc = parts[0][first] ^ parts[1][second] ^ parts[2][third] ^ parts[3][last]
        return (crc ^ self._chances[chance] ^ self._zero) >> 11


def ipv4_address(number: int, last: int) -> Address:
    """Return the address of the IPv4 node with a number, in a /24 of its own; `last` is the last octet."""
    return f"{_OCTETS[number >> 16]}.{number >> 8 & 0xFF}.{number & 0xFF}.{last}", 6881 + last


def ipv6_address(number: int, last: int) -> Address:
    """Return the address of the IPv6 node with a number, in a /48 of its own."""
    network = _FIRST_48 + number
    return f"{network >> 32:x}:{network >> 16 & 0xFFFF:x}:{network & 0xFFFF:x}:{last:x}::1", 6881 + last


def number_of(address: Address) -> int | None:
    """Return the number of the only node that may have an address; None if no node may."""
    host, _ = address
    if ":" in host:
        number = int.from_bytes(IPv6Address(host).packed[:6], "big") - _FIRST_48
        return number if 0 <= number < MAX_NODES else None
    first, second, third, _ = map(int, host.split("."))
    return _PLACES[first] << 16 | second << 8 | third if first in _PLACES else None


def tracker_addresses(number: int) -> tuple[str, str]:
    """Return the IPv4 and the IPv6 host of a tracker."""
    return f"{TRACKERS}.{number >> 16}.{number >> 8 & 0xFF}.{number & 0xFF}", f"2a10:{number:x}::1"


def in_one_network(count: int, attacker: int) -> list[Address]:
    """Return addresses in `count` different /64 networks of the /48 network of an attacker."""
    return [(f"2a11:{attacker:x}:1:{number:x}::1", 6881) for number in range(1, count + 1)]
