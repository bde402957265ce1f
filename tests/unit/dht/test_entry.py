"""Entries, and the values of slots that hold them, whatever bytes a slot has."""

from collections import Counter
from dataclasses import replace
from typing import Any

import bencodepy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.dht.records.slots import MAX_ENTRIES, MAX_VALUE, decode_slot, encode_slot
from extensions.entries import LIFETIME, MAX_ENTRY, SKEW, Rejected, check_entry, merge, sign_entry
from extensions.trackers import MAX_URL, RENDEZVOUS, TrackerEntry
from tests.unit.dht.entries import HASH, NOW, OTHER_HASH, URL, entry_of, identity, slot_value, unsigned, wire

PUBLIC_KEY = bytes.fromhex("8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c")

reproducible = settings(derandomize=True)


def decoded(value: object, info_hash: bytes = HASH, now: float = NOW) -> tuple[list[TrackerEntry], dict[Rejected, int]]:
    rejected: Counter[Rejected] = Counter()
    return decode_slot(value, b"r0", info_hash, now, rejected)[0], dict(rejected)


# Encoding


def test_an_encoded_slot_can_be_decoded() -> None:
    entries = [entry_of(1), entry_of(2, 60), entry_of(3, 3600, "ws://[2001:db8::1]:8000/announce?a=b")]
    assert decoded(encode_slot(entries)) == (entries, {})
    assert decoded(encode_slot([])) == ([], {})


def test_entries_that_end_last_are_written_first() -> None:
    entries = [entry_of(1, 300), entry_of(2, 100), entry_of(3, 200)]
    assert encode_slot(entries) == slot_value(*(wire(entries[n]) for n in (1, 2, 0)))


def test_entries_that_do_not_fit_are_not_encoded() -> None:
    entries = [unsigned(number) for number in range(7)]
    assert len(encode_slot(entries[:6])) <= MAX_VALUE
    with pytest.raises(ValueError, match="more than a slot holds"):
        encode_slot(entries)


def test_max_entry_is_the_size_of_the_longest_entry() -> None:
    assert len(bencodepy.encode(wire(unsigned(1, url="wss://".ljust(MAX_URL, "a"))))) == MAX_ENTRY


def test_an_invalid_url_is_not_signed() -> None:
    with pytest.raises(ValueError, match="not a tracker's URL"):
        sign_entry(identity(1), HASH, "http://tracker.example.org", NOW)


# The example of the specification, computed with nothing but SHA and Ed25519.


def test_the_example_of_an_entry() -> None:
    signature = identity(1).sign(
        b"d1:ei1728007200e1:h20:%b1:i32:%b1:n19:peerservers/1 entry1:u25:wss://tracker.example.orge"
        % (HASH, PUBLIC_KEY)
    )
    assert signature.hex() == (
        "6541677ef109d1612f6f8279e931725de60da6d6cb05efc47b85f831d2627606"
        "4fdb8addabd6a86550c233db128aa2bedb2d7cb3be552ea8458681cdfc5faa09"
    )
    by_hand = b"l32:%bi1728007200e25:wss://tracker.example.org64:%be" % (PUBLIC_KEY, signature)
    assert encode_slot([entry_of(1)]) == b"d1:el%be1:vi1ee" % by_hand
    assert len(by_hand) == 144


# Decoding


def each(*values: Any) -> tuple[Any, ...]:
    return values


def all_of(table: dict[Rejected, list[Any]]) -> list[tuple[Rejected, Any]]:
    return [(reason, value) for reason, values in table.items() for value in values]


VERSION = b"d1:ele1:vi%bee"
INVALID_VALUES: dict[Rejected, list[Any]] = {
    Rejected.NOT_A_STRING: [None, 5, "text", [], {}, [b"d1:ele1:vi1ee"], {b"e": [], b"v": 1}],
    Rejected.TOO_LONG: [slot_value(p=b"x" * MAX_VALUE), bytes(MAX_VALUE + 1)],
    Rejected.NOT_BENCODE: [
        *(
            b"",
            b"x",
            VERSION % b"-0",
            VERSION % b" 1",
            VERSION % b"+1",
            VERSION % b"1" + b"e",
            (VERSION % b"1")[:-1],
            b"di1ei1ee",
        ),
        *(text * (MAX_VALUE // len(text)) for text in (b"l", b"d", b"1", b"d0:")),
    ],
    Rejected.NOT_CANONICAL: [b"d1:vi1e1:elee", b"d1:ele1:ele1:vi1ee"],
    Rejected.WRONG_TYPE: [
        *(bencodepy.encode(value) for value in each(5, b"", [], {b"v": 1}, {b"e": {}, b"v": 1})),
        *(slot_value(item) for item in each(5, b"", [], {}, wire(entry_of(1))[:3], [*wire(entry_of(1)), b""])),
        *(slot_value([*wire(entry_of(1))[:n], [], *wire(entry_of(1))[n + 1 :]]) for n in range(4)),
    ],
    Rejected.WRONG_VERSION: [bencodepy.encode({b"e": [], **table}) for table in each({}, {b"v": 2}, {b"v": b"1"})],
}
INVALID_FIELDS: dict[Rejected, list[Any]] = {
    Rejected.WRONG_LENGTH: [{"tracker_id": "ab" * 31}, {"tracker_id": ""}, {"signature": bytes(65)}],
    Rejected.INVALID_URL: [{"url": "https://a"}, {"url": "wss://é"}, {"url": ""}],
    Rejected.EXPIRED: [{"expires": when} for when in (NOW, 0, -1, -(10**300))],
    Rejected.FAR_EXPIRY: [{"expires": when} for when in (NOW + LIFETIME + SKEW + 1, 2**64, 10**700)],
    Rejected.INVALID_SIGNATURE: [
        *({"signature": bytes(64)}, {"expires": NOW + 1}, {"url": URL + "/"}),
        # The id of another tracker, and bytes that are no point of the curve.
        *({"tracker_id": tracker_id} for tracker_id in (entry_of(2).tracker_id, "ff" * 32)),
    ],
}


@pytest.mark.parametrize(("reason", "value"), all_of(INVALID_VALUES))
def test_an_invalid_value_is_ignored_and_counted(reason: Rejected, value: object) -> None:
    assert decoded(value) == ([], {reason: 1})


@pytest.mark.parametrize(("reason", "changed"), all_of(INVALID_FIELDS))
def test_an_invalid_entry_is_ignored_and_counted(reason: Rejected, changed: dict[str, Any]) -> None:
    assert decoded(slot_value(wire(replace(entry_of(1), **changed)))) == ([], {reason: 1})


def test_valid_entries_beside_invalid_ones_count() -> None:
    good, late = entry_of(1), entry_of(2, LIFETIME)
    assert decoded(slot_value(5, wire(late), wire(good))) == ([good], {Rejected.WRONG_TYPE: 1, Rejected.EXPIRED: 1})


def test_entries_beyond_the_limit_are_not_read() -> None:
    value = slot_value(*[0] * MAX_ENTRIES, wire(entry_of(1)))
    assert decoded(value) == ([], {Rejected.WRONG_TYPE: MAX_ENTRIES, Rejected.TOO_MANY: 1})


def test_another_clock_may_be_ahead_by_the_skew() -> None:
    assert decoded(encode_slot([entry_of(1, -SKEW)]))[0] == [entry_of(1, -SKEW)]
    assert decoded(encode_slot([entry_of(1)]), now=NOW + LIFETIME - 0.5)[0] == [entry_of(1)]


def test_unknown_keys_of_a_value_are_ignored() -> None:
    assert decoded(slot_value(wire(entry_of(1)), f=5, z=[b"new"])) == ([entry_of(1)], {})


def test_an_entry_of_the_rendezvous_is_a_descriptor() -> None:
    entry = sign_entry(identity(1), RENDEZVOUS, URL, NOW)
    assert entry == sign_entry(identity(1), b"", URL, NOW)
    assert check_entry(entry, b"", NOW) is check_entry(entry, RENDEZVOUS, NOW) is None
    assert check_entry(entry, HASH, NOW) is Rejected.INVALID_SIGNATURE


@pytest.mark.parametrize("form", ["upper", "spaces", "no digits", "short"])
def test_other_forms_of_an_id_are_invalid(form: str) -> None:
    text = entry_of(1).tracker_id
    changed = {
        "upper": text.upper(),
        "spaces": " ".join(text[at : at + 2] for at in range(0, 64, 2)),
        "no digits": "g" * 64,
        "short": text[:-2],
    }
    # This one has letters among its digits.
    assert text.upper() != text
    assert check_entry(replace(entry_of(1), tracker_id=changed[form]), HASH, NOW) is Rejected.WRONG_LENGTH


def test_an_entry_is_valid_for_its_infohash_only() -> None:
    value = encode_slot([entry_of(1)])
    assert decoded(value, OTHER_HASH) == ([], {Rejected.INVALID_SIGNATURE: 1})
    assert decoded(value, b"") == ([], {Rejected.INVALID_SIGNATURE: 1})


def decode_any(value: object) -> list[TrackerEntry]:
    """Decode any value, check the result without the code under test, and return it."""
    entries, rejected = decoded(value)
    assert entries or rejected or value == slot_value()
    assert not entries or (isinstance(value, bytes) and len(value) <= MAX_VALUE)
    assert len({entry.tracker_id for entry in entries}) == len(entries)
    for entry in entries:
        assert NOW < entry.expires <= NOW + LIFETIME + SKEW
        tracker_id, expires, url, signature = wire(entry)
        identity_of = {key.public_key().public_bytes_raw(): key for key in map(identity, range(1, 8))}
        fields = {b"e": expires, b"h": HASH, b"i": tracker_id, b"n": b"peerservers/1 entry", b"u": url}
        assert identity_of[tracker_id].sign(bencodepy.encode(fields)) == signature
    return entries


ORIGINALS = [*(entry_of(number, number * 60) for number in range(1, 6)), entry_of(6, LIFETIME)]
scalars = st.integers() | st.binary(max_size=64) | st.sampled_from([*wire(ORIGINALS[0]), 1, b"e", b"v"])
objects = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.binary(max_size=2), inner, max_size=4)
)
changes = st.lists(
    st.tuples(st.sampled_from(["flip", "insert", "delete"]), st.integers(0, MAX_VALUE), st.integers(1, 255)), max_size=3
)


@given(st.binary(max_size=1100))
@reproducible
def test_any_bytes_can_be_read(value: bytes) -> None:
    assert decode_any(value) == []


@given(objects, st.lists(objects, max_size=20))
@settings(reproducible, max_examples=60)
def test_any_object_can_be_read(value: object, items: list[object]) -> None:
    assert decode_any(value) == []
    decode_any(bencodepy.encode(value))
    decode_any(slot_value(*items))


@given(changes)
@reproducible
def test_a_changed_value_yields_only_entries_that_were_signed(made: list[tuple[str, int, int]]) -> None:
    value = bytearray(encode_slot(ORIGINALS))
    for kind, where, byte in made:
        where %= len(value)
        if kind == "flip":
            value[where] ^= byte
        elif kind == "insert":
            value.insert(where, byte)
        else:
            del value[where]
    assert set(decode_any(bytes(value))) <= set(ORIGINALS[:5])


def test_the_entry_of_a_tracker_that_ends_last_is_kept() -> None:
    old, new, other = entry_of(1, 60), entry_of(1, 30), entry_of(2, 45)
    assert merge([old, other, new]) == merge([new, other, old]) == [new, other]
    assert decoded(slot_value(wire(old), wire(other), wire(new)))[0] == [new, other]


def test_the_signature_decides_between_entries_that_end_together() -> None:
    one, two = entry_of(1), entry_of(1, url=URL + "/")
    assert merge([one, two]) == merge([two, one]) == [max(one, two, key=lambda e: e.signature)]
