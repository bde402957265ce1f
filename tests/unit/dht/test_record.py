"""Entries, keys and values of slots, whatever bytes a slot has."""

from collections import Counter
from dataclasses import replace
from hashlib import sha1, sha256
from typing import Any
from urllib.parse import urlsplit

import bencodepy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.dht.records.entry import LIFETIME, MAX_ENTRY, SKEW, Rejected, merge, sign_entry
from extensions.dht.records.keys import DAY, SALTS, announce_hash, day_of, days_to_read, record_key
from extensions.dht.records.slots import MAX_ENTRIES, MAX_VALUE, decode_slot, encode_slot
from extensions.trackers import MAX_URL, RENDEZVOUS, TrackerEntry, is_url
from tests.unit.dht.entries import HASH, NOW, OTHER_HASH, URL, entry_of, identity, slot_value, unsigned, wire

PUBLIC_KEY = bytes.fromhex("8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c")

reproducible = settings(derandomize=True)


def decoded(value: object, info_hash: bytes = HASH, now: float = NOW) -> tuple[list[TrackerEntry], dict[Rejected, int]]:
    rejected: Counter[Rejected] = Counter()
    return decode_slot(value, info_hash, now, rejected), dict(rejected)


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


# The examples of the specification, computed with nothing but SHA and Ed25519.


def test_the_example_of_a_record_key() -> None:
    public_key = record_key(HASH, 20000).public_key().public_bytes_raw()
    assert public_key.hex() == "d63e7e6fe3b8d6ef8a651e5f0d6972c95c69b9822abfb9ca6536e64550996fca"
    by_hand = sha256(b"peerservers/1 record\x00\x00\x4e\x20" + HASH).digest()
    assert record_key(HASH, 20000).private_bytes_raw() == by_hand
    assert [sha1(public_key + salt).hexdigest() for salt in SALTS] == [
        "40c039f9074f7f0fc0fc869645f53b658ea79632",
        "5a9927c9af1cbbd5c5011a7b97708fb1b0b58033",
        "c665d1afada62ccf8ddd1d80c4497ca4371f3983",
    ]


def test_the_example_of_an_announce_hash() -> None:
    assert announce_hash(HASH, 20000).hex() == "53b0fea809bcb576123a2a9e0287753fba05b196"
    assert sha256(b"peerservers/1 announce\x00\x00\x4e\x20" + HASH).digest()[:20] == announce_hash(HASH, 20000)


def test_the_rendezvous() -> None:
    assert RENDEZVOUS.hex() == "1c11dfefb99e844c1a81cdf3895a10bedfc761d0"


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
        *(b"", b"x", VERSION % b"-0", VERSION % b"1" + b"e", (VERSION % b"1")[:-1], b"di1ei1ee"),
        *(text * (MAX_VALUE // len(text)) for text in (b"l", b"d", b"1", b"d0:")),
    ],
    Rejected.NOT_CANONICAL: [b"d1:vi1e1:elee", b"d1:ele1:ele1:vi1ee", VERSION % b" 1", VERSION % b"+1"],
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


# Days and keys


def test_days_to_read_at_midnight() -> None:
    assert days_to_read(NOW - 0.1) == [19999]
    assert days_to_read(NOW) == [20000, 19999]
    assert days_to_read(NOW + LIFETIME - 0.1) == [20000, 19999]
    assert days_to_read(NOW + LIFETIME) == [20000]


@given(st.floats(NOW - DAY, NOW + DAY), st.floats(0, LIFETIME, exclude_max=True))
@reproducible
def test_the_day_of_a_valid_entry_is_read(signed: float, age: float) -> None:
    assert day_of(signed) in days_to_read(signed + age) or int(signed) + LIFETIME <= signed + age


def test_keys_differ_by_day_and_infohash() -> None:
    records = [(info_hash, day) for info_hash in (HASH, OTHER_HASH) for day in (0, 255, 19999, 20000)]
    assert len({record_key(*which).public_key().public_bytes_raw() for which in records}) == len(records)
    assert len({announce_hash(*which) for which in records}) == len(records)


# URLs

LONG = "wss://a/".ljust(MAX_URL, "a")
GOOD = """
    wss://a ws://a wss://a:1 wss://a.example.org:443/b?c=%20d&e=~f wss://[2001:db8::1]:65535/ ws://192.0.2.1:8000
    wss://a?b wss://a/?b?c wss://a_b.-/ wss://A:00080 wss://a/!$%&()*+,./:;=?[]^_{|}~- wss://[::1]?a wss://[a] wss://[.]
"""
BAD = """
    wss wss: wss:// wss:/// wss://:443 wss://?a wss:a //a http://a https://a ftp://a WSS://a Wss://a data:wss://a
    wss://user@a wss://user:word@a wss://@a wss://:@a wss://a/@ wss://a# wss://a/#b wss://# wss://a\\b wss://a/<b>
    wss://a: wss://a:/ wss://a:0 wss://a:00 wss://a:65536 wss://a:70000 wss://a:000443 wss://a:-1 wss://a:b wss://a:+80
    wss://a:8:9 wss://a:８０ wss://a:80a wss://é wss://a/é wss://a/\ufffd wss://а wss://a\u2044b wss://a%20 wss://a,b
    wss://a&b/ wss://a!/ wss://a;b wss://a=b wss://[::1 wss://::1] wss://[] wss://[g] wss://[fe80::1%eth0] wss://[[a]]
    wss://[::1].example.org/ wss://a[::1]/ wss://[::1]a:80/ wss://[::1]: wss://a/" wss://a/' wss://a/`
"""
BLANKS = ["", *(f"wss://a{character}" for character in " \n\r\t\0\x7f\x1b"), " wss://a", "wss://\ta", "wss://a b/"]


@pytest.mark.parametrize("url", [*GOOD.split(), LONG])
def test_valid_urls(url: str) -> None:
    assert is_url(url)


@pytest.mark.parametrize("url", [*BAD.split(), *BLANKS, LONG + "a", "wss://a/\n", LONG[:-1] + "\n"])
def test_invalid_urls(url: str) -> None:
    assert not is_url(url)


@given(st.text(max_size=MAX_URL) | st.text("wsW:/[]@?#.a0-9%é\n ", max_size=20).map("wss://".__add__))
@settings(reproducible, max_examples=300)
def test_a_valid_url_can_be_split(text: str) -> None:
    # Text in brackets may be no address: connecting fails then.
    if is_url(text) and "//[" not in text:
        parts = urlsplit(text)
        assert text.isascii()
        assert text.isprintable()
        assert parts.scheme in ("ws", "wss")
        assert parts.hostname
        assert (parts.username, parts.password, parts.fragment) == (None, None, "")
        assert parts.port is None or parts.port > 0
