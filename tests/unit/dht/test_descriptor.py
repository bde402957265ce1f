"""Descriptors: which ones are valid."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.dht.records import descriptor
from extensions.dht.records.descriptor import DescriptorError
from extensions.entries import LIFETIME, SKEW, Rejected, sign_entry
from extensions.trackers import MAX_URL
from tests.unit.dht.entries import HASH, NOW, URL, identity

OWN = descriptor.write(sign_entry(identity(1), b"", URL, NOW))
ID = json.loads(OWN)["id"]
OTHER = json.loads(descriptor.write(sign_entry(identity(2), b"", URL, NOW)))

reproducible = settings(derandomize=True)


def changed(**fields: object) -> bytes:
    return json.dumps({**json.loads(OWN), **fields}).encode()


def reason_of(body: bytes, now: float = NOW) -> Rejected:
    """Return the reason for which a descriptor is invalid."""
    with pytest.raises(DescriptorError) as raised:
        descriptor.read(body, now)
    return raised.value.reason


def test_our_own_descriptor_is_valid() -> None:
    entry = descriptor.read(OWN, NOW)
    assert entry == sign_entry(identity(1), b"", URL, NOW)
    assert (entry.tracker_id, entry.expires, entry.url) == (ID, NOW + LIFETIME, URL)


def test_the_longest_descriptor_may_be_fetched() -> None:
    assert len(descriptor.write(sign_entry(identity(1), b"", "wss://".ljust(MAX_URL, "a"), NOW))) < descriptor.MAX_SIZE


def test_other_keys_and_white_space_are_ignored() -> None:
    table = {"more": [1, {"than": None}], **dict(reversed(json.loads(OWN).items()))}
    assert descriptor.read(json.dumps(table, indent=4).encode(), NOW) == descriptor.read(OWN, NOW)


def test_a_descriptor_is_valid_from_shortly_before_its_signing_to_its_end() -> None:
    assert descriptor.read(OWN, NOW - SKEW) == descriptor.read(OWN, NOW + LIFETIME - 0.5)
    assert reason_of(OWN, NOW - SKEW - 1) == Rejected.FAR_EXPIRY
    assert reason_of(OWN, NOW + LIFETIME) == Rejected.EXPIRED


INVALID: list[tuple[Rejected, dict[str, Any]]] = [
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
    "id": [None, 5, 5.5, True, [ID], {}, "g" * 64, ID[1:], "０" * 64, ID.upper(), f"{ID[:2]} {ID[2:]}"],
    "signature": [None, 5, True, [], {}, "g" * 128, "0", "AB" * 64],
    "expires": [None, "1", True, 1.5, float("nan"), float("inf"), float(NOW + 60), [], {}],
    "url": [None, 5, True, [URL], {}],
}
WRONG_FIELDS = [{field: value} for field, values in WRONG_VALUES.items() for value in values]
NOT_TABLES = [
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


@pytest.mark.parametrize(("reason", "fields"), INVALID, ids=lambda value: str(value)[:40])
def test_an_invalid_entry(reason: Rejected, fields: dict[str, Any]) -> None:
    assert reason_of(changed(**fields)) == reason


@pytest.mark.parametrize("fields", WRONG_FIELDS, ids=str)
def test_a_field_of_a_wrong_type_or_form(fields: dict[str, Any]) -> None:
    assert reason_of(changed(**fields)) == Rejected.INVALID_DESCRIPTOR


@pytest.mark.parametrize("missing", ["id", "url", "expires", "signature"])
def test_a_missing_field(missing: str) -> None:
    table = json.loads(OWN)
    del table[missing]
    assert reason_of(json.dumps(table).encode()) == Rejected.INVALID_DESCRIPTOR


@pytest.mark.parametrize("body", NOT_TABLES, ids=lambda body: repr(body[:20]))
def test_a_body_that_is_not_a_json_object(body: bytes) -> None:
    assert reason_of(body) == Rejected.INVALID_DESCRIPTOR


@pytest.mark.parametrize("body", HUGE, ids=lambda body: repr(body[:20]))
def test_a_huge_or_deeply_nested_body(body: bytes) -> None:
    assert reason_of(body) in (Rejected.INVALID_DESCRIPTOR, Rejected.WRONG_LENGTH, Rejected.INVALID_URL)


def test_an_entry_for_an_infohash_is_not_a_descriptor() -> None:
    entry = sign_entry(identity(1), HASH, URL, NOW)
    assert reason_of(changed(signature=entry.signature.hex())) == Rejected.INVALID_SIGNATURE


def read_any(body: bytes) -> None:
    """Read any body: it is rejected, or its entry is the one that was signed."""
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
def test_any_body_can_be_read(body: bytes) -> None:
    read_any(body)


@given(tables)
@reproducible
def test_any_fields_can_be_read(fields: dict[str, Any]) -> None:
    read_any(changed(**fields))
    read_any(json.dumps(fields).encode())


@given(st.lists(st.tuples(st.integers(0, len(OWN) - 1), st.integers(0, 255)), min_size=1, max_size=3))
@settings(reproducible, max_examples=300)
def test_a_changed_descriptor_is_rejected_or_still_has_the_signed_entry(made: list[tuple[int, int]]) -> None:
    body = bytearray(OWN)
    for where, byte in made:
        body[where] = byte
    read_any(bytes(body))
