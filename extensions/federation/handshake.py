"""The handshake of a link: both sides prove their tracker ids (sans I/O). `docs/federation.md` specifies it."""

import hashlib
from collections.abc import Callable, Container
from hmac import compare_digest
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.federation import wire
from extensions.federation.reasons import EndReason
from extensions.signatures import verify

CONTEXT: Final = b"peerservers.federation.1"


class LinkError(Exception):
    """The link must be closed for `reason`. The text is for the log."""

    def __init__(self, reason: EndReason, text: str = "") -> None:
        super().__init__(text or reason.value)
        self.reason = reason


class Handshake:
    """The part of one side in a handshake. Methods raise `LinkError` if the link must end.

    Args:
        key: The key pair of this tracker.
        nonce: 32 random bytes.
        url: For the dialer: the URL that it has dialed.
        accepts: For the listener: returns whether a URL is one of its own. None for the dialer.
        expected: The tracker id that the other side must prove, if it is known.
        own_nonces: The nonces of this tracker's other links in handshake.
    """

    def __init__(
        self,
        key: Ed25519PrivateKey,
        nonce: bytes,
        url: str,
        accepts: Callable[[str], bool] | None,
        expected: str | None,
        own_nonces: Container[bytes],
    ) -> None:
        self.own_id = key.public_key().public_bytes_raw()
        self.their_id = b""
        """The id that the other side claims, from `on_hello` on, and has proved, from `on_proof` on."""
        self.secret = b""
        """Known to both sides, and different for every link; set by `on_hello`."""
        self._key = key
        self._nonce = nonce
        self._url = url
        self._accepts = accepts
        self._expected = expected
        self._own_nonces = own_nonces
        self._transcript = b""

    @property
    def is_dialer(self) -> bool:
        """Whether this side has dialed."""
        return self._accepts is None

    def hello(self, features: tuple[str, ...]) -> bytes:
        """Return the first message."""
        return wire.encode(wire.Hello(wire.VERSION, self.own_id.hex(), self._nonce.hex(), self._url, features))

    def on_hello(self, hello: wire.Hello) -> None:
        """Apply the first message of the other side."""
        if hello.version != wire.VERSION:
            raise LinkError(EndReason.WRONG_VERSION)
        self.their_id = from_hex(hello.id, 32)
        nonce = from_hex(hello.nonce, 32)
        # Any other tracker that has this id, and proves it, has a copy of the key.
        if self.their_id == self.own_id and (nonce == self._nonce or nonce in self._own_nonces):
            raise LinkError(EndReason.ITSELF)
        if self._expected and hello.id != self._expected:
            raise LinkError(EndReason.WRONG_ID)
        if self._accepts:
            # A third tracker that relays messages between two others was dialed by its own URL.
            if not self._accepts(hello.url):
                raise LinkError(EndReason.WRONG_URL)
            url, ids, nonces = hello.url, (self.their_id, self.own_id), (nonce, self._nonce)
        else:
            url, ids, nonces = self._url, (self.own_id, self.their_id), (self._nonce, nonce)
        if nonces[0] == nonces[1]:
            raise LinkError(EndReason.INVALID_PROOF)
        hashed = hashlib.sha256(url.encode()).digest()
        self._transcript = b"".join((CONTEXT, *ids, *nonces, hashed))
        self.secret = hashlib.sha256(b"names" + self._transcript).digest()

    def proof(self) -> str:
        """Return the signature of this side, in hexadecimal."""
        return self._key.sign(self._role(ours=True) + self._transcript).hex()

    def on_proof(self, signature: str) -> None:
        """Check the signature of the other side."""
        signed = self._role(ours=False) + self._transcript
        if not verify(self.their_id, signed, from_hex(signature, 64)):
            raise LinkError(EndReason.INVALID_PROOF)
        if self.their_id == self.own_id:
            raise LinkError(EndReason.SAME_KEY)

    def _role(self, ours: bool) -> bytes:
        return b"dialer " if self.is_dialer == ours else b"listener "


def from_hex(text: str, size: int) -> bytes:
    """Return the bytes of lower-case hexadecimal digits. Raise `LinkError` if these are not, or have another size."""
    # `fromhex` also takes upper case and spaces, but an id must have one form only.
    try:
        data = bytes.fromhex(text)
    except ValueError:
        raise LinkError(EndReason.INVALID_MESSAGE) from None
    if len(data) != size or not compare_digest(data.hex(), text):
        raise LinkError(EndReason.INVALID_MESSAGE)
    return data
