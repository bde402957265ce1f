"""Hostile messages: they are refused or served, and only as much of them is looked at as a valid message could need."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import Raw

from tests.client import announce, answer, offers
from tracker.protocol import lenient
from tracker.protocol.codec import decode
from tracker.protocol.errors import RequestError
from tracker.protocol.lenient import SPARE_ITEMS, first_items
from tracker.protocol.messages import Announce, Scrape
from tracker.reasons import DropReason

HASH = "h" * 20
PEER = "p" * 20
SIZE = 256 * 1024
HARD_NUMBER = "9007199254740993.00000000000000000001"


def filled(before: str, unit: str, after: str) -> bytes:
    """Return a message of `SIZE` bytes with one part that repeats."""
    return (before + unit * ((SIZE - len(before) - len(after)) // len(unit)) + after).encode()


def with_field(name: str, unit: str, last: str) -> bytes:
    """Return an announce with a huge list in one field."""
    head = json.dumps(announce(PEER))[:-1]
    return filled(f'{head},"{name}":[', f"{unit},", f"{last}]}}")


def announced(payload: bytes, max_offers: int = 20) -> Announce:
    message = decode(payload, max_offers)
    assert isinstance(message, Announce)
    return message


class Calls:
    """Counts the calls of a decoder, and the bytes of its longest argument."""

    def __init__(self, decoder: Callable[[Any], Any]) -> None:
        self.number = self.longest = 0
        self._decoder = decoder

    def __call__(self, data: Any) -> Any:
        self.number += 1
        self.longest = max(self.longest, len(bytes(data)))
        return self._decoder(data)


@pytest.mark.parametrize(("text", "items"), [("[]", []), ("[1]", ["1"]), ('[ [1,2] ,"a", {}]', ["[1,2]", '"a"', "{}"])])
def test_the_first_items_of_a_list(text: str, items: list[str]) -> None:
    found, are_more = first_items(Raw(text.encode()), 3)
    assert ([bytes(item).decode() for item in found], are_more) == (items, False)
    found, are_more = first_items(Raw(text.encode()), 1)
    assert ([bytes(item).decode() for item in found], are_more) == (items[:1], len(items) > 1)


@pytest.mark.parametrize(
    "unit", ["1", "[]", "{}", '""', HARD_NUMBER, '{"offer":{"type":"offer","sdp":1},"offer_id":1}']
)
def test_of_a_huge_list_of_offers_only_the_first_are_looked_at(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(lenient._decode_offer)  # noqa: SLF001
    monkeypatch.setattr(lenient, "_decode_offer", calls)
    message = announced(with_field("offers", unit, "1"))
    assert (len(message.offers), message.invalid_offers, message.surplus_offers) == (0, 20 + SPARE_ITEMS, 1)
    assert calls.number <= 20 + SPARE_ITEMS


def test_of_a_huge_list_of_well_formed_offers_only_the_first_are_checked() -> None:
    sent = offers(SPARE_ITEMS + 50)
    for item in sent[: SPARE_ITEMS + 1]:
        item["offer_id"] = ""
    message = announced(json.dumps(announce(PEER, offers=sent, numwant=None)).encode(), 20)
    assert (len(message.offers), message.invalid_offers, message.surplus_offers) == (19, SPARE_ITEMS + 1, 30)
    message = announced(json.dumps(announce(PEER, offers=[1, *sent], numwant=None)).encode(), 20)
    assert (len(message.offers), message.invalid_offers, message.surplus_offers) == (18, SPARE_ITEMS + 2, 1)


def test_a_few_bad_offers_take_no_place_of_good_ones() -> None:
    message = announced(json.dumps(announce(PEER, offers=[*[5] * SPARE_ITEMS, *offers(30)], numwant=None)).encode())
    assert (len(message.offers), message.invalid_offers, message.surplus_offers) == (20, SPARE_ITEMS, 1)


@pytest.mark.parametrize("name", ["left", "numwant", "event", "unknown"])
@pytest.mark.parametrize("unit", ["1", "[]", '{"a":{}}', HARD_NUMBER])
def test_a_huge_list_in_a_field_has_no_effect(name: str, unit: str) -> None:
    message = announced(with_field(name, unit, "0"))
    assert (message.complete, message.stopped, message.invalid_offers) == (False, False, 0)


@pytest.mark.parametrize("digits", ["9" * 200_000, "-" + "1" * 5000, "1e999", "1" + "0" * 31])
@pytest.mark.parametrize("name", ["left", "numwant"])
def test_a_number_that_nobody_needs_is_no_number(name: str, digits: str) -> None:
    payload = json.dumps(announce(PEER, offers=offers(3), **{name: "MARK"})).replace('"MARK"', digits).encode()
    message = announced(payload)
    assert (message.complete, len(message.offers)) == (False, 3)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("action", DropReason.UNKNOWN_ACTION),
        ("info_hash", DropReason.INVALID_INFO_HASH),
        ("peer_id", DropReason.INVALID_PEER_ID),
        ("to_peer_id", DropReason.INVALID_ANSWER),
        ("offer_id", DropReason.INVALID_ANSWER),
        ("answer", DropReason.INVALID_ANSWER),
    ],
)
@pytest.mark.parametrize(
    "value", ["[" + "1," * 100_000 + "1]", '"' + "x" * 200_000 + '"', "[" * 900 + "]" * 900, "1e999"]
)
def test_a_huge_value_is_refused_as_any_wrong_one(name: str, reason: DropReason, value: str) -> None:
    message = answer(PEER, "q" * 20, "o" * 20) | {name: "MARK"}
    with pytest.raises(RequestError) as caught:
        decode(json.dumps(message).replace('"MARK"', value).encode(), 20)
    assert caught.value.reason is reason
    assert len(caught.value.info_hash) == 20


def test_strings_that_are_too_long_for_an_id_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(lenient._decode_text)  # noqa: SLF001
    monkeypatch.setattr(lenient, "_decode_text", calls)
    assert not announced(json.dumps(announce(PEER, event="x" * 200_000, left=[])).encode()).stopped
    assert calls.longest < 30


def test_long_spellings_of_zero_are_not_decoded() -> None:
    head = json.dumps(announce(PEER))[:-1]
    assert announced(f'{head},"left":0.{"0" * 20}}}'.encode()).complete
    assert not announced(f'{head},"left":0.{"0" * 40}}}'.encode()).complete


def test_a_message_of_thousands_of_strings_is_decoded_leniently_at_once() -> None:
    for number, surplus in ((100, 80), (1000, 1 + SPARE_ITEMS)):
        message = announced(json.dumps(announce(PEER, offers=offers(number), numwant=None)).encode())
        assert (len(message.offers), message.invalid_offers, message.surplus_offers) == (20, 0, surplus)


def test_an_id_of_escapes_is_taken_beside_an_odd_field() -> None:
    text = "\U0001f600" * 64
    message = announced(json.dumps(announce(text, info_hash=text, left=[])).encode())
    assert (message.info_hash, message.peer_id) == (text, text)


def test_a_field_that_repeats_has_its_last_value() -> None:
    head = json.dumps(announce(PEER))[:-1]
    assert announced(f'{head},"left":1,"left":[],"left":0}}'.encode()).complete
    assert announced(filled(head, f',"left":{HARD_NUMBER}', ',"left":0}')).complete
    assert announced(filled(head, ',"event":""', ',"event":"stopped"}')).stopped


@pytest.mark.parametrize(("unit", "valid"), [('"",', 0), ("1,", 0), ("[],", 0), ('"x",', 1), (f'"{HASH}",', 1)])
def test_of_a_huge_scrape_only_the_first_ids_are_looked_at(unit: str, valid: int) -> None:
    message = decode(filled('{"action":"scrape","info_hash":[', unit, f"{unit[:-1]}]}}"), 20, 256)
    assert isinstance(message, Scrape)
    assert message.info_hashes is not None
    assert (len(message.info_hashes), message.invalid) == (valid, 0 if valid else 256 + SPARE_ITEMS)
    assert message.surplus > 0


def test_a_few_bad_ids_take_no_place_of_good_ones() -> None:
    ids = [f"{number:020}" for number in range(300)]
    for bad in (5, ""):
        wanted = [*[bad] * SPARE_ITEMS, *ids]
        message = decode(json.dumps({"action": "scrape", "info_hash": wanted}).encode(), 20, 256)
        assert isinstance(message, Scrape)
        assert (message.info_hashes, message.invalid) == (ids[:256], SPARE_ITEMS)
        assert message.surplus == (1 if bad else 44)
