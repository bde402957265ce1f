"""The bits that stand for members of a swarm, by which peers remember which ones they have met (sans I/O)."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mypy_extensions import i64

NUMBERED: Final = 53
"""Bits of peers that are known one by one: those of this node, and those of small swarms at other nodes."""

_NUMBERED_BITS: Final = [1 << number for number in range(NUMBERED)]
_REMOTE_BITS: Final = [1 << number for number in range(NUMBERED, 61)]
# mypyc would compute `1 << number` with 32 bits where the result is an i64.

LOCAL: Final = (1 << 53) - 1
REMOTE: Final = (1 << 61) - (1 << 53)
"""All bits of peers that are known one by one, and of other remote ones, in `Member.met`."""

SEEDER: Final = 1 << 61
"""The bit in `Member.met` of a peer that has met a seeder."""


def numbered_bit(number: int) -> "i64":
    """Return the bit of the peer that has joined a swarm as the one with this number, from 0."""
    bit: i64 = _NUMBERED_BITS[number % NUMBERED]
    return bit


def remote_bit(peer_id: str) -> "i64":
    """Return the bit that stands for a remote peer in `Peer.met`."""
    bit: i64 = _REMOTE_BITS[ord(peer_id[-1]) % len(_REMOTE_BITS)]
    return bit
