"""KRPC: the DHT's messages (BEP 5), with mutable items (BEP 44), read-only nodes (BEP 43) and IPv6 (BEP 32). Sans I/O.

This is the client's half: queries are written and replies are read. libtorrent is the node, and answers queries
(`node.py`).
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
"""The numeric IP address of a node or peer, and its UDP or TCP port."""

MAX_DATAGRAM: Final = 4096
"""Longer messages (bytes) are ignored. Items have at most 1000 bytes; no honest reply is much longer."""

SPARE_TOKENS: Final = 40
_TOKEN_BYTES: Final = 8
"""Messages of more than 40 parts, and one more for every 8 bytes, are ignored: each takes a microsecond. The shortest
parts of which honest messages have many are peers, which have these 8 bytes."""

TRANSACTION: Final = 4
"""Bytes of the transaction id of a query that is sent."""

MAX_TOKEN: Final = 128
MAX_NODES: Final = 20
"""Further nodes of one reply, in each address family, are not decoded: an honest node names eight."""

MAX_PEERS: Final = 100
"""Further peers of one reply are ignored."""

_ORDER: Final = 2**252 + 27742317777372353535851937790883648493
"""The order of Ed25519's group (RFC 8032, section 5.1)."""

_TRANSACTION_KEY: Final = b"1:t%d:" % TRANSACTION

ERROR_METHOD: Final = 204
CAS_MISMATCH: Final = 301
SEQ_TOO_OLD: Final = 302


@dataclass(frozen=True, slots=True)
class Contact:
    """A node: its id (20 bytes) and its address."""

    node_id: bytes
    address: Address


@dataclass(frozen=True, slots=True)
class Item:
    """A mutable item as received, not verified. `value` is any object that can be bencoded."""

    public_key: bytes
    signature: bytes
    seq: int
    value: Any


@dataclass(frozen=True, slots=True)
class Reply:
    """A node's reply. Ill-formed parts of it are left out."""

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
    """Another node's query, with a method and an id. Its content does not matter: every query gets the same error."""

    transaction: bytes


def query(method: str, arguments: dict[bytes, Any], transaction: bytes) -> bytes:
    """Encode a query. It is marked as read-only (BEP 43): its sender wants no queries itself."""
    return bencode.encode(
        {b"a": arguments, b"q": method.encode(), b"ro": 1, b"t": transaction, b"v": b"PS\0\1", b"y": b"q"}
    )


def refusal(transaction: bytes) -> bytes:
    """Encode the error that answers any query.

    Without it, a node that takes this client for a node would wait for its timeout in lookups.
    """
    message: bytes = bencode.encode({b"e": [ERROR_METHOD, b"read-only"], b"t": transaction, b"y": b"e"})
    return message


def transaction_of(data: bytes) -> bytes:
    """Return the transaction id of an answer to a query of ours; any bytes if it is none. This decodes nothing."""
    start = data.rfind(_TRANSACTION_KEY) + len(_TRANSACTION_KEY)
    return data[start : start + TRANSACTION]


def decode(data: bytes) -> Reply | Failure | Question | None:
    """Decode a message. Return None if it is ill-formed, too long, or has too many parts."""
    if len(data) > MAX_DATAGRAM:
        return None
    try:
        message = bencode.decode(data, SPARE_TOKENS + len(data) // _TOKEN_BYTES)
    except ValueError:
        return None
    if not isinstance(message, dict) or not isinstance(transaction := message.get(b"t"), bytes):
        return None
    # `y` decides: libtorrent's error messages have an `r` too.
    match message.get(b"y"):
        case b"r":
            return _reply(transaction, message.get(b"r"))
        case b"e":
            match message.get(b"e"):
                case [int(code), *_]:
                    return Failure(transaction, code)
                case _:
                    return Failure(transaction, 0)
        case b"q" if len(transaction) <= MAX_TOKEN and _is_query(message):
            return Question(transaction)
        case _:
            return None


def item_target(public_key: bytes, salt: bytes) -> bytes:
    """Return the target (20 bytes) under which a mutable item is stored (BEP 44)."""
    return sha1(public_key + salt).digest()


def sign_item(key: Ed25519PrivateKey, salt: bytes, seq: int, value: object) -> bytes:
    """Return the signature (64 bytes) of a mutable item (BEP 44)."""
    return key.sign(_signed(salt, seq, value))


def is_valid(item: Item, public_key: bytes, salt: bytes) -> bool:
    """Return whether an item is signed by `public_key` and has a valid sequence number."""
    if item.public_key != public_key or item.seq < 0:
        return False
    return is_signed(public_key, _signed(salt, item.seq, item.value), _reduced(item.signature))


def _is_query(message: dict[bytes, Any]) -> bool:
    """Return whether a message has the parts that every query has. So it is longer than the error that answers it."""
    match message:
        case {b"q": bytes(), b"a": {b"id": bytes(node_id)}}:
            return len(node_id) == 20
        case _:
            return False


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


def _reduced(signature: bytes) -> bytes:
    """Return an Ed25519 signature with its second half in the range that RFC 8032, section 5.1.7, demands.

    libtorrent and others accept larger numbers below 2^253, too. If such an item counted as invalid here, it would lock
    a slot in which nothing can be seen.
    """
    number = int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or not _ORDER <= number < 2**253:
        return signature
    return signature[:32] + (number % _ORDER).to_bytes(32, "little")


def _contacts(packed: object, size: int) -> list[Contact]:
    step = 20 + size + 2
    if not isinstance(packed, bytes) or len(packed) % step:
        return []
    return [
        Contact(packed[start : start + 20], _address(packed[start + 20 : start + step]))
        for start in range(0, min(len(packed), MAX_NODES * step), step)
    ]


@lru_cache(8192)
def _address(packed: bytes) -> Address:
    host = IPv4Address(packed[:4]) if len(packed) == 6 else IPv6Address(packed[:16])
    return str(host), int.from_bytes(packed[-2:], "big")


def _signed(salt: bytes, seq: int, value: object) -> bytes:
    start = b"4:salt%d:%s" % (len(salt), salt) if salt else b""
    return start + b"3:seqi%de1:v" % seq + bencode.encode(value)
