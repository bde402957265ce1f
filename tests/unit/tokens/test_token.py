"""Tokens: the valid ones of an operator, and all others."""

import hmac
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extensions.tokens.token import LOOKS_LIKE_ONE, Checked, Result, check_token, make_token

OLD, NEW = "an old secret of an operator", "ein neues Geheimnis ä"
HASH, OTHER = "00ff" * 10, "11ee" * 10

secrets = st.text(min_size=16, max_size=40).filter(lambda text: text.isprintable())
hashes = st.binary(min_size=20, max_size=20).map(bytes.hex)


def check(token: str, now: float = 100, info_hash: str = HASH) -> Result:
    return check_token(token, [NEW, OLD], now, info_hash).result


def test_the_signature_is_an_hmac_of_the_text_before_it() -> None:
    text = f"1767225600.{HASH}"
    token = make_token(OLD, 1767225600, HASH)
    assert token == f"{text}.{hmac.new(OLD.encode(), text.encode(), sha256).hexdigest()}"


def test_a_token_that_is_written_down() -> None:
    """So that no change makes the tokens of operators invalid. From `openssl dgst -sha256 -hmac`."""
    signature = "06615f3637ccdb75d843a7353a8fd547907da7d0a7cd783a739a76748253eeaf"
    token = make_token("0123456789abcdef", 1767225600)
    assert token == f"1767225600.{signature}"


@pytest.mark.parametrize("secret", [OLD, NEW])
@pytest.mark.parametrize("info_hash", ["", HASH])
def test_tokens_of_every_secret_are_valid_until_they_expire(secret: str, info_hash: str) -> None:
    token = make_token(secret, 101, info_hash)
    assert check_token(token, [NEW, OLD], 100.9, HASH) == Checked(Result.VALID, 101)
    assert check_token(token, [NEW, OLD], 101, HASH) == Checked(Result.EXPIRED, 101)


def test_a_token_for_one_infohash_is_for_no_other() -> None:
    assert check(make_token(OLD, 200, HASH), info_hash=OTHER) is Result.OTHER_INFOHASH
    assert check(make_token(OLD, 200), info_hash=OTHER) is Result.VALID


def test_a_secret_that_was_removed_signs_nothing_any_more() -> None:
    assert check_token(make_token(OLD, 200), [NEW], 100, HASH) == Checked(Result.INVALID)


@given(secrets, st.integers(0, 10**11 - 1), hashes | st.just(""))
def test_a_token_has_the_expiry_and_the_infohash_that_it_was_made_with(secret: str, expires: int, scope: str) -> None:
    token = make_token(secret, expires, scope)
    assert check_token(token, [secret], expires - 1, scope or HASH) == Checked(Result.VALID, expires)
    assert check_token(token, [secret], expires, scope or HASH).result is Result.EXPIRED
    assert LOOKS_LIKE_ONE.match(token)
    assert token == "".join(character for character in token if character.isascii() and character not in "/?#%&=+ ")


@given(st.data(), st.sampled_from(["", HASH]))
def test_a_token_with_any_other_character_is_invalid(data: st.DataObject, scope: str) -> None:
    token = make_token(OLD, 12345, scope)
    place = data.draw(st.integers(0, len(token) - 1))
    character = data.draw(st.characters())
    changed = token[:place] + character + token[place + 1 :]
    assert check(changed) is (Result.VALID if changed == token else Result.INVALID)


@given(st.text())
def test_any_other_text_is_invalid(token: str) -> None:
    assert check(token) is (Result.INVALID if token else Result.MISSING)


@pytest.mark.parametrize("change", [str.upper, lambda token: f" {token}", lambda token: f"{token}\n", lambda t: t[:-1]])
def test_there_is_one_form_of_a_token(change: object) -> None:
    assert callable(change)
    assert check(change(make_token(OLD, 200, HASH))) is Result.INVALID


def test_a_time_in_milliseconds_is_a_mistake_and_not_a_token_for_ever() -> None:
    assert check(make_token(OLD, 1767225600000)) is Result.INVALID
