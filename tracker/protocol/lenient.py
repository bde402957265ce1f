"""Decode a client's JSON object in which a field has another type than most clients give it (sans I/O).

One bad offer, or one odd field, must not spoil the rest of a message. Nor must it cost much: each field stays raw until
its first byte and its length fit the type, and of a list only the first items are looked at. So a long list, deep
nesting or a number of many digits costs no more than a walk over its bytes in C. This module is apart from
`tracker.protocol.codec` because msgspec's structs cannot be compiled with mypyc.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw, Struct
from msgspec.json import Decoder

from tracker.protocol.ids import MAX_TEXT_ID
from tracker.protocol.messages import NULL, AnswerDescription, Frame, Offer

SPARE_ITEMS: Final = 10
"""Items of a list that are looked at beyond the number that is served, so that a few bad ones do no harm."""

_MAX_RAW_TEXT: Final = 2 + 12 * MAX_TEXT_ID
"""Bytes of the longest raw string that is decoded: an id in which each character is written as two `\\u` escapes."""

_MAX_RAW_NUMBER: Final = 32
"""Bytes of the longest number that is decoded. Floats of more digits can take thousands of instructions for each."""

_ABSENT: Final = Raw(b"")
_MALFORMED: Final = AnswerDescription("answer", NULL)
_QUOTE: Final = ord('"')
_BRACKET: Final = ord("[")
_BRACE: Final = ord("{")
_NUMBER_STARTS: Final = frozenset(b"-0123456789")


class _Fields(Struct, gc=False):
    """The fields of a `Frame`, none of which is decoded."""

    action: Raw = NULL
    info_hash: Raw = NULL
    peer_id: Raw = NULL
    to_peer_id: Raw = NULL
    offer_id: Raw = NULL
    event: Raw = NULL
    left: Raw = NULL
    numwant: Raw = NULL
    offers: Raw = NULL
    answer: Raw = NULL


_decode_fields = Decoder(_Fields).decode
_decode_offer = Decoder(Offer).decode
_decode_answer = Decoder(AnswerDescription).decode
_decode_text = Decoder(str).decode
_decode_number: Callable[[Raw], int | float] = Decoder(int | float).decode


class Lenient(NamedTuple):
    """A decoded object: its frame, without the items of lists that are not looked at.

    `invalid_offers` is the number of offers that are left out because they are malformed. The two others are 1 if the
    list of offers, or of info_hashes, has more items than are looked at: the further items are not counted.
    """

    frame: Frame
    invalid_offers: int
    surplus_offers: int
    surplus_info_hashes: int


def decode_leniently(payload: bytes, max_offers: int, max_scrape: int) -> Lenient:
    """Decode a JSON object. A field of an unusual type is replaced by a value that is invalid, too.

    At most `SPARE_ITEMS` more offers than `max_offers`, and info_hashes than `max_scrape`, are looked at.

    Raises:
        msgspec.MsgspecError: if the payload is not a JSON object.
        RecursionError: if it is nested too deeply.
        UnicodeDecodeError: if a field that is decoded is not UTF-8.
    """
    fields = _decode_fields(payload)
    offers, invalid_offers, surplus_offers = _pick_offers(fields.offers, max_offers)
    info_hash, surplus_info_hashes = _info_hash(fields.info_hash, max_scrape)
    left, numwant = _number(fields.left), _number(fields.numwant)
    frame = Frame(
        action=_text(fields.action),
        info_hash=info_hash,
        peer_id=_text(fields.peer_id),
        to_peer_id=_text(fields.to_peer_id),
        offer_id=fields.offer_id,
        event=_text(fields.event),
        left=None if left is None else math.ceil(abs(left)),
        numwant=None if numwant is None else int(numwant),
        offers=offers,
        answer=_answer(fields.answer),
    )
    return Lenient(frame, invalid_offers, surplus_offers, surplus_info_hashes)


def first_items(raw: Raw, count: int) -> tuple[list[Raw], bool]:
    """Return the first `count` items of a raw list, and whether it has more."""
    found = [item for item in msgspec.structs.astuple(_decoder_of_first(count + 1)(raw)) if item is not _ABSENT]
    return found[:count], len(found) > count


@lru_cache(16)
def _decoder_of_first(count: int) -> Callable[[Raw], Any]:
    # Of an array, msgspec decodes as many items as the struct has fields. It walks over the rest, and creates nothing.
    fields = [(f"item_{number}", Raw, _ABSENT) for number in range(count)]
    return Decoder(msgspec.defstruct("FirstItems", fields, array_like=True, gc=False)).decode


def _pick_offers(raw: Raw, max_offers: int) -> tuple[list[Offer], int, int]:
    """Return the well-formed offers among the first items, the number of the others, and whether there are more."""
    if raw == NULL:
        return [], 0, 0
    if memoryview(raw)[0] != _BRACKET:
        return [], 1, 0
    items, are_more = first_items(raw, max_offers + SPARE_ITEMS)
    offers: list[Offer] = []
    for item in items:
        # To look first is much cheaper than an exception.
        if memoryview(item)[0] == _BRACE:
            try:
                offers.append(_decode_offer(item))
            except (msgspec.MsgspecError, RecursionError):
                continue
    return offers, len(items) - len(offers), int(are_more)


def _info_hash(raw: Raw, max_scrape: int) -> tuple[str | list[str] | None, int]:
    if memoryview(raw)[0] != _BRACKET:
        return _text(raw), 0
    items, are_more = first_items(raw, max_scrape + SPARE_ITEMS)
    return [_text(item) or "" for item in items], int(are_more)


def _answer(raw: Raw) -> AnswerDescription | None:
    if raw == NULL:
        return None
    try:
        return _decode_answer(raw)
    except (msgspec.MsgspecError, RecursionError):
        return _MALFORMED


def _text(raw: Raw) -> str | None:
    """Return the text of a string that may be an id, None for `null`, and "" for any other value."""
    if raw == NULL:
        return None
    view = memoryview(raw)
    return _decode_text(raw) if view[0] == _QUOTE and view.nbytes <= _MAX_RAW_TEXT else ""


def _number(raw: Raw) -> int | float | None:
    """Return a number, or None for any other value."""
    view = memoryview(raw)
    if view[0] not in _NUMBER_STARTS or view.nbytes > _MAX_RAW_NUMBER:
        return None
    try:
        return _decode_number(raw)
    except msgspec.MsgspecError:
        return None  # 1e999
