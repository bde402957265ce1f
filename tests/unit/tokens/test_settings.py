"""The secrets of the extension `tokens`: from the settings and from a file, with one line for each mistake."""

from pathlib import Path
from typing import Any

import pytest

from extensions.tokens.settings import MAX_FILE, SECTION, TokensSettings, all_secrets, read_secrets
from extensions.tokens.token import MAX_SECRETS
from tracker.extension import ConfigError, validate

ONE, TWO = "a secret of an operator", "another # one of them"


def section(**table: Any) -> TokensSettings:
    return validate(TokensSettings, table, SECTION)


def test_it_is_off_unless_it_is_enabled() -> None:
    assert not TokensSettings().enabled


def test_a_file_has_one_secret_per_line(tmp_path: Path) -> None:
    file = tmp_path / "secrets"
    file.write_bytes(f"\ufeff# the newest first\r\n\r\n {ONE} \r\n{TWO}".encode())
    assert read_secrets(str(file)) == [ONE, TWO]
    assert all_secrets(section(secrets=["one in the settings"], secrets_file=str(file))) == [
        "one in the settings",
        ONE,
        TWO,
    ]


def test_a_single_secret_may_be_plain_text_as_in_the_environment() -> None:
    assert section(secrets=ONE).secrets == [ONE]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "no secrets"),
        (b"# only a comment\n", "no secrets"),
        (b"short\n", "a secret has less than 16 characters"),
        (b"\xff" * 32, "not text in UTF-8"),
        (b"x" * (MAX_FILE + 1), "longer than 64 KiB"),
        ("\n".join(f"the secret number {n}" for n in range(MAX_SECRETS + 1)).encode(), "more than 16 secrets"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, content: bytes, fault: str) -> None:
    file = tmp_path / "secrets"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_secrets(str(file))
    assert str(caught.value) == f"extensions.tokens.secrets_file: {file}: {fault}"


@pytest.mark.parametrize("name", ["/nowhere/secrets", "/", "~nobody-of-that-name/x", "a\0b"])
def test_a_file_that_cannot_be_read(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^extensions\.tokens\.secrets_file: "):
        read_secrets(name)


@pytest.mark.parametrize("secrets", ["hunter2hunter2", ["hunter2"], [ONE] * (MAX_SECRETS + 1)])
def test_wrong_secrets_are_refused_and_not_printed(secrets: Any) -> None:
    with pytest.raises(ConfigError, match=r"^extensions\.tokens\.secrets: ") as caught:
        section(secrets=secrets)
    assert "hunter" not in str(caught.value)
    assert ONE not in str(caught.value)


def test_without_any_secret_there_is_no_extension() -> None:
    with pytest.raises(ConfigError, match=r"a secret is needed"):
        all_secrets(section())
