"""Ids: which ones a swarm takes, their keys, and their form in lists of an operator."""

import json
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vectors import read_vectors
from tracker.protocol.ids import is_any_id, is_id, parse_info_hash, swarm_key

NAMED = read_vectors().named
any_ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64)


@given(st.text(max_size=80))
def test_binary_and_text_ids(text: str) -> None:
    assert is_id(text) == (len(text) == 20 and all(ord(letter) < 256 for letter in text))
    assert is_any_id(text) == (1 <= len(text) <= 64 and not any("\ud800" <= letter <= "\udfff" for letter in text))


@pytest.mark.parametrize("value", [None, 5, b"h" * 20, ["h" * 20], True])
def test_only_text_is_an_id(value: object) -> None:
    assert not is_id(value)
    assert not is_any_id(value)


def test_the_key_of_a_binary_swarm_is_its_infohash() -> None:
    assert swarm_key("\x00\xff" * 10) == b"\x00\xff" * 10


@pytest.mark.parametrize("kind", ["text", "unicode"])
def test_the_key_of_a_text_swarm_is_that_of_the_document(kind: str) -> None:
    info_hash, key = NAMED[f"{kind}_info_hash"], NAMED[f"{kind}_key"]
    assert swarm_key(info_hash).hex() == key
    assert sha256(b"peerservers/1 text id" + info_hash.encode()).hexdigest()[:40] == key


@given(st.lists(any_ids, min_size=2, max_size=5, unique=True))
def test_swarms_have_distinct_keys_of_20_bytes(info_hashes: list[str]) -> None:
    keys = {swarm_key(info_hash) for info_hash in info_hashes}
    assert len(keys) == len(info_hashes)
    assert {len(key) for key in keys} == {20}


@given(any_ids, st.booleans())
def test_an_operator_writes_any_id_in_quotes(info_hash: str, ascii_json: bool) -> None:
    assert parse_info_hash(json.dumps(info_hash, ensure_ascii=ascii_json)) == info_hash


@given(st.binary(min_size=20, max_size=20))
def test_an_operator_writes_an_infohash_in_hexadecimal(info_hash: bytes) -> None:
    for text in (info_hash.hex(), info_hash.hex().upper()):
        assert parse_info_hash(text) == info_hash.decode("latin-1")


@pytest.mark.parametrize(
    "text",
    ["", "name", '"', '""', '"a', '"a" b', 'x"a"', '"' + "a" * 65 + '"', '"\\ud800"', '"\ud800"', "[1]", "1" * 39],
)
def test_what_is_neither_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="40 hexadecimal digits"):
        parse_info_hash(text)


@given(st.text())
def test_any_text_is_an_info_hash_or_an_error(text: str) -> None:
    for argument in (text, f'"{text}"'):
        try:
            assert is_any_id(parse_info_hash(argument))
        except ValueError:
            continue
