"""`peerservers tokens`: make and check tokens."""

import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from extensions.tokens.settings import SECTION, TokensSettings, all_secrets
from extensions.tokens.token import Result, check_token, make_token
from tracker.extension import config_option, given, load, validate

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}

MAX_SECONDS: Final = 100 * 365 * 86400


def _duration(_context: click.Context, _parameter: click.Parameter, value: str) -> int:
    match = re.fullmatch(r"([0-9]{1,10})([smhd])", value)
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    if not 0 < seconds <= MAX_SECONDS:
        raise click.BadParameter("not a time like 90m, 12h or 30d, up to 100 years")
    return seconds


def _infohash(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str:
    if value is None:
        return ""
    if not re.fullmatch("[0-9a-fA-F]{40}", value):
        raise click.BadParameter("not an infohash of 40 hexadecimal digits")
    return value.lower()


infohash_option = click.option("--infohash", callback=_infohash, help="The only infohash (40 hexadecimal digits).")


@click.group()
def tokens() -> None:
    """Make and check the tokens of a private tracker (extensions.tokens)."""


@tokens.command()
@config_option
@click.option("--secrets-file", type=click.Path(dir_okay=False), help="File of secrets.")
@click.option("--expires-in", default="24h", show_default=True, callback=_duration, help="Such as 90m, 12h or 30d.")
@infohash_option
@click.option("--url", help="URL of the tracker, to print it with the token.")
def new(config_file: Path | None, secrets_file: str | None, expires_in: int, infohash: str, url: str | None) -> None:
    """Print a new token, or a URL with one, signed with the first secret."""
    if url is not None and not url.startswith(("ws://", "wss://")):
        raise click.BadParameter("must start with ws:// or wss://", param_hint="--url")
    token = make_token(_secrets(config_file, secrets_file)[0], int(time.time()) + expires_in, infohash)
    click.echo(f"{url.rstrip('/')}/{token}" if url else token)


@tokens.command()
@config_option
@click.option("--secrets-file", type=click.Path(dir_okay=False), help="File of secrets.")
@infohash_option
@click.argument("token")
def check(config_file: Path | None, secrets_file: str | None, infohash: str, token: str) -> None:
    """Print whether TOKEN, or the token at the end of a URL, is valid. The exit code is 0 if it is, otherwise 1."""
    token = token.rstrip("/").rpartition("/")[2].rpartition("token=")[2]
    # Without an infohash, check the token for its own.
    own = token.split(".")[1] if token.count(".") == 2 else ""
    checked = check_token(token, _secrets(config_file, secrets_file), time.time(), infohash or own)
    text = checked.result.value.replace("_", " ")
    if checked.expires:
        expires = datetime.fromtimestamp(checked.expires, UTC)
        text += f"; expires {expires:%Y-%m-%d %H:%M:%S} UTC; for {own or 'every infohash'}"
    click.echo(text)
    sys.exit(0 if checked.result is Result.VALID else 1)


def _secrets(config_file: Path | None, secrets_file: str | None) -> list[str]:
    """Return the secrets. Raise `ConfigError` if there are none."""
    table: dict[str, Any] = load(config_file, {}, {"tokens": TokensSettings}).extensions.get("tokens", {})
    if secrets_file:
        # The file alone: its first secret signs.
        table = {**table, "secrets": []}
    return all_secrets(validate(TokensSettings, {**table, **given({"secrets_file": secrets_file})}, SECTION))
