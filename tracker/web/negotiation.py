"""The choice between representations by the fields `Accept` and `Accept-Encoding` (RFC 9110, section 12; sans I/O)."""

import re
import zlib
from typing import Final

_WEIGHT: Final = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")

_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
"""The argument with which zlib writes the format gzip."""


def quality(field: str, value: str) -> float:
    """Return the weight of a value in a field, from 0 to 1 (section 12.4.2): 0 if the field does not name the value.

    Wildcards are ignored, because their senders also take the default. A malformed weight counts as 0.
    """
    highest = 0.0
    for member in field.lower().split(","):
        name, *parameters = (part.strip(" \t") for part in member.split(";"))
        if name == value:
            weights = [parameter[2:] for parameter in parameters if parameter.startswith("q=")]
            weight = weights[-1] if weights else "1"
            highest = max(highest, float(weight) if _WEIGHT.fullmatch(weight) else 0.0)
    return highest


def accepts_gzip(field: str) -> bool:
    """Return whether a client that sent this `Accept-Encoding` takes gzip."""
    return quality(field, "gzip") > 0


class Gzip:
    """Compresses a text in pieces, at the lowest level: higher ones cost several times as much and save little."""

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(1, zlib.DEFLATED, _GZIP_WINDOW)

    def add(self, piece: bytes) -> bytes:
        """Return the compressed data that are ready."""
        return self._compressor.compress(piece)

    def end(self) -> bytes:
        """Return the rest of the compressed data."""
        return self._compressor.flush()


def gzipped(body: bytes) -> bytes:
    """Return a whole text compressed."""
    gzip = Gzip()
    return gzip.add(body) + gzip.end()
