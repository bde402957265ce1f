"""permessage-deflate, the compression of WebSocket messages (RFC 7692), as a server (sans I/O).

Always without context takeover, in both directions: each message is compressed by itself. A context would take 90 KB of
memory for each connection and direction. All connections share one compressor.
"""

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from websockets.exceptions import InvalidHeaderFormat
from websockets.frames import CloseCode
from websockets.headers import parse_extension

from tracker.net.errors import FrameError

NAME: Final = "permessage-deflate"

WINDOW_BITS: Final = 12
"""Size of the compressor's window, as a power of 2. Python's websockets asks for no more than this."""

_MEMORY: Final = 5
_LEVEL: Final = 1
"""zlib's fastest level. On session descriptions, level 6 saves another 1 %."""

_TAIL: Final = b"\x00\x00\xff\xff"
"""The end of each message, which is not sent (section 7.2.1)."""

_MAX_OFFERS: Final = 1024
_MAX_SEPARATORS: Final = 16
"""Characters of the longest value of the field that is parsed, and its commas and semicolons: each takes microseconds.
Browsers send 50 characters with one semicolon."""

_SLACK: Final = 1024
_PIECE: Final = 4096
"""Compressed bytes, beyond the number of inflated ones, that a message may have, and those that are inflated at once.

Honest compressors store data that does not become smaller, with 5 bytes for each 64 KB. A message of empty blocks with
a new code each takes 0.3 µs for each byte, and becomes nothing.
"""

_PARAMETERS: Final[Mapping[str, frozenset[str | None]]] = {
    "server_no_context_takeover": frozenset((None,)),
    "client_no_context_takeover": frozenset((None,)),
    "server_max_window_bits": frozenset(map(str, range(WINDOW_BITS, 16))),
    "client_max_window_bits": frozenset((None, *map(str, range(8, 16)))),
}
"""The parameters of an offer (section 7.1), with the values that are accepted."""


class Deflate:
    """Compresses and inflates messages.

    Attributes:
        min_size: Bytes of the shortest message that is compressed.
        sizes: Bytes of messages by direction (`received`, `sent`) and form (`compressed`, `inflated`).
    """

    def __init__(self, min_size: int) -> None:
        self.min_size = min_size
        self.sizes: Counter[tuple[str, str]] = Counter()
        self._compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -WINDOW_BITS, _MEMORY)

    def compress(self, payload: bytes) -> bytes:
        """Return a message in compressed form."""
        # A full flush forgets the message: the next one, of any connection, does not refer to it.
        compressed = self._compressor.compress(payload) + self._compressor.flush(zlib.Z_FULL_FLUSH)
        compressed = compressed.removesuffix(_TAIL)
        self.sizes["sent", "inflated"] += len(payload)
        self.sizes["sent", "compressed"] += len(compressed)
        return compressed

    def inflate(self, payload: bytes, max_size: int) -> bytes:
        """Return the message of a compressed payload.

        Raises:
            FrameError: The payload is not compressed data, is much longer than the inflated message, or has more than
                `max_size` bytes when it is inflated. No more than that is inflated.
        """
        try:
            inflated = _inflated(payload, max_size)
        except zlib.error:
            raise FrameError(CloseCode.PROTOCOL_ERROR) from None
        if len(inflated) > max_size:
            raise FrameError(CloseCode.MESSAGE_TOO_BIG)
        self.sizes["received", "inflated"] += len(inflated)
        self.sizes["received", "compressed"] += len(payload)
        return inflated


def accept_offer(fields: Sequence[str]) -> str | None:
    """Return the value of `Sec-WebSocket-Extensions` in the response, or None if no offer can be accepted.

    `fields` are the values of that field in the request. A malformed field has no offers, and neither has a very long
    one.
    """
    joined = ",".join(fields)
    if len(joined) > _MAX_OFFERS or joined.count(",") + joined.count(";") > _MAX_SEPARATORS:
        return None
    try:
        offers = [offer for field in fields for offer in parse_extension(field)]
    except InvalidHeaderFormat:
        return None
    for name, parameters in offers:
        if name != NAME or len(dict(parameters)) != len(parameters):
            continue
        if all(value in _PARAMETERS.get(parameter, ()) for parameter, value in parameters):
            # The last one is only needed by clients that limit the window (section 7.1.2.1).
            limited = any(parameter == "server_max_window_bits" for parameter, _ in parameters)
            bits = f"; server_max_window_bits={WINDOW_BITS}" if limited else ""
            return f"{NAME}; server_no_context_takeover; client_no_context_takeover{bits}"
    return None


def _inflated(payload: bytes, max_size: int) -> bytes:
    """Inflate a payload, up to `max_size` + 1 bytes. Raise `zlib.error` if it is invalid, or compressed in vain."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    if len(payload) <= _PIECE:
        return inflater.decompress(payload + _TAIL, max_size + 1)
    parts, size = [], 0
    for start in range(0, len(payload), _PIECE):
        end = start + _PIECE
        piece = payload[start:end]
        part = inflater.decompress(piece if end < len(payload) else piece + _TAIL, max_size + 1 - size)
        parts.append(part)
        size += len(part)
        if size > max_size:
            break
        if size + _SLACK < start:
            raise zlib.error("compressed in vain")
    return b"".join(parts)
