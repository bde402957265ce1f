"""Access lists: the infohashes that are served, and the origins that may connect."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tracker.access.lists import AccessLists
from tracker.config import ConfigError
from tracker.protocol.ids import swarm_key
from tracker.settings import Access

A, B, C = "a" * 20, "é" * 20, "\xff\x00" * 10


def hexadecimal(info_hash: str) -> str:
    return info_hash.encode("latin-1").hex()


def lists(**settings: Any) -> AccessLists:
    return AccessLists(Access(**settings))


def mistake(file: str, key: str = "deny_infohashes") -> str:
    with pytest.raises(ConfigError) as caught:
        lists(**{key: file})
    text = str(caught.value)
    assert text.startswith(f"access.{key}: ")
    assert "\n" not in text
    return text


def test_without_lists_every_infohash_is_served() -> None:
    assert lists().serves(A)
    assert lists().admits("https://example.org")


def test_comments_blank_lines_case_and_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "deny"
    file.write_bytes(
        b"\xef\xbb\xbf# what a rights holder asked for\r\n\r\n"
        + f"  {hexadecimal(A).upper()}  # one\r\n{hexadecimal(B)}#two\n\n".encode()
        + f"{hexadecimal(A)}\n#é\n{hexadecimal(C)}".encode()
    )
    denying = lists(deny_infohashes=str(file))
    assert [denying.serves(info_hash) for info_hash in (A, B, C, "x" * 20)] == [False, False, False, True]


def test_a_byte_order_mark_before_an_infohash(tmp_path: Path) -> None:
    file = tmp_path / "deny"
    file.write_bytes(b"\xef\xbb\xbf" + hexadecimal(A).encode())
    assert not lists(deny_infohashes=str(file)).serves(A)


def test_text_swarms_are_listed_in_quotes(tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_text(
        '# rooms\n  "a #1 room" # the first\n"\\u00fc\\"\\\\"\n"aaaaaaaaaaaaaaaaaaaa"#infohash of trystero\n'
    )
    served = [lists(allow_infohashes=str(file)).serves(text) for text in ("a #1 room", 'ü"\\', A, "a", B, "Ω" * 20)]
    assert served == [True, True, True, False, False, False]
    served = [lists(deny_infohashes=str(file)).serves(text) for text in ("a #1 room", 'ü"\\', A, "a", B, "Ω" * 20)]
    assert served == [False, False, False, True, True, True]


def test_a_text_swarm_is_not_listed_by_the_hexadecimal_digits_of_an_infohash(tmp_path: Path) -> None:
    file = tmp_path / "list"
    key = swarm_key("a room")
    file.write_text(f"{key.hex()}\n")
    allowing = lists(allow_infohashes=str(file))
    assert allowing.serves(key.decode("latin-1"))
    assert not allowing.serves("a room")
    assert not allowing.serves(key.hex())


def test_an_infohash_must_be_allowed_and_not_denied(tmp_path: Path) -> None:
    allow, deny = tmp_path / "allow", tmp_path / "deny"
    allow.write_text(f"{hexadecimal(A)}\n{hexadecimal(B)}\n")
    deny.write_text(hexadecimal(B))
    both = lists(allow_infohashes=str(allow), deny_infohashes=str(deny))
    assert [both.serves(info_hash) for info_hash in (A, B, C)] == [True, False, False]


def test_an_empty_allow_list_serves_nothing_and_an_empty_deny_list_denies_nothing(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("# nothing yet\n")
    assert not lists(allow_infohashes=str(empty)).serves(A)
    assert lists(deny_infohashes=str(empty)).serves(A)


@pytest.mark.parametrize(
    "line",
    [
        *("a" * 39, "a" * 41, "g" * 40, f"{'a' * 40} {'b' * 40}", f"{'a' * 40},", "0x" + "a" * 38, "é" * 40, "٣" * 40),
        *('"a', '"a" "b"', "'a'", '""', f'"{"a" * 65}"', '"\\ud800"', '"\\x"', "a room"),
    ],
)
@pytest.mark.parametrize("key", ["allow_infohashes", "deny_infohashes"])
def test_a_bad_line_is_named(tmp_path: Path, key: str, line: str) -> None:
    file = tmp_path / "list"
    file.write_text(f"# first\n{'b' * 40}\n{line}\n")
    assert f"{file}, line 3:" in mistake(str(file), key)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "No such file" in mistake(str(tmp_path / "nothing"))
    assert "directory" in mistake(str(tmp_path))
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe" + b"a" * 40)
    assert "not text in UTF-8" in mistake(str(binary))
    mistake("~no-such-user/list")
    mistake("a\x00b")
    private = tmp_path / "private"
    private.write_text("")
    private.chmod(0)
    if os.geteuid():
        assert "Permission denied" in mistake(str(private))


def test_a_list_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "long"
    with file.open("wb") as made:
        made.truncate((1 << 28) + 1)
    assert "256 MiB" in mistake(str(file))


def test_a_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "deny").write_text(hexadecimal(A))
    assert not lists(deny_infohashes="~/deny").serves(A)


@pytest.mark.parametrize(
    ("pattern", "origin", "matches"),
    [
        ("https://example.org", "https://example.org", True),
        ("https://Example.org/", "HTTPS://EXAMPLE.ORG", True),
        ("https://example.org", "http://example.org", False),
        ("https://example.org", "https://example.org:8443", False),
        ("https://example.org", "https://example.org.evil.test", False),
        ("https://example.org", "https://exampleXorg", False),
        ("https://*.example.org", "https://a.b.example.org", True),
        ("https://*.example.org", "https://example.org", False),
        ("https://*.example.org", "https://evil.test/.example.org.evil.test", False),
        ("*", "null", True),
        ("null", "null", True),
        ("http://localhost:*", "http://localhost:3000", True),
        ("http://[::1]:*", "http://[::1]:3000", True),
        ("http://[::1]", "http://:", False),
        ("http://[!a]", "http://b", False),
        ("https://example.org", "https://example.org\n", False),
        ("https://(a|b).org", "https://a.org", False),
    ],
)
def test_origins(pattern: str, origin: str, matches: bool) -> None:
    assert lists(allow_origins=[pattern]).admits(origin) is matches
    assert lists(deny_origins=[pattern]).admits(origin) is not matches


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("example.org", '"https://example.org"'),
        ("example.org/path", '"https://example.org"'),
        ("https://example.org/path", '"https://example.org"'),
        ("https://example.org ", '"https://example.org"'),
        ("http://a?c", ""),
        ("https://", ""),
        ("", ""),
    ],
)
@pytest.mark.parametrize("key", ["allow_origins", "deny_origins"])
def test_a_pattern_that_no_origin_has_is_a_mistake(key: str, pattern: str, hint: str) -> None:
    with pytest.raises(ValidationError, match="not an origin") as caught:
        Access.model_validate({key: [pattern]})
    assert ("did you mean" in str(caught.value)) is bool(hint)
    assert hint in str(caught.value)


def test_several_patterns_and_denied_over_allowed() -> None:
    some = lists(
        allow_origins=["https://*.example.org", "https://*.*.example.net", "https://example.com"],
        deny_origins=["https://bad.*", "https://*.worse.*"],
    )
    asked = {
        "https://a.example.org": True,
        "https://a.b.example.net": True,
        "https://example.com": True,
        "https://bad.example.org": False,
        "https://a.worse.example.org": False,
        "https://other.test": False,
        "null": False,
        "": False,
    }
    assert {origin: some.admits(origin) for origin in asked} == asked


def test_a_client_without_an_origin_is_admitted() -> None:
    assert lists(allow_origins=["https://example.org"]).admits(None)
    assert lists(deny_origins=["*"]).admits(None)


HOSTS = st.text(st.characters(exclude_characters="/?#", exclude_categories=("C", "Z")), min_size=1, max_size=12)


@given(st.lists(HOSTS, max_size=5), st.text(max_size=20))
def test_any_pattern_can_be_used(hosts: list[str], origin: str) -> None:
    patterns = [f"https://{host}" for host in hosts]
    access = lists(allow_origins=patterns, deny_origins=patterns)
    assert access.admits(origin) is (not patterns)


@given(st.text(alphabet="abc[]!^-.|()\\{}+$", min_size=1, max_size=12))
def test_only_the_star_is_special(host: str) -> None:
    text = f"https://{host}"
    assert lists(allow_origins=[text]).admits(text)
    assert not lists(allow_origins=[text]).admits(text + "x")
    assert lists(allow_origins=[text + "*"]).admits(text + "x")


def test_many_wildcards_take_no_exponential_time() -> None:
    """In exponential time, this would not end."""
    assert not lists(allow_origins=["*a" * 30 + "b"]).admits("a" * 10_000)
