"""The section `[extensions.tokens]`, and the file of secrets that it names."""

from pathlib import Path
from typing import Any, Final

from pydantic import Field, field_validator

from extensions.tokens.token import MAX_SECRETS, MIN_SECRET
from tracker.extension import ConfigError, ExtensionSettings

SECTION: Final = "extensions.tokens"

MAX_FILE: Final = 1 << 16
"""Bytes of the largest file of secrets that is read."""


class TokensSettings(ExtensionSettings):
    """A private tracker: only peers with a token in their URL may join swarms (docs/tokens.md)."""

    enabled: bool = Field(False, description="Whether peers need a token.")
    secrets: list[str] = Field(
        [],
        repr=False,
        description=f"Secrets that sign tokens, of at least {MIN_SECRET} characters. Tokens of all of them are valid; "
        "`peerservers tokens new` uses the first.",
    )
    secrets_file: str = Field(
        "",
        description="File of further secrets, one per line, # begins a comment. It is reloaded when it changes, and "
        "on SIGHUP.",
    )

    @field_validator("secrets", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        # An environment variable with one secret is plain text.
        return [value] if isinstance(value, str) else value

    @field_validator("secrets")
    @classmethod
    def _strong(cls, value: list[str]) -> list[str]:
        error = _fault(value)
        if error:
            raise ValueError(error)
        return value


def read_secrets(name: str) -> list[str]:
    """Return the secrets in a file.

    Raises:
        ConfigError: if the file cannot be read, or has no secrets or weak ones. The text has none of them.
    """
    key = f"{SECTION}.secrets_file"
    path = Path(name)
    try:
        path = path.expanduser()
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{key}: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{key}: {path}: not text in UTF-8") from None
    except (RuntimeError, ValueError) as error:
        # The home directory of an unknown user, or a name that no file can have.
        raise ConfigError(f"{key}: {path}: {error}") from None
    if len(content) > MAX_FILE:
        raise ConfigError(f"{key}: {path}: longer than {MAX_FILE >> 10} KiB")
    lines = [line.strip() for line in text.splitlines()]
    secrets = [line for line in lines if line and not line.startswith("#")]
    error_text = _fault(secrets) if secrets else "no secrets"
    if error_text:
        raise ConfigError(f"{key}: {path}: {error_text}")
    return secrets


def all_secrets(settings: TokensSettings) -> list[str]:
    """Return the secrets of the settings and of their file.

    Raises:
        ConfigError: if there are none, or if the file cannot be used.
    """
    secrets = [*settings.secrets, *(read_secrets(settings.secrets_file) if settings.secrets_file else ())]
    if not secrets:
        raise ConfigError(f"{SECTION}.secrets: a secret is needed, here or in secrets_file")
    return secrets


def _fault(secrets: list[str]) -> str | None:
    """Return the reason why secrets cannot be used, without the secrets, or None."""
    if any(len(secret) < MIN_SECRET for secret in secrets):
        return f"a secret has less than {MIN_SECRET} characters"
    if len(secrets) > MAX_SECRETS:
        return f"more than {MAX_SECRETS} secrets"
    return None
