"""KRPC: the DHT's messages (BEP 5), with mutable items (BEP 44), read-only nodes (BEP 43) and IPv6 (BEP 32). Sans I/O.

What this client asks other nodes. Being a node itself, and answering others, is libtorrent's work (`node.py`).
"""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha1
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc import bencode
from extensions.signatures import is_signed

Address = tuple[str, int]
"""A node's or peer's address, numeric, and UDP or TCP port."""

MAX_DATAGRAM: Final = 4096
"""Bytes of the longest message that is looked at. Items have at most 1000; no honest reply is much longer."""

MAX_TOKEN: Final = 128
MAX_PEERS: Final = 100
"""Peers that are taken from one reply."""

ERROR_METHOD: Final = 204
CAS_MISMATCH: Final = 301
SEQ_TOO_OLD: Final = 302


@dataclass(frozen=True, slots=True)
class Contact:
    """A node: its id, 20 bytes, and where it is."""

    node_id: bytes
    address: Address


@dataclass(frozen=True, slots=True)
class Item:
    """A mutable item as a node gave it, not verified. `value` is any bencodable object."""

    public_key: bytes
    signature: bytes
    seq: int
    value: Any


@dataclass(frozen=True, slots=True)
class Reply:
    """A node's reply. What it has in a wrong form is left out."""

    transaction: bytes
    node_id: bytes
    contacts: tuple[Contact, ...] = ()
    token: bytes = b""
    item: Item | None = None
    peers: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """A node's error message."""

    transaction: bytes
    code: int


@dataclass(frozen=True, slots=True)
class Question:
    """Another node's query; all that matters is where it came from."""

    transaction: bytes


def query(method: str, arguments: dict[bytes, Any], transaction: bytes) -> bytes:
    """A query of a node that wants no queries itself."""
    return bencode.encode(
        {b"a": arguments, b"q": method.encode(), b"ro": 1, b"t": transaction, b"v": b"PS\0\1", b"y": b"q"}
    )


def refusal(transaction: bytes) -> bytes:
    """The answer to any query. Without one, nodes that took us for a node would wait for us in their lookups."""
    message: bytes = bencode.encode({b"e": [ERROR_METHOD, b"read-only"], b"t": transaction, b"y": b"e"})
    return message


def decode(data: bytes) -> Reply | Failure | Question | None:
    """A message; None if it is none."""
    if len(data) > MAX_DATAGRAM:
        return None
    try:
        message = bencode.decode(data)
    except ValueError:
        return None
    if not isinstance(message, dict) or not isinstance(transaction := message.get(b"t"), bytes):
        return None
    # The kind first: libtorrent's error messages have an `r` too.
    match message.get(b"y"):
        case b"r":
            return _reply(transaction, message.get(b"r"))
        case b"e":
            match message.get(b"e"):
                case [int(code), *_]:
                    return Failure(transaction, code)
                case _:
                    return Failure(transaction, 0)
        case b"q" if len(transaction) <= MAX_TOKEN:
            return Question(transaction)
        case _:
            return None


def item_target(public_key: bytes, salt: bytes) -> bytes:
    """Where a mutable item is stored (BEP 44)."""
    return sha1(public_key + salt).digest()


def sign_item(key: Ed25519PrivateKey, salt: bytes, seq: int, value: object) -> bytes:
    """The signature of a mutable item (BEP 44)."""
    return key.sign(_signed(salt, seq, value))


def is_valid(item: Item, public_key: bytes, salt: bytes) -> bool:
    """Whether an item was signed by `public_key`."""
    if item.public_key != public_key or item.seq < 0:
        return False
    return is_signed(public_key, _signed(salt, item.seq, item.value), item.signature)


def _reply(transaction: bytes, body: object) -> Reply | None:
    if not isinstance(body, dict) or not isinstance(node_id := body.get(b"id"), bytes) or len(node_id) != 20:
        return None
    token = body.get(b"token")
    values = body.get(b"values")
    return Reply(
        transaction,
        node_id,
        (*_contacts(body.get(b"nodes"), 4), *_contacts(body.get(b"nodes6"), 16)),
        token if isinstance(token, bytes) and len(token) <= MAX_TOKEN else b"",
        _item(body),
        tuple(_address(value) for value in values[:MAX_PEERS] if isinstance(value, bytes) and len(value) in (6, 18))
        if isinstance(values, list)
        else (),
    )


def _item(body: dict[bytes, Any]) -> Item | None:
    match body:
        case {b"k": bytes(public_key), b"sig": bytes(signature), b"seq": int(seq), b"v": value}:
            return Item(public_key, signature, seq, value)
        case _:
            return None


def _contacts(packed: object, size: int) -> list[Contact]:
    step = 20 + size + 2
    if not isinstance(packed, bytes) or len(packed) % step:
        return []
    return [
        Contact(packed[start : start + 20], _address(packed[start + 20 : start + step]))
        for start in range(0, len(packed), step)
    ]


@lru_cache(8192)
def _address(packed: bytes) -> Address:
    host = IPv4Address(packed[:4]) if len(packed) == 6 else IPv6Address(packed[:16])
    return str(host), int.from_bytes(packed[-2:], "big")


def _signed(salt: bytes, seq: int, value: object) -> bytes:
    start = b"4:salt%d:%s" % (len(salt), salt) if salt else b""
    return start + b"3:seqi%de1:v" % seq + bencode.encode(value)
