"""The names of swarms on one link, which prove that their sender knows the infohash (sans I/O).

A name is the tag of the swarm and a proof, in hexadecimal. The proof is a hash with the secret of the link, the
infohash and the id of the sender. So no tracker can make a name from a tag alone, or send back one that it was sent.
"""

import hmac
from typing import Final

from extensions.federation.filters import OwnSwarms, swarm_bytes
from extensions.federation.wire import NAME_LENGTH, TAG_LENGTH

PROOF_BYTES: Final = (NAME_LENGTH - TAG_LENGTH) // 2


class LinkNames:
    """The names of this side (`own_id`, 32 bytes) and of the other side (`their_id`), which share `secret`.

    Only swarms that are open here have names: those in `own`.
    """

    def __init__(self, own: OwnSwarms, secret: bytes, own_id: bytes, their_id: bytes) -> None:
        self._own = own
        self._secret = secret
        self._own_id = own_id
        self._their_id = their_id
        self._names: dict[str, bytes] = {}
        """Names of this side by infohash."""
        self._hashes: dict[str, str] = {}
        """Infohashes by names of the other side."""
        self._theirs: dict[str, str] = {}
        """Names of the other side by infohash."""

    def name_of(self, info_hash: str) -> bytes:
        """Return the name of an open swarm in messages of this side."""
        name = self._names.get(info_hash)
        if name is None:
            name = self._names[info_hash] = self._make(info_hash, self._own_id).encode()
        return name

    def info_hash_of(self, name: str) -> str | None:
        """Return the open swarm that the other side has named, or None if there is none or the proof is wrong."""
        known = self._hashes.get(name)
        if known is not None:
            return known
        try:
            info_hash = self._own.info_hash_of(int(name[:TAG_LENGTH], 16))
        except ValueError:
            return None
        if info_hash is None or not hmac.compare_digest(self._make(info_hash, self._their_id).encode(), name.encode()):
            return None
        self._hashes[name] = info_hash
        self._theirs[info_hash] = name
        return info_hash

    def forget(self, info_hash: str) -> None:
        """Forget the names of a swarm that has closed."""
        self._names.pop(info_hash, None)
        name = self._theirs.pop(info_hash, None)
        if name is not None:
            del self._hashes[name]

    def _make(self, info_hash: str, sender: bytes) -> str:
        proof = hmac.digest(self._secret, sender + swarm_bytes(info_hash), "sha256")[:PROOF_BYTES]
        return f"{self._own.tag_of(info_hash):0{TAG_LENGTH}x}{proof.hex()}"
