"""bencodepy, for hostile input."""

from typing import Any, Final

import bencodepy
from bencodepy.exceptions import BencodeDecodeError


class _Decoder(bencodepy.BencodeDecoder):  # type: ignore[misc]
    def decode_string(self, x: bytes, f: int, kind: str = "value", **options: Any) -> tuple[bytes, int]:
        # As a dictionary's key bencodepy takes a string of negative length too, and turns in circles for ever.
        if not x[f : f + 1].isdigit():
            raise ValueError
        decoded: tuple[bytes, int] = super().decode_string(x, f, kind, **options)
        return decoded


_decoder: Final = _Decoder()


def decode(data: bytes) -> Any:
    """What `data` encodes; strings are bytes. Raises `ValueError`."""
    try:
        return _decoder.decode(data)
    except BencodeDecodeError as error:
        raise ValueError(str(error)) from None


def encode(value: Any) -> bytes:
    """The canonical encoding of ints, bytes, lists and dicts of them."""
    encoded: bytes = bencodepy.encode(value)
    return encoded
