"""The fields of an announce that the tracker itself does not use (sans I/O)."""

from typing import Any, Final

import msgspec
from msgspec import Raw
from msgspec.json import Decoder

MAX_BYTES: Final = 16 * 1024
"""Bytes of JSON that are decoded of one announce. A decoded value can take twenty times as much memory."""

MAX_QUOTES: Final = 1500
"""Quotation marks of an announce whose fields are decoded: each name has two."""

_TAKEN: Final = frozenset(("action", "info_hash", "peer_id", "offers", "answer"))

_decode_object = Decoder(dict[str, Raw]).decode
_decode_value = Decoder().decode


def other_fields(payload: bytes) -> dict[str, Any]:
    """Return the fields of an announce besides its ids and offers, as values of Python.

    If a name repeats, its last value counts, as in `tracker.protocol.codec`. Fields beyond `MAX_BYTES` in all are left
    out, and so are values that are not valid JSON in UTF-8. With more than `MAX_QUOTES`, all fields are left out.
    """
    found: dict[str, Any] = {}
    if len(payload) > MAX_QUOTES and payload.count(b'"') > MAX_QUOTES:
        return found
    try:
        raws = _decode_object(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return found
    left = MAX_BYTES
    for name, raw in raws.items():
        if name in _TAKEN:
            continue
        left -= len(name) + memoryview(raw).nbytes
        if left < 0:
            break
        try:
            found[name] = _decode_value(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
    return found
