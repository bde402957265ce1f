"""A node's half of KRPC: queries are read and replies are written (BEP 5, BEP 44). `krpc.messages` is the client's."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Final

from extensions.dht.krpc import bencode
from extensions.dht.krpc.messages import Address, Contact

GENERIC: Final = 201
PROTOCOL: Final = 203
UNKNOWN_METHOD: Final = 204
TOO_BIG: Final = 205
BAD_SIGNATURE: Final = 206
SALT_TOO_BIG: Final = 207
CAS_MISMATCH: Final = 301
SEQ_TOO_OLD: Final = 302
"""Codes of error messages. libtorrent answers a bad token with `PROTOCOL`."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query as a node receives it from the host at `source`."""

    transaction: bytes
    method: str
    arguments: dict[bytes, Any]
    source: Address
    is_read_only: bool = False

    @property
    def target(self) -> bytes:
        """The id that the query is about (20 bytes); empty if it names none."""
        for name in (b"target", b"info_hash"):
            target = self.arguments.get(name)
            if isinstance(target, bytes) and len(target) == 20:
                return target
        return b""


def read_query(data: bytes, source: Address) -> Query | None:
    """Decode a query. Return None for anything else."""
    try:
        message = bencode.decode(data)
    except ValueError:
        return None
    match message:
        case {b"y": b"q", b"t": bytes(transaction), b"q": bytes(method), b"a": dict(arguments)}:
            return Query(transaction, method.decode("latin-1"), arguments, source, message.get(b"ro") == 1)
        case _:
            return None


def write_reply(transaction: bytes, node_id: bytes, values: dict[bytes, Any]) -> bytes:
    """Encode a reply."""
    return bencode.encode({b"r": {b"id": node_id, **values}, b"t": transaction, b"y": b"r"})


def write_error(transaction: bytes, code: int, text: str) -> bytes:
    """Encode an error message."""
    return bencode.encode({b"e": [code, text.encode()], b"t": transaction, b"y": b"e"})


def pack_contacts(contacts: Iterable[Contact]) -> bytes:
    """Return contacts of one address family as in `nodes` (BEP 5) and `nodes6` (BEP 32)."""
    return b"".join(contact.node_id + pack_address(contact.address) for contact in contacts)


@lru_cache(1 << 16)
def pack_address(address: Address) -> bytes:
    """Return a compact address: 6 bytes in IPv4, 18 in IPv6."""
    host, port = address
    return ip_address(host).packed + port.to_bytes(2, "big")
