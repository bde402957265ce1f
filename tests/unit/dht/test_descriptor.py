"""What a tracker says of itself, and what is believed of it."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.dht.records import descriptor
from extensions.dht.records.descriptor import DescriptorError
from extensions.dht.records.entry import LIFETIME, SKEW, Rejected, sign_entry
from extensions.trackers import MAX_URL
from tests.unit.dht.entries import HASH, NOW, URL, identity

OWN = descriptor.write(identity(1), URL, NOW)
ID = json.loads(OWN)["id"]
OTHER = json.loads(descriptor.write(identity(2), URL, NOW))

reproducible = settings(derandomize=True)


def changed(**fields: object) -> bytes:
    return json.dumps({**json.loads(OWN), **fields}).encode()


def reason_of(body: bytes, now: float = NOW) -> Rejected:
    """Why it is not believed."""
    with pytest.raises(DescriptorError) as raised:
        descriptor.read(body, now)
    return raised.value.reason


def test_ones_own_is_read() -> None:
    entry = descriptor.read(OWN, NOW)
    assert entry == sign_entry(identity(1), b"", URL, NOW)
    assert (entry.tracker_id, entry.expires, entry.url) == (ID, NOW + LIFETIME, URL)


def test_the_longest_has_room_in_what_is_fetched() -> None:
    assert len(descriptor.write(identity(1), "wss://".ljust(MAX_URL, "a"), NOW)) < descriptor.MAX_SIZE


def test_none_is_written_for_a_bad_url() -> None:
    with pytest.raises(ValueError, match="not a tracker's URL"):
        descriptor.write(identity(1), "https://tracker.example.org", NOW)


def test_other_fields_and_white_space_do_not_matter() -> None:
    table = {"more": [1, {"than": None}], **dict(reversed(json.loads(OWN).items()))}
    assert descriptor.read(json.dumps(table, indent=4).encode(), NOW) == descriptor.read(OWN, NOW)


def test_however_the_id_is_written_the_tracker_is_the_same() -> None:
    # Otherwise one tracker could be made to look like many.
    for text in (ID.upper(), " ".join(ID[at : at + 2] for at in range(0, 64, 2))):
        assert descriptor.read(changed(id=text), NOW).tracker_id == ID


def test_it_is_good_from_a_little_before_its_signing_to_its_end() -> None:
    assert descriptor.read(OWN, NOW - SKEW) == descriptor.read(OWN, NOW + LIFETIME - 0.5)
    assert reason_of(OWN, NOW - SKEW - 1) == Rejected.FAR_EXPIRY
    assert reason_of(OWN, NOW + LIFETIME) == Rejected.EXPIRED


UNSOUND: list[tuple[Rejected, dict[str, Any]]] = [
    *((Rejected.WRONG_LENGTH, {"id": text}) for text in ("", ID[2:], ID + "00")),
    *((Rejected.WRONG_LENGTH, {"signature": text}) for text in ("", "00" * 63, "00" * 65)),
    *((Rejected.EXPIRED, {"expires": when}) for when in (0, -1, NOW, -(10**2000))),
    *((Rejected.FAR_EXPIRY, {"expires": when}) for when in (NOW + LIFETIME + SKEW + 1, 2**64, 10**2000)),
    *((Rejected.INVALID_URL, {"url": url}) for url in ("", "https://a", "wss://é", "wss://a/\ud800", "wss://a\0")),
    *(
        (Rejected.INVALID_SIGNATURE, fields)
        for fields in (
            *({"expires": NOW + LIFETIME + 1}, {"url": URL + "/"}, {"id": "ff" * 32}, {"signature": "00" * 64}),
            *({"id": OTHER["id"]}, {"signature": OTHER["signature"]}),
        )
    ),
]
WRONG_VALUES: dict[str, list[Any]] = {
    "id": [None, 5, 5.5, True, [ID], {}, "g" * 64, ID[1:], "０" * 64],
    "signature": [None, 5, True, [], {}, "g" * 128, "0"],
    "expires": [None, "1", True, 1.5, float("nan"), float("inf"), float(NOW + 60), [], {}],
    "url": [None, 5, True, [URL], {}],
}
WRONG_FORMS = [{field: value} for field, values in WRONG_VALUES.items() for value in values]
NO_TABLES = [
    *(b"", b" ", b"\0", b"\xff", b"{", b"}", b"[]", b"{}", b"null", b"true", b"5", b'"id"', b"NaN", b'["id"]'),
    *(OWN[:-1], OWN + b"x", OWN + OWN, b"[" + OWN + b"]", b"<html>" + OWN, b'{"id": "' + b"a" * 4000),
]
HUGE = [
    *(text * 100_000 for text in (b"[", b"{", b'{"id":', b'"', b"1", b"\0")),
    b"[" * 100_000 + b"]" * 100_000,
    changed(expires="~").replace(b'"~"', b"1" * 10_000),
    changed(expires="~").replace(b'"~"', b"1e999"),
    changed(id="ab" * 100_000),
    changed(url="wss://" + "a" * 100_000),
]


@pytest.mark.parametrize(("reason", "fields"), UNSOUND, ids=lambda value: str(value)[:40])
def test_an_unsound_one_is_not_believed(reason: Rejected, fields: dict[str, Any]) -> None:
    assert reason_of(changed(**fields)) == reason


@pytest.mark.parametrize("fields", WRONG_FORMS, ids=str)
def test_a_field_of_a_wrong_form_makes_it_none(fields: dict[str, Any]) -> None:
    assert reason_of(changed(**fields)) == Rejected.INVALID_DESCRIPTOR


@pytest.mark.parametrize("missing", ["id", "url", "expires", "signature"])
def test_without_one_of_its_fields_it_is_none(missing: str) -> None:
    table = json.loads(OWN)
    del table[missing]
    assert reason_of(json.dumps(table).encode()) == Rejected.INVALID_DESCRIPTOR


@pytest.mark.parametrize("body", NO_TABLES, ids=lambda body: repr(body[:20]))
def test_what_is_no_table_is_none(body: bytes) -> None:
    assert reason_of(body) == Rejected.INVALID_DESCRIPTOR


@pytest.mark.parametrize("body", HUGE, ids=lambda body: repr(body[:20]))
def test_a_huge_or_deep_one_is_none(body: bytes) -> None:
    assert reason_of(body) in (Rejected.INVALID_DESCRIPTOR, Rejected.WRONG_LENGTH, Rejected.INVALID_URL)


def test_an_entry_for_an_infohash_is_no_descriptor() -> None:
    entry = sign_entry(identity(1), HASH, URL, NOW)
    assert reason_of(changed(signature=entry.signature.hex())) == Rejected.INVALID_SIGNATURE


def is_sound(body: bytes) -> None:
    """Read anything; what is believed is what was signed."""
    with suppress(DescriptorError):
        assert descriptor.read(body, NOW) == descriptor.read(OWN, NOW)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from([ID, URL]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
tables = st.fixed_dictionaries({}, optional=dict.fromkeys(("id", "url", "expires", "signature"), values))


@given(st.binary(max_size=300) | values.map(lambda value: json.dumps(value).encode()))
@reproducible
def test_anything_can_be_read(body: bytes) -> None:
    is_sound(body)


@given(tables)
@reproducible
def test_any_fields_can_be_read(fields: dict[str, Any]) -> None:
    is_sound(changed(**fields))
    is_sound(json.dumps(fields).encode())


@given(st.lists(st.tuples(st.integers(0, len(OWN) - 1), st.integers(0, 255)), min_size=1, max_size=3))
@settings(reproducible, max_examples=300)
def test_whatever_happens_to_it_nothing_but_what_was_signed_is_believed(made: list[tuple[int, int]]) -> None:
    body = bytearray(OWN)
    for where, byte in made:
        body[where] = byte
    is_sound(bytes(body))
