"""The keys of records and the hashes of announcements, and the days that they are derived for."""

from hashlib import sha1, sha256

from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.dht.records.keys import DAY, SALTS, announce_hash, day_of, days_to_read, record_key
from extensions.entries import LIFETIME
from tests.unit.dht.entries import HASH, NOW, OTHER_HASH

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


# Days and keys


def test_days_to_read_at_midnight() -> None:
    assert days_to_read(NOW - 0.1) == [19999]
    assert days_to_read(NOW) == [20000, 19999]
    assert days_to_read(NOW + LIFETIME - 0.1) == [20000, 19999]
    assert days_to_read(NOW + LIFETIME) == [20000]


@given(st.floats(NOW - DAY, NOW + DAY), st.floats(0, LIFETIME, exclude_max=True))
@settings(derandomize=True)
def test_the_day_of_a_valid_entry_is_read(signed: float, age: float) -> None:
    assert day_of(signed) in days_to_read(signed + age) or int(signed) + LIFETIME <= signed + age


def test_keys_differ_by_day_and_infohash() -> None:
    records = [(info_hash, day) for info_hash in (HASH, OTHER_HASH) for day in (0, 255, 19999, 20000)]
    assert len({record_key(*which).public_key().public_bytes_raw() for which in records}) == len(records)
    assert len({announce_hash(*which) for which in records}) == len(records)
