"""Bencoding (BEP 3) that is safe for hostile input, on top of bencodepy."""

from typing import Any, Final

import bencodepy
from bencodepy.exceptions import BencodeDecodeError


class _Decoder(bencodepy.BencodeDecoder):  # type: ignore[misc]
    def decode_string(self, x: bytes, f: int, kind: str = "value", **options: Any) -> tuple[bytes, int]:
        # As a key of a dict, bencodepy accepts a string of negative length, and then loops for ever.
        if not x[f : f + 1].isdigit():
            raise ValueError
        decoded: tuple[bytes, int] = super().decode_string(x, f, kind, **options)
        return decoded


_decoder: Final = _Decoder()


def decode(data: bytes) -> Any:
    """Decode one bencoded object; strings become bytes. Raises `ValueError` if `data` is not exactly one."""
    try:
        return _decoder.decode(data)
    except BencodeDecodeError as error:
        raise ValueError(str(error)) from None


def encode(value: Any) -> bytes:
    """Return the canonical encoding of an object made of ints, bytes, lists and dicts with bytes keys."""
    encoded: bytes = bencodepy.encode(value)
    return encoded
