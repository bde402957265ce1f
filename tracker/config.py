"""Reads settings from all sources, and writes the default configuration.

The command line takes precedence over the environment (`PEERSERVERS_SERVER__PORT=9000`), the environment over the TOML
file, and the file over the defaults.
"""

import json
import os
import textwrap
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import click
from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from tracker.settings import Section, Settings

ENV_PREFIX: Final = "PEERSERVERS_"

T = TypeVar("T", bound=Section)

config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="PEERSERVERS_CONFIG",
    help="Configuration file (TOML).",
)
"""The option `--config`, for every command that reads settings."""


class ConfigError(Exception):
    """The settings cannot be used. The text is one line that names the key."""


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given on the command line: those that are not None."""
    return {key: value for key, value in options.items() if value is not None}


def load(file: Path | None = None, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Settings:
    """Return the settings from all sources.

    `overrides` are the settings of the command line, as `{section: {key: value}}`. Raises `ConfigError`.
    """
    table: dict[str, Any] = {}
    if file is not None:
        table = _read_toml(file)
        # Only the file is checked strictly, because all values of the environment are text.
        validate(Settings, table, strict=True)

    class Layers(Settings, BaseSettings):
        model_config = SettingsConfigDict(
            extra="forbid", env_prefix=ENV_PREFIX, env_nested_delimiter="__", nested_model_default_partial_update=True
        )

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, table)

    known = tuple(f"{ENV_PREFIX}{name}__".upper() for name in Settings.model_fields)
    for name in os.environ:
        if name.startswith(ENV_PREFIX) and name != "PEERSERVERS_CONFIG" and not name.startswith(known):
            raise ConfigError(f"{name}: unknown key")
    try:
        return Layers(**cast(Any, overrides or {}))
    except ValidationError as error:
        raise _config_error(error) from None
    except SettingsError as error:
        raise ConfigError(f"environment: {error}") from None


def validate(model: type[T], data: Mapping[str, Any], prefix: str = "", strict: bool = False) -> T:
    """Return `data` as a section.

    With `strict`, text is not converted to a number or a boolean. Raises `ConfigError`, which names the first wrong
    key, with `prefix` in front of it.
    """
    try:
        return model.model_validate_json(json.dumps(data, default=str), strict=strict)
    except ValidationError as error:
        raise _config_error(error, prefix) from None


def default_toml(extensions: Mapping[str, type[Section]]) -> str:
    """Return the default configuration with comments, in TOML. `extensions` are the sections of extensions by name."""
    sections = {name: field.annotation for name, field in Settings.model_fields.items() if name != "extensions"}
    sections |= {f"extensions.{name}": section for name, section in extensions.items()}
    lines = ["# Peerservers: every setting with its default."]
    for name, section in sections.items():
        assert section is not None
        lines += ["", f"# {section.__doc__}" if section.__doc__ else "", f"[{name}]"]
        for key, field in section.model_fields.items():
            if field.description:
                lines += textwrap.wrap(field.description, 100, initial_indent="# ", subsequent_indent="# ")
            lines.append(f"{key} = {toml_value(field.get_default(call_default_factory=True))}")
    return "\n".join(lines) + "\n"


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from None


def _config_error(error: ValidationError, prefix: str = "") -> ConfigError:
    first = error.errors(include_url=False)[0]
    # The location in a union also names the members of the union, after the key.
    parts = [str(part) for part in first["loc"] if "[" not in str(part) and part not in ("str", "int")]
    key = ".".join([prefix, *parts] if prefix else parts)
    text = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
    return ConfigError(f"{key}: {text}" if key else text)


def toml_value(value: Any) -> str:
    """Return the value of a setting in TOML."""
    # TOML writes strings, numbers, lists and booleans as JSON does.
    return json.dumps(str(value) if isinstance(value, Path) else value)
