"""`peerservers tokens`: makes tokens that the tracker takes, and tells valid ones from others."""

import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from extensions.tokens import token
from extensions.tokens.command import tokens
from extensions.tokens.token import check_token, make_token
from tracker.extension import ConfigError

SECRET = "a secret of an operator"
HASH = "00ff" * 10


def run(*arguments: str, environment: dict[str, str] | None = None) -> Result:
    chosen = {"PEERSERVERS_EXTENSIONS__TOKENS__SECRETS": SECRET} if environment is None else environment
    return CliRunner().invoke(tokens, arguments, env=chosen)


def printed(*arguments: str) -> str:
    ended = run(*arguments)
    assert ended.exit_code == 0, ended.output
    return ended.output.strip()


@pytest.mark.parametrize(
    ("given", "seconds"), [((), 86400), (("--expires-in", "90m"), 5400), (("--expires-in", "30d"), 30 * 86400)]
)
def test_a_new_token_is_valid_for_its_time(given: tuple[str, ...], seconds: int) -> None:
    before = int(time.time())
    checked = check_token(printed("new", *given), [SECRET], before, HASH)
    assert checked.result is token.Result.VALID
    assert before + seconds <= checked.expires <= time.time() + seconds


def test_a_token_for_one_infohash_in_the_url_of_a_tracker() -> None:
    url = printed("new", "--infohash", HASH.upper(), "--url", "wss://tracker.example/")
    match = re.fullmatch(r"wss://tracker\.example/([^/]+)", url)
    assert match
    assert check_token(match[1], [SECRET], time.time(), HASH).result is token.Result.VALID
    assert check_token(match[1], [SECRET], time.time(), "11" * 20).result is token.Result.OTHER_INFOHASH
    assert printed("check", url).startswith("valid; expires ")
    assert printed("check", url).endswith(f"; for {HASH}")


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (make_token(SECRET, 1767225600), "expired; expires 2026-01-01 00:00:00 UTC; for every infohash"),
        (make_token(SECRET, 99999999999, HASH), f"other infohash; expires 5138-11-16 09:46:39 UTC; for {HASH}"),
        (make_token("some other secret", 99999999999), "invalid"),
        ("", "missing"),
        ("a.b.c", "invalid"),
    ],
)
def test_checks_that_fail(made: str, text: str) -> None:
    ended = run("check", "--infohash", "11" * 20, "--", made)
    assert (ended.output.strip(), ended.exit_code) == (text, 1)


def test_the_first_secret_signs_and_a_file_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "secrets").write_text("the secret of today\nthe one of yesterday\n")
    made = printed("new", "--secrets-file", str(tmp_path / "secrets"))
    assert check_token(made, ["the secret of today"], time.time(), HASH).result is token.Result.VALID


@pytest.mark.parametrize(
    "arguments",
    [
        ("new", "--expires-in", "soon"),
        ("new", "--expires-in", "0s"),
        ("new", "--expires-in", "9999999999d"),
        ("new", "--infohash", "ab"),
        ("new", "--url", "https://tracker.example"),
        ("check", "--infohash", "zz" * 20, "x"),
    ],
)
def test_wrong_arguments(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_without_a_secret_there_is_one_line() -> None:
    ended = run("new", environment={})
    assert isinstance(ended.exception, ConfigError)
    assert str(ended.exception) == "extensions.tokens.secrets: a secret is needed, here or in secrets_file"
