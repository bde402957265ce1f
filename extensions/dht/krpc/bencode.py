"""Bencoding (BEP 3) that is safe for hostile input.

bencodepy encodes. Its decoder takes 5 ms for a datagram of lists, and loops for ever at a key of negative length.
"""

import re
import sys
from typing import Any, Final

import bencodepy

MAX_DEPTH: Final = 100
"""Containers inside each other. The encoder, among others, needs a call for each."""

_TOKEN: Final = re.compile(rb"([0-9]{1,10}):|i(?!-0)(-?[0-9]+)e|([lde])")
_CONTAINER: Final = 3
"""Tokens that the start of a list or dict counts for: with its end, it takes as long."""

_STRING: Final = 1
_INTEGER: Final = 2


def decode(data: bytes, max_tokens: int = sys.maxsize) -> Any:
    """Decode one bencoded object; strings become bytes. If a key of a dict repeats, its last value counts.

    A token is a string, an integer, or the end of a list or dict; a start counts for three. Each takes up to a
    microsecond.

    Raises:
        ValueError: if `data` is not exactly one object, has more than `max_tokens` tokens, or is nested too deeply.
    """
    match = _TOKEN.match
    position = tokens = 0
    items: list[Any] = []
    outer: list[tuple[list[Any], bool]] = []
    """The items of the open containers without the innermost one, and whether the container in them is a dict."""
    while not items or outer:
        token = match(data, position)
        tokens += 1
        if token is None or tokens > max_tokens:
            raise ValueError("invalid bencoding")
        position = token.end()
        kind = token.lastindex
        if kind == _STRING:
            start, position = position, position + int(token[1])
            items.append(data[start:position])
        elif kind == _INTEGER:
            items.append(int(token[2]))
        elif token[3] != b"e":
            tokens += _CONTAINER - 1
            if len(outer) == MAX_DEPTH:
                raise ValueError("maximum depth of bencoding exceeded")
            outer.append((items, token[3] == b"d"))
            items = []
        elif outer:
            inner, (items, is_dict) = items, outer.pop()
            items.append(_dict_of(inner) if is_dict else inner)
        else:
            raise ValueError("invalid bencoding")
    if position != len(data):
        # Also if the last string is longer than the rest of the data.
        raise ValueError("invalid bencoding")
    return items[0]


def encode(value: Any) -> bytes:
    """Return the canonical encoding of an object made of ints, bytes, lists and dicts with bytes keys."""
    encoded: bytes = bencodepy.encode(value)
    return encoded


def _dict_of(items: list[Any]) -> dict[bytes, Any]:
    """Return a dict of keys and values in turn."""
    keys = items[::2]
    if len(items) % 2 or not all(type(key) is bytes for key in keys):
        raise ValueError("invalid bencoding of a dict")
    return dict(zip(keys, items[1::2], strict=True))
