"""Envelopes of messages between nodes (sans I/O).

An envelope is a header and a body. The header, in network byte order: the magic bytes, the version, the kind, CRC-32 of
the name of the cluster, the ids of sender and receiver (zero for all nodes), epoch, sequence number, and 16 bytes of
HMAC-SHA256 over everything else, or zeros if the transport needs none. The body is a MessagePack array of messages
(`extensions.cluster.wire`).
"""

import hmac
from hashlib import sha256
from struct import Struct
from typing import Final
from zlib import crc32

from extensions.cluster.errors import RefusedError
from extensions.cluster.reasons import Refused

MAGIC: Final = b"PSC"
VERSION: Final = 1
"""Nodes of different versions do not understand each other."""

BROADCAST: Final = 0
STREAM: Final = 1
SINGLE: Final = 2
"""The kinds of envelopes: to all nodes; in the sequence from one node to another; to one node, without a sequence."""

_HEADER: Final = Struct(">3sBB4s8s8sIQ")
_HEAD_LENGTH: Final = 37
_MAC_LENGTH: Final = 16
_BLOCK: Final = 64
"""Bytes of a block of SHA-256, and most bytes of a key."""

HEADER_LENGTH: Final = 53
_NO_MAC: Final = bytes(_MAC_LENGTH)
_ARRAY: Final = Struct(">BI")
_ARRAY_32: Final = 0xDD
OVERHEAD: Final = 58
"""Bytes of an envelope besides its messages."""

ALL: Final = bytes(8)
"""The receiver of a broadcast."""


def derive_key(secret: bytes, name: str) -> bytes:
    """Return the key of MACs in a cluster, from the secret that its nodes share and the cluster's name."""
    return hmac.digest(secret, b"peerservers cluster 1\0" + name.encode(), "sha256")


class Sealer:
    """Makes and checks envelopes of one node. `key` is None if the transport needs no MAC."""

    def __init__(self, node_id: str, name: str, key: bytes | None) -> None:
        self._node = bytes.fromhex(node_id)
        self._name = crc32(name.encode()).to_bytes(4, "big")
        self._needs_mac = key is not None
        # HMAC (RFC 2104) written out, so that the key is hashed only once: this halves the time for a short message.
        padded = (key or b"").ljust(_BLOCK, b"\0")
        self._inner = sha256(bytes([byte ^ 0x36 for byte in padded]))
        self._outer = sha256(bytes([byte ^ 0x5C for byte in padded]))

    def seal(self, kind: int, receiver: bytes, epoch: int, seq: int, parts: list[bytes]) -> bytes:
        """Return an envelope with encoded messages. `receiver` is the binary id of a node, or `ALL`."""
        head = _HEADER.pack(MAGIC, VERSION, kind, self._name, self._node, receiver, epoch, seq)
        array = _ARRAY.pack(_ARRAY_32, len(parts))
        if not self._needs_mac:
            return b"".join((head, _NO_MAC, array, *parts))
        body = b"".join((array, *parts))
        return b"".join((head, self._mac(head, body), body))

    def open(self, payload: bytes) -> tuple[int, bytes, int, int]:
        """Check an envelope; return kind, binary id of the sender, epoch and sequence number.

        Raises:
            RefusedError: if it cannot be used.
        """
        if len(payload) < HEADER_LENGTH:
            raise RefusedError(Refused.GARBAGE)
        magic, version, kind, name, sender, receiver, epoch, seq = _HEADER.unpack_from(payload)
        if magic != MAGIC:
            raise RefusedError(Refused.GARBAGE)
        if version != VERSION:
            raise RefusedError(Refused.OTHER_VERSION, sender.hex())
        if name != self._name:
            raise RefusedError(Refused.WRONG_NAME, sender.hex())
        if sender == self._node:
            # A broadcast of this node, which a connection that has ended meanwhile has delivered late.
            raise RefusedError(Refused.DUPLICATE, sender.hex())
        if receiver != (ALL if kind == BROADCAST else self._node):
            raise RefusedError(Refused.OTHER_NODE, sender.hex())
        if self._needs_mac:
            body = memoryview(payload)[HEADER_LENGTH:]
            mac = self._mac(payload[:_HEAD_LENGTH], body)
            if not hmac.compare_digest(mac, payload[_HEAD_LENGTH:HEADER_LENGTH]):
                raise RefusedError(Refused.WRONG_KEY, sender.hex())
        if kind > SINGLE:
            raise RefusedError(Refused.GARBAGE, sender.hex())
        return kind, sender, epoch, seq

    def _mac(self, head: bytes, body: bytes | memoryview) -> bytes:
        inner = self._inner.copy()
        inner.update(head)
        inner.update(body)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return bytes(outer.digest()[:_MAC_LENGTH])


def sender_of(payload: bytes) -> str:
    """Return the id of the sender that an envelope names, which is not checked; empty if there is none."""
    return str(_HEADER.unpack_from(payload)[4].hex()) if len(payload) >= _HEAD_LENGTH else ""
